"""What a configuration file says, and where it says it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainable.errors import ConfigError, Fault

Key = str | int
KeyPath = tuple[Key, ...]


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

        >>> Document("x.yaml", {"a": {"b.c": 1}}, {("a",): "x.yaml:1", ("a", "b.c"): "x.yaml:2"}).place("a.b.c")
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

        >>> given = Document("x", {"space": {"st.weight": 1}}, {("space",): "x:1", ("space", "st.weight"): "x:1"})
        >>> given.with_value(["space", "st", "weight"], {}, "--set").data
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
        # A section that is there only because of this value comes from where the value does.
        above = {whole[:depth]: place for depth in range(1, len(whole)) if whole[:depth] not in places}
        return Document(self.name, data, {**places, **above, **dict.fromkeys(paths(value, whole), place)})


def paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """The path of a value and of everything in it."""
    yield path
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from paths(below, (*path, key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from paths(below, (*path, index))
