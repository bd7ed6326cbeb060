"""The batches of a phase, cut by a thread ahead of the step that takes them."""

from __future__ import annotations

from collections.abc import Mapping

from trainable.data.dataset import Dataset
from trainable.data.prefetch import Batches, Prefetcher
from trainable.data.random import stream_seed
from trainable.data.streams import U8
from trainable.recipes.interface import Phase


class Feed:
    """Gives the batches of one phase after another, from any step on.

    Args:
        data: the images. seed: of the run. rank: this worker. world_size: number of workers.
    """

    def __init__(self, data: Dataset, seed: int, rank: int, world_size: int) -> None:
        self._data, self._seed, self._rank, self._world_size = data, seed, rank, world_size
        self._prefetcher: Prefetcher | None = None

    @property
    def is_open(self) -> bool:
        """Whether a phase's batches are being cut."""
        return self._prefetcher is not None

    def open(self, phase: Phase, number: int, first: int, targets: Mapping[int, U8]) -> None:
        """Begin to cut.

        Args:
            phase: whose batches. number: of the phase. first: its first step that is wanted.
            targets: labels of the phase by position, where it trains on its own.
        """
        self.close()
        seed = stream_seed(self._seed, f"{number}/", 0) if number else self._seed
        samplers = {
            s.name: self._data.sampler(s, seed, self._rank, self._world_size, targets) for s in phase.streams
        }

        def cut(step: int) -> Batches:
            return {s.name: samplers[s.name].batch(step) for s in phase.streams if step >= s.start_step}

        self._prefetcher = Prefetcher(cut, first, phase.steps)
        self._batches = iter(self._prefetcher)

    def take(self) -> Batches:
        """The next step's batches."""
        return next(self._batches)

    def close(self) -> None:
        """Stop the thread."""
        if self._prefetcher is not None:
            self._prefetcher.close()
        self._prefetcher = None
