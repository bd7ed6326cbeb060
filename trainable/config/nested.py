"""Nested mappings and their flat form with dotted keys; numbers per class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from trainable.knob import DEFAULT_CLASS


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys.

    >>> flatten({"optimizer": {"lr": 0.1}, "steps": 5})
    {'optimizer.lr': 0.1, 'steps': 5}
    """
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings; the inverse of `flatten`.

    >>> unflatten({"optimizer.lr": 0.1, "steps": 5})
    {'optimizer': {'lr': 0.1}, 'steps': 5}
    """
    nested: dict[str, Any] = {}
    for dotted, value in flat.items():
        *parents, last = dotted.split(".")
        level = nested
        for part in parents:
            level = level.setdefault(part, {})
        level[last] = value
    return nested


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, mapping by mapping; a number replaces a mapping whole.

    >>> merge({"threshold": {"default": 0.6}}, {"threshold": {"road": 0.7}})
    {'threshold': {'default': 0.6, 'road': 0.7}}
    """
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = merge(below, value)
        elif isinstance(value, Mapping) and isinstance(below, int | float) and not isinstance(below, bool):
            merged[key] = {DEFAULT_CLASS: below, **value}
        else:
            merged[key] = value
    return merged


def per_class(value: Mapping[str, float], class_names: Iterable[str]) -> tuple[float, ...]:
    """One number per class, in class order.

    Raises:
        KeyError: a class has neither its own number nor a `default`.

    >>> per_class({"default": 0.6, "road": 0.7}, ["water", "road"])
    (0.6, 0.7)
    """
    return tuple(value[c] if c in value else value[DEFAULT_CLASS] for c in class_names)
