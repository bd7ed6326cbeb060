"""One event of a run: its types, its fields, and its line of JSON with a checksum.

A run is an append-only list of events. Each is one line of JSON whose last member is the CRC-32 of all bytes
before it, so that a torn or flipped line is found when it is read and never taken for a result.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from numbers import Integral, Real
from typing import Any, NoReturn

from trainable.errors import SchemaError, StoreError

SCHEMA = 1
"""Version of the event log that this code writes; it reads this one and every older one."""

_INT: frozenset[type] = frozenset({int})
_NUM: frozenset[type] = frozenset({int, float})
_STR: frozenset[type] = frozenset({str})
_DICT: frozenset[type] = frozenset({dict})
_LIST: frozenset[type] = frozenset({list})
_NONE: frozenset[type] = frozenset({type(None)})
_OPT_INT, _OPT_NUM, _OPT_STR, _OPT_DICT = (kind | _NONE for kind in (_INT, _NUM, _STR, _DICT))

FIELDS: dict[str, tuple[dict[str, frozenset[type]], dict[str, frozenset[type]]]] = {
    "run_opened": (
        {"schema": _INT, "run_id": _STR, "name": _STR, "config": _DICT, "metrics": _LIST},
        {"generation": _INT, "versions": _DICT, "git_revision": _OPT_STR, "data_hash": _OPT_STR,
         "space_hash": _OPT_STR, "space": _OPT_DICT, "metric_definition": _OPT_DICT, "units": _OPT_DICT,
         "health_rules": _LIST},
    ),
    "asked": (
        {"trial": _INT, "source": _STR, "params": _DICT, "config": _DICT},
        {"generation": _INT, "parent": _OPT_INT | _STR, "bracket": _INT, "coords": _OPT_DICT,
         "seed": _OPT_INT, "sampler": _OPT_DICT},
    ),
    "started": ({"trial": _INT, "attempt": _INT}, {"node": _OPT_STR, "pid": _OPT_INT, "device": _OPT_STR}),
    "evaluated": (
        {"trial": _INT, "attempt": _INT, "step": _INT, "record": _DICT, "decision": _DICT},
        {"time_s": _OPT_NUM, "objective": _OPT_NUM, "nonfinite": _DICT, "health": _OPT_DICT,
         "peak_memory_mb": _OPT_NUM},
    ),
    "paused": (
        {"trial": _INT}, {"attempt": _INT, "step": _OPT_INT, "reason": _OPT_STR, "failure": _OPT_STR},
    ),
    "ended": (
        {"trial": _INT, "state": _STR},
        {"attempt": _INT, "stop_reason": _OPT_STR, "error": _OPT_STR | _DICT, "step": _OPT_INT,
         "time_s": _OPT_NUM, "gpu_seconds": _OPT_NUM, "peak_memory_mb": _OPT_NUM,
         "health": _OPT_DICT},
    ),
    "told": ({"trial": _INT, "state": _STR}, {"value": _OPT_NUM}),
    "deleted": ({"trial": _INT}, {"what": _OPT_STR | _LIST, "reason": _OPT_STR}),
    "resumed": ({}, {"host": _OPT_STR, "pid": _OPT_INT, "set": _OPT_DICT, "total": _OPT_INT, "schema": _INT}),
    "generation": (
        {"generation": _INT},
        {"space": _OPT_DICT, "space_hash": _OPT_STR, "incompatible": _LIST, "config": _DICT},
    ),
    "closed": ({"exit_code": _INT}, {"reason": _OPT_STR}),
}  # fmt: skip
"""Of each type of event the required and the optional fields, with the JSON types that each may have."""

EVENT_TYPES = tuple(FIELDS)
_ENVELOPE = ("seq", "epoch", "time", "type", "crc")
_CRC_MARK = b',"crc":"'
_TAIL = len(_CRC_MARK) + 8 + len(b'"}')


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened in a run.

    Attributes:
        seq: place in the log, from 0, without gaps: the only order that counts (clocks jump).
        epoch: how often the run had changed hands when this was written.
        time: UTC, ISO 8601, for people to read.
        type: one of `EVENT_TYPES`.
        payload: natural JSON; a number that is not finite stands as None and is named in `nonfinite`.
    """

    seq: int
    epoch: int
    time: str
    type: str
    payload: dict[str, Any]


def utc(seconds: float) -> str:
    """Writes a wall-clock time as every event and table does.

    >>> utc(0.25)
    '1970-01-01T00:00:00.250000Z'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def natural(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Turns a payload into natural JSON, so that what is held in memory is what a reader will get.

    Numbers that are not finite become None; their names (a metric's bare name, else the dotted path) and what
    they were ("nan", "inf", "-inf") are listed under `nonfinite`. Text that is no Unicode, as in names of files that
    are none, is written out.

    Raises:
        TypeError: a value has no JSON form.

    >>> natural({"record": {"val/miou": float("nan")}, "step": 3})
    {'record': {'val/miou': None}, 'step': 3, 'nonfinite': {'val/miou': 'nan'}}
    """
    nonfinite: dict[str, str] = {}
    plain = {_text(key): _plain(value, str(key), nonfinite) for key, value in payload.items()}
    if nonfinite:
        plain["nonfinite"] = {**plain.get("nonfinite", {}), **nonfinite}
    return plain


def _plain(value: Any, path: str, nonfinite: dict[str, str]) -> Any:
    if value is None or type(value) in (bool, int):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return {_text(key): _plain(item, f"{path}.{key}", nonfinite) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}.{index}", nonfinite) for index, item in enumerate(value)]
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        if math.isfinite(number):
            return number
        nonfinite[path.removeprefix("record.")] = str(number)
        return None
    raise TypeError(f"{path}: an event holds JSON values only, but got {type(value).__name__}")


def _text(value: object) -> str:
    text = str(value)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def check_fields(event_type: str, payload: Mapping[str, Any]) -> None:
    """Checks that a natural payload has what its type needs, and nothing of the wrong kind.

    Raises:
        SchemaError: the type is not known.
        StoreError: a field is missing or of the wrong JSON type.
    """
    fields = FIELDS.get(event_type)
    if fields is None:
        raise SchemaError(
            f"event type must be one of schema {SCHEMA} ({', '.join(EVENT_TYPES)}), but got {event_type!r}: "
            f"the run was written by a newer version (schema {SCHEMA + 1} or later); open it with that one"
        )
    required, optional = fields
    for name in required:
        if name not in payload:
            raise StoreError(f"{event_type}: must have {name}, but it is missing")
    for name, value in payload.items():
        kinds = required.get(name) or optional.get(name)
        if kinds is not None and type(value) not in kinds:
            _wrong(event_type, name, value, kinds)
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise StoreError(f"{event_type}: {name} must fit 64 bits, but got {name}={value!r:.40}")


def _wrong(event_type: str, name: str, value: Any, kinds: frozenset[type]) -> NoReturn:
    wanted = " or ".join(sorted(kind.__name__ for kind in kinds))
    raise StoreError(f"{event_type}: {name} must be {wanted}, but got {name}={value!r:.80}")


def encode(event: Event) -> bytes:
    """Writes an event as its line, newline included.

    >>> encode(Event(0, 1, "t", "closed", {"exit_code": 0}))
    b'{"seq":0,"epoch":1,"time":"t","type":"closed","exit_code":0,"crc":"b7bf8b4d"}\\n'
    """
    clash = [name for name in _ENVELOPE if name in event.payload]
    if clash:
        raise ValueError(f"{event.type}: a payload must not have the envelope's names, but got {clash}")
    whole = {"seq": event.seq, "epoch": event.epoch, "time": event.time, "type": event.type, **event.payload}
    body = json.dumps(whole, separators=(",", ":"), allow_nan=False).encode("ascii")[:-1]
    return b'%b%b%08x"}\n' % (body, _CRC_MARK, zlib.crc32(body))


def is_whole(line: bytes) -> bool:
    """Tells whether a line (without its newline) carries a checksum that fits it."""
    body = line[:-_TAIL]
    return line[-_TAIL:] == b'%b%08x"}' % (_CRC_MARK, zlib.crc32(body)) and line[:1] == b"{"


def decode(lines: Iterable[bytes]) -> Iterator[Event]:
    """Reads whole lines (see `is_whole`) back to events; the caller has checked each.

    Raises:
        SchemaError: an event is of a newer schema.
        StoreError: a line is not an event.
    """
    joined = b"[" + b",".join(lines) + b"]"
    try:
        # One call for many lines: the parser then shares the metric names among them.
        found = json.loads(joined, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"an event must be one JSON object, but got {error}") from error
    # JSON can spell half a character, which nothing else can hold.
    halves = b"\\ud" in joined or b"\\uD" in joined
    for whole in found:
        yield _event({_text(key): _plain(value, "", {}) for key, value in whole.items()} if halves else whole)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _event(whole: dict[str, Any]) -> Event:
    try:
        seq, epoch, time, kind = whole.pop("seq"), whole.pop("epoch"), whole.pop("time"), whole.pop("type")
        del whole["crc"]
    except KeyError as error:
        raise StoreError(f"an event must have {', '.join(_ENVELOPE)}, but {error} is missing") from error
    if (type(seq), type(epoch), type(time), type(kind)) != (int, int, str, str):
        raise StoreError(f"an event must have seq: int, epoch: int, time, type: str, but got {seq=} {epoch=}")
    if kind == "run_opened" and type(whole.get("schema")) is int and whole["schema"] > SCHEMA:
        raise SchemaError(
            f"the run's schema must be at most {SCHEMA}, but got schema={whole['schema']}: it was written by "
            "a newer version; open it with that one (nothing was changed)"
        )
    check_fields(kind, whole)
    return Event(seq, epoch, time, kind, whole)
