"""A strict reader for configuration files: what it accepts means one thing, and every fault names its line.

YAML as people know it, less what surprises them: no tags, anchors, aliases or merge keys, no key twice, no tabs as
indentation, no second document. Plain scalars follow the YAML 1.2 core rules, so `5e-4` is a number and `no`,
`yes`, `on` and `12:30` are strings. Keys are always strings, as written. Not-a-number and infinities are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trainable.document import Document
from trainable.errors import ConfigError, Fault
from trainable.scalars import scalar
from trainable.yaml_events import MAX_BYTES, read_events

_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


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
    data, places = read_events(text, name)
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
    return read_events(text, where)[0]


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
