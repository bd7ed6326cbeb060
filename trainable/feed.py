"""What each step of a phase is given: batches, cut by a thread ahead of the step that takes them, and numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainable.data.dataset import Dataset
from trainable.data.prefetch import Batches, Prefetcher
from trainable.data.random import stream_rng, stream_seed
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


class Pace:
    """Gives the numbers and draws of a phase, step by step, on the device.

    Args:
        seed: of the run. device: where the numbers are wanted.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed, self._device = seed, device

    def open(self, phase: Phase) -> None:
        """Begin with a phase."""
        self._phase = phase
        self._numbers = {name: torch.zeros((), device=self._device) for name in phase.schedules}

    def at(self, step: int, in_phase: int) -> dict[str, Tensor]:
        """The numbers and draws of a step, written without waiting for the device.

        Args:
            step: of the run, by which draws go. in_phase: the same step of the phase, by which schedules go.
        """
        for name, schedule in self._phase.schedules.items():
            self._numbers[name].fill_(schedule(in_phase))
        for name, draw in self._phase.draws.items():
            drawn = torch.from_numpy(draw(stream_rng(self._seed, f"draw/{name}", step), in_phase))
            if self._device.type == "cuda":
                drawn = drawn.pin_memory().to(self._device, non_blocking=True)
            self._numbers[name] = drawn
        return self._numbers
