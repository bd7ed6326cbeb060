"""Plain data from a YAML parser's events, with the line of every value; every fault of its writing at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from trainable.document import KeyPath
from trainable.errors import ConfigError, Fault
from trainable.scalars import scalar

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32

_UNSPEAKABLE = re.compile(r"[\0\ud800-\udfff]")


def read_events(text: str, name: str) -> tuple[Any, dict[KeyPath, str]]:
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
