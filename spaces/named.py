"""Spaces that go by a name: `<recipe>/<name>`, each written the way a sweep file writes one inline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainable.config import nearest
from trainable.errors import ConfigError, Fault


@dataclass(frozen=True)
class NamedSpace:
    """A space of the catalog.

    Attributes:
        name: `<recipe>/<name>`.
        about: one sentence for people.
        spec: as in a sweep file; `{}` stands for a knob's own range. Ranges in steps are those of a run as long as
            the recipe's default and scale with the run.
    """

    name: str
    about: str
    spec: Mapping[str, Any]


NAMED: dict[str, NamedSpace] = {}


def register(name: str, about: str, spec: Mapping[str, Any]) -> None:
    """Adds a space to the catalog.

    Raises:
        ValueError: the name is taken.
    """
    if name in NAMED:
        raise ValueError(f"a space must have a name of its own, but got name={name!r} twice")
    NAMED[name] = NamedSpace(name, about, spec)


def named(name: str, where: str = "space") -> NamedSpace:
    """The space of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in NAMED:
        known = ", ".join(sorted(NAMED)) or "none"
        message = f"a named space must be one of {known}, but got {name!r}{nearest(name, NAMED)}"
        raise ConfigError([Fault(where, f"{message}; or write the space inline, as knobs with their ranges")])
    return NAMED[name]
