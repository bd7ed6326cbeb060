"""A strict reader for configuration files: what it accepts means one thing, and every fault names its line.

YAML as people know it, less what surprises them: no tags, anchors, aliases or merge keys, no key twice, no tabs as
indentation, no second document. Plain scalars follow the YAML 1.2 core rules, so `5e-4` is a number and `no`,
`yes`, `on` and `12:30` are strings. Keys are always strings, as written. Not-a-number and infinities are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trainable.errors import ConfigError, Fault
from trainable.scalars import scalar

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32

Key = str | int
KeyPath = tuple[Key, ...]

_UNSPEAKABLE = re.compile(r"[\0\ud800-\udfff]")
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


@dataclass(frozen=True)
class Document:
    """What a file says, and on which line it says it.

    Attributes:
        name: the file's name as it was given.
        data: the top-level mapping.
        places: where each value stands, `file:line`, by its path of keys and list positions.
    """

    name: str
    data: dict[str, Any]
    places: dict[KeyPath, str] = field(default_factory=dict)

    def place(self, path: Sequence[Key] | str) -> str:
        """`file:line` of a value, or of the nearest value around it.

        Args:
            path: keys from the top, or a dotted name (a key may itself hold dots).

        >>> loads("a:\\n  b.c: 1\\n", "x.yaml").place("a.b.c")
        'x.yaml:2'
        """
        known = self._resolve(path.split(".")) if isinstance(path, str) else tuple(path)
        while known and known not in self.places:
            known = known[:-1]
        return self.places.get(known, self.name)

    def _resolve(self, parts: Sequence[str]) -> KeyPath:
        """The longest known path that the dotted parts can be read as."""
        path: KeyPath = ()
        start = 0
        while start < len(parts):
            for stop in range(start + 1, len(parts) + 1):
                joined = ".".join(parts[start:stop])
                keys: tuple[Key, ...] = (joined, int(joined)) if joined.isdecimal() else (joined,)
                found = next((path + (key,) for key in keys if path + (key,) in self.places), None)
                if found is not None:
                    path, start = found, stop
                    break
            else:
                return path
        return path

    def with_value(self, path: Sequence[str], value: Any, place: str) -> Document:
        """The same document with one value replaced or added; `place` is said of it in faults.

        Args:
            path: keys from the top; a key of the document that itself holds dots is found, too.
            value: what is put there.
            place: where it comes from.

        Raises:
            ConfigError: a key on the way holds a value and no mapping.

        >>> loads("space: {st.weight: [1, 2]}").with_value(["space", "st", "weight"], {}, "--set").data
        {'space': {'st.weight': {}}}
        """
        known = self._resolve(path)
        whole = (*known, *path[len(".".join(map(str, known)).split(".")) if known else 0 :])
        data = dict(self.data)
        level = data
        for depth, key in enumerate(whole[:-1]):
            below = level.get(str(key))
            if below is not None and not isinstance(below, dict):
                dotted = ".".join(map(str, whole[: depth + 1]))
                message = f"{dotted} must hold keys, but got {dotted}={below!r}; set {dotted} itself"
                raise ConfigError([Fault(place, message)])
            level[str(key)] = dict(below or {})
            level = level[str(key)]
        level[str(whole[-1])] = value
        places = {at: line for at, line in self.places.items() if at[: len(whole)] != whole}
        return Document(self.name, data, {**places, **dict.fromkeys(_paths(value, whole), place)})


def load(path: str | Path) -> Document:
    """Read a configuration file.

    Raises:
        ConfigError: the file cannot be read, or every fault in how it is written.
    """
    name = str(path)
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError([Fault(name, f"a configuration file must be readable, but got: {reason}")]) from None
    return loads(_decoded(raw, name), name)


def loads(text: str, name: str = "text") -> Document:
    """Read configuration from a string.

    Raises:
        ConfigError: every fault in how it is written.

    >>> loads("lr: 5e-4\\nnames: [no, 12:30]").data
    {'lr': 0.0005, 'names': ['no', '12:30']}
    """
    data, places = _read(text, name)
    if data is None:
        raise ConfigError([Fault(name, "a configuration must hold keys and values, but the file is empty")])
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else repr(data)
        raise ConfigError([Fault(f"{name}:1", f"a configuration must be `key: value` lines, but got {kind}")])
    return Document(name, data, places)


def parse_value(text: str, where: str) -> Any:
    """Read one value by the same rules: what stands after `=` in an override.

    >>> parse_value("5e-4", "--set lr"), parse_value("[a, no]", "--set x"), parse_value("", "--set y")
    (0.0005, ['a', 'no'], None)
    """
    return _read(text, where)[0]


def dump(data: Mapping[str, Any]) -> str:
    """Write configuration so that `loads` reads the same data back.

    Args:
        data: strings, finite numbers, truth values, None, lists, tuples and mappings with string keys.

    Raises:
        yaml.YAMLError: something else is in it.

    >>> print(dump({"a": "5e-4", "b": 5e-4, "c": "no", "d": [None, True]}), end="")
    a: '5e-4'
    b: 0.0005
    c: 'no'
    d:
    - null
    - true
    """
    return yaml.dump(
        dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=10_000
    )


class _Dumper(yaml.SafeDumper):
    """Quotes every text that the reader would take for something else, and writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """A string, quoted where a plain one would be misread."""
        try:
            plain = isinstance(scalar(text), str)
        except ValueError:
            plain = False
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else "'")


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_representer(tuple, _Dumper.represent_list)


def _decoded(raw: bytes, name: str) -> str:
    """UTF-8 with or without its mark; anything else is refused with what to do."""
    if raw.startswith(_WIDE_BOMS) or raw[1:2] == b"\0" or raw[:1] == b"\0":
        raise ConfigError(
            [Fault(f"{name}:1", "a configuration file must be UTF-8, but got UTF-16 or UTF-32; save it as UTF-8")]
        )
    if len(raw) > MAX_BYTES:
        raise ConfigError([Fault(name, f"a configuration file must be at most {MAX_BYTES // 1024} KB")])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            [Fault(f"{name}:{line}", f"a configuration file must be UTF-8, but got the byte 0x{raw[error.start]:02x}; "
                                     "save it as UTF-8")]
        ) from None  # fmt: skip


def _read(text: str, name: str) -> tuple[Any, dict[KeyPath, str]]:
    """Data and places of a text; every fault of its writing at once."""
    if len(text) > MAX_BYTES:
        raise ConfigError([Fault(name, f"a configuration must be at most {MAX_BYTES // 1024} KB")])
    reader = _Reader(name)
    try:
        data = reader.document(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ConfigError([*reader.faults, *_syntax_faults(error, text, name)]) from None
    except _TooDeepError as error:
        raise ConfigError([*reader.faults, Fault(str(error), f"keys must nest at most {MAX_DEPTH} deep")]) from None
    if reader.faults:
        raise ConfigError(reader.faults)
    return data, reader.places


class _TooDeepError(Exception):
    """Nested deeper than any configuration is; the message is the place."""


class _Reader:
    """Builds plain data from the parser's events, and notes every fault on the way."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.faults: list[Fault] = []
        self.places: dict[KeyPath, str] = {}

    def document(self, events: Iterator[yaml.Event]) -> Any:
        data: Any = None
        seen = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                seen += 1
                if seen == 2:
                    self._fault(event, (), "a configuration must be one document; remove the second `---`")
            elif isinstance(event, yaml.NodeEvent):
                value = self._value(event, events, ())
                data = value if seen == 1 else data
        return data

    def _value(self, event: yaml.Event, events: Iterator[yaml.Event], path: KeyPath) -> Any:
        if len(path) > MAX_DEPTH:
            raise _TooDeepError(self._at(event))
        if isinstance(event, yaml.AliasEvent):
            self._fault(event, path, f"aliases (*{event.anchor}) are not read; write the value out")
            return None
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            self._fault(event, path, f"anchors (&{event.anchor}) are not read; remove it")
        tag = getattr(event, "tag", None)
        if tag is not None:
            self._fault(event, path, f"tags ({tag[:60]}) are not read; remove it")
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(events, path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(events, path)
        return self._scalar(event, path)

    def _mapping(self, events: Iterator[yaml.Event], path: KeyPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        first: dict[str, str] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key = self._key(event, events, path)
            at = self._at(event)
            here = (*path, key)
            if key in found:
                self._fault(event, here, f"a key must stand once, but {key!r} stands at {first[key]} too; remove one")
            else:
                first[key] = at
                self.places[here] = at
            value = self._value(next(events), events, here)
            found.setdefault(key, value)
        return found

    def _key(self, event: yaml.Event, events: Iterator[yaml.Event], path: KeyPath) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            self._fault(event, path, "a key must be a plain word; lists, mappings and aliases cannot be keys")
            self._value(event, events, (*path, "?"))
            return "?"
        if event.anchor is not None or event.tag is not None:
            self._fault(event, (*path, event.value), "anchors and tags are not read; remove it")
        if event.value == "<<" and event.style is None:
            self._fault(event, path, "merge keys (<<) are not read; write the values out")
        elif not event.value:
            self._fault(event, path, "a key must not be empty")
        return self._text(event, path)

    def _sequence(self, events: Iterator[yaml.Event], path: KeyPath) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            here = (*path, len(found))
            self.places[here] = self._at(event)
            found.append(self._value(event, events, here))
        return found

    def _scalar(self, event: yaml.Event, path: KeyPath) -> Any:
        assert isinstance(event, yaml.ScalarEvent)
        text = self._text(event, path)
        if event.style is not None:
            return text
        try:
            return scalar(text)
        except ValueError as error:
            self._fault(event, path, str(error))
            return None

    def _text(self, event: yaml.Event, path: KeyPath) -> str:
        """The scalar's text; escapes may spell what no file could hold."""
        text = str(getattr(event, "value", ""))
        if not _UNSPEAKABLE.search(text):
            return text
        try:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self._fault(event, path, "a text must be Unicode, but got half a surrogate pair; remove the escape")
        if "\0" in text:
            self._fault(event, path, "a text must not hold the character NUL; remove the escape")
        return text

    def _at(self, event: yaml.Event) -> str:
        mark = event.start_mark
        return f"{self.name}:{mark.line + 1}" if mark is not None else self.name

    def _fault(self, event: yaml.Event, path: KeyPath, message: str) -> None:
        dotted = ".".join(str(key) for key in path)
        self.faults.append(Fault(f"{self._at(event)}:{dotted}" if dotted else self._at(event), message))


def _paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """The path of a value and of everything in it."""
    yield path
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _paths(below, (*path, key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _paths(below, (*path, index))


def _syntax_faults(error: yaml.YAMLError, text: str, name: str) -> list[Fault]:
    """What the parser could not read, in words that say what to do."""
    if isinstance(error, yaml.reader.ReaderError):
        position = int(error.position)
        line = text.count("\n", 0, position) + 1
        return [Fault(f"{name}:{line}", f"the text must be printable, but got U+{ord(text[position]):04X}; remove it")]
    lines = text.split("\n")
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    number = mark.line + 1 if mark is not None else 1
    tabbed = [n for n, line in enumerate(lines, 1) if "\t" in line[: len(line) - len(line.lstrip())]]
    if tabbed and number >= tabbed[0]:
        return [Fault(f"{name}:{n}", "lines must be indented by spaces, but got a tab; use two spaces") for n in tabbed]
    problem = str(getattr(error, "problem", None) or error)
    hint = ""
    if "escape" in problem:
        hint = "; in a path use / or single quotes"
    elif "mapping values are not allowed" in problem:
        hint = "; indent the line like its neighbors, or quote a text that holds ': '"
    shown = lines[number - 1].strip()[:80] if 0 < number <= len(lines) else ""
    return [Fault(f"{name}:{number}", f"the line must be YAML, but {problem}, at {shown!r}{hint}")]
