"""Sections stacked into volumes, as one source of volumes and their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainable.data.items import Item
from trainable.data.splits import Split
from trainable.data.streams import U8, Source
from trainable.errors import DataError, Fault
from trainable.task import IGNORE

HELD_BYTES = 2 << 30


@dataclass(frozen=True)
class Stack:
    """Neighboring sections of one volume that are trained on, or that are validated or tested on.

    Attributes:
        volume: its name.
        split: `labeled` where one of its sections at least has labels that training may see.
        sections: positions of its sections, from the first place to the last.
        labeled: which of them have labels; the others' voxels are ignored.
    """

    volume: str
    split: Split
    sections: tuple[int, ...]
    labeled: tuple[bool, ...]


def stacks_of(items: Sequence[Item]) -> list[Stack]:
    """Stack sections: those for training with each other, labeled or not, those of each other split apart.

    A place without a section, or with one of another kind, ends a stack. So labels on a few sections teach a network
    that sees the whole of their surroundings, and nothing of the validation sections lies in a training stack.

    Args:
        items: all of a run; those without a volume are left out.

    Returns:
        The stacks, by volume and place.
    """
    placed = sorted(
        (item.volume, item.z, position)
        for position, item in enumerate(items)
        if item.volume is not None and item.z is not None
    )
    runs: list[list[int]] = []
    for before, (volume, z, position) in zip([None, *placed], placed, strict=False):
        next_to = before is not None and before[:2] == (volume, z - 1)
        if next_to and _kind(items[runs[-1][-1]]) == _kind(items[position]):
            runs[-1].append(position)
        else:
            runs.append([position])
    return [_stack(items, run) for run in runs]


def _kind(item: Item) -> str:
    return "train" if item.split in ("labeled", "unlabeled") else item.split


def _stack(items: Sequence[Item], run: Sequence[int]) -> Stack:
    first = items[run[0]]
    labeled = tuple(items[position].split != "unlabeled" for position in run)
    split: Split = first.split
    if _kind(first) == "train":
        split = "labeled" if any(labeled) else "unlabeled"
    return Stack(first.volume or "", split, tuple(run), labeled)


class StackSource:
    """Volumes by position in a list of stacks.

    Stacked volumes are held in memory up to a limit; what goes beyond it is stacked anew at each use.

    Args:
        source: of the sections. stacks: what the positions mean. held_bytes: the limit.
    """

    def __init__(self, source: Source, stacks: Sequence[Stack], held_bytes: int = HELD_BYTES) -> None:
        self._source, self._stacks = source, stacks
        self._images: dict[int, U8] = {}
        self._masks: dict[int, U8] = {}
        self._room = held_bytes

    def image(self, index: int) -> U8:
        """A volume, `uint8[D, H, W, 3]`; gray is stored once and shown three times."""
        if index in self._images:
            return self._images[index]
        sections = [self._source.image(i) for i in self._stacks[index].sections]
        gray = all(section.strides[-1] == 0 for section in sections)
        volume = np.stack([section[..., :1] if gray else section for section in sections])
        shown = np.broadcast_to(volume, (*volume.shape[:-1], 3)) if gray else volume
        self._hold(self._images, index, shown, volume.nbytes)
        return shown

    def mask(self, index: int) -> U8:
        """Class ids of a volume, `uint8[D, H, W]`; 255 where ignored and on sections without labels.

        Raises:
            DataError: no section has labels; hidden ones are not part of what training reads.
        """
        if index in self._masks:
            return self._masks[index]
        stack = self._stacks[index]
        if not any(stack.labeled):
            raise DataError([Fault(stack.volume, "labels are read of volumes with a labeled section, but got "
                                   f"split={stack.split}")])  # fmt: skip
        shape = self._source.image(stack.sections[0]).shape[:2]
        volume = np.full((len(stack.sections), *shape), IGNORE, np.uint8)
        for place, (section, known) in enumerate(zip(stack.sections, stack.labeled, strict=True)):
            if known:
                volume[place] = self._source.mask(section)
        self._hold(self._masks, index, volume, volume.nbytes)
        return volume

    def _hold(self, held: dict[int, U8], index: int, volume: U8, size: int) -> None:
        if size <= self._room:
            self._room -= size
            held[index] = volume
