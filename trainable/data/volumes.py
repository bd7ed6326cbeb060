"""Sections that stack into volumes: which volume each belongs to, and where."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from trainable.data.items import Item
from trainable.data.names import some
from trainable.errors import ConfigError, Fault


def stacked(
    ids: Mapping[str, Path], group_by: str, order_by: str, faults: list[Fault]
) -> dict[str, tuple[str, int]]:
    """The volume and the place in it of every section.

    Args:
        ids: all ids.
        group_by: its first group, else the whole match, names the volume.
        order_by: likewise, a whole number.
        faults: what is wrong is added here.

    Raises:
        ConfigError: a pattern is no regular expression.
    """
    compiled = []
    for key, pattern in (("group_by", group_by), ("order_by", order_by)):
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise ConfigError([Fault(f"data.volume.{key}", f"{key} must be a regular expression, but got "
                                     f"{key}={pattern!r} ({error}); correct it")]) from error  # fmt: skip
    found: dict[str, tuple[str, int]] = {}
    at: dict[tuple[str, int], list[str]] = {}
    wrong = []
    for name in sorted(ids):
        texts = [_first(pattern, name) for pattern in compiled]
        if texts[0] and texts[1] and texts[1].isdecimal():
            found[name] = (texts[0], int(texts[1]))
            at.setdefault(found[name], []).append(name)
        else:
            wrong.append(name)
    if wrong:
        faults.append(
            Fault("data.volume", "group_by must name the volume and order_by a whole number in every id, but "
                  f"{len(wrong)} of {len(ids)} do not match: {some(wrong)}; correct the patterns")
        )  # fmt: skip
    twice = [", ".join(names) for names in at.values() if len(names) > 1]
    if twice:
        faults.append(
            Fault("data.volume.order_by", f"a volume must have one section at each place, but got {len(twice)} places "
                  f"with several: {some(twice)}; correct the pattern")
        )  # fmt: skip
    return found


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    if match is None:
        return None
    return match.group(1) if pattern.groups else match.group(0)


def check_volumes(items: Iterable[Item], faults: list[Fault]) -> None:
    """Refuse volumes whose sections differ in size.

    Args:
        items: all items of a run.
        faults: what is wrong is added here.
    """
    sizes: dict[str, Counter[tuple[int, int]]] = {}
    for item in items:
        if item.volume is not None:
            sizes.setdefault(item.volume, Counter())[item.height, item.width] += 1
    for volume, counts in sizes.items():
        if len(counts) > 1:
            shown = some(f"{width} x {height} ({n} sections)" for (height, width), n in counts.most_common())
            text = f"all sections of a volume must have one size, but got {shown}; crop them alike"
            faults.append(Fault(f"volume {volume}", text))
