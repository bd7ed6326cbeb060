"""Which photo each image was cut from, so that no photo stands on both sides of a split."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection

from trainable.data.names import some
from trainable.errors import Fault

_GRID_WITH_LETTERS = re.compile(r"(.+?)[_\-. ](?:y|x|r|c|row|col)[_\-]?\d+[_\-. ](?:y|x|r|c|row|col)[_\-]?\d+", re.I)
_NAMED_PIECE = re.compile(r"(.+?)[_\-. ]?(?:patch|tile|crop|chip|part|piece|block)[_\-. ]?\d+", re.I)
_GRID_OF_NUMBERS = re.compile(r"(.+?)[_\-. ](\d+)[_\-. ](\d+)")


def photos_of(
    ids: Collection[str], pattern: str | None, faults: list[Fault], default: Callable[[str], str] | None = None
) -> dict[str, str]:
    """The photo that each image was cut from.

    Args:
        ids: all ids.
        pattern: a regular expression whose first group (else the whole match) names the photo; "none": each image
            stands alone; None: `default`, or alone if the ids do not look like patches.
        faults: ids that the pattern does not match, and patches without a pattern, are added here.
        default: the photo of an id where no pattern is given.

    Returns:
        Photo by id.
    """
    if pattern is None and default is not None:
        return {name: default(name) for name in ids}
    if pattern is None:
        suggestion = looks_like_patches(ids)
        if suggestion:
            faults.append(
                Fault("data.group_by", "the ids look like patches of larger photos, and patches of one photo must not "
                      f"stand on both sides of a split, but got group_by=null; set it to what names the photo, for "
                      f"example '{suggestion}', or to 'none' if each image stands alone")
            )  # fmt: skip
    if pattern is None or pattern == "none":
        return {name: name for name in ids}
    compiled = re.compile(pattern)
    found: dict[str, str] = {}
    unmatched = []
    for name in sorted(ids):
        match = compiled.search(name)
        photo = None if match is None else match.group(1) if compiled.groups else match.group(0)
        if photo:
            found[name] = photo
        else:
            unmatched.append(name)
    if unmatched:
        faults.append(
            Fault("data.group_by", f"the pattern must name a photo for every id, but group_by={pattern!r} matches only "
                  f"{len(found)} of {len(ids)}; not: {some(unmatched)}; correct it, or set 'none' if each image stands "
                  "alone")
        )  # fmt: skip
    return {name: found.get(name, name) for name in ids}


def looks_like_patches(ids: Collection[str]) -> str:
    r"""A pattern that names the photos, if the ids look like patches of photos; else the empty string.

    >>> looks_like_patches(["a1_y0_x0", "a1_y0_x9", "b2_y0_x0"])
    '^(.+?)[_. -](?:y|x|r|c|row|col)[_-]?\\d'
    >>> looks_like_patches(["IMG_20240101_101500", "IMG_20240101_101730", "mic_01"])
    ''
    """
    for pattern, suggestion in (
        (_GRID_WITH_LETTERS, r"^(.+?)[_. -](?:y|x|r|c|row|col)[_-]?\d"),
        (_NAMED_PIECE, r"^(.+?)[_. -]?(?:patch|tile|crop|chip|part|piece|block)"),
    ):
        photos = defaultdict(list)
        for name in ids:
            match = pattern.fullmatch(name)
            if match:
                photos[match.group(1)].append(name)
        if any(len(group) > 1 for group in photos.values()):
            return suggestion
    return r"^(.+)[_. -]\d+[_. -]\d+$" if _number_grid(ids) else ""


def _number_grid(ids: Collection[str]) -> bool:
    """Whether some prefix is followed by pairs of numbers that form rows and columns, unlike a date and a time."""
    cells: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in ids:
        match = _GRID_OF_NUMBERS.fullmatch(name)
        if match:
            cells[match.group(1)].append((match.group(2), match.group(3)))
    for pairs in cells.values():
        rows, columns = {row for row, _ in pairs}, {column for _, column in pairs}
        if len(pairs) >= 4 and 1 < len(rows) < len(pairs) and 1 < len(columns) < len(pairs):
            return True
    return False
