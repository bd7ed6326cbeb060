"""Growth of pseudo-labels over regions, against plain loops, and at its edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainable import pseudo_labels as pl
from trainable.pseudo_labels import Target

CLASSES = 3


def drawn(seed: int) -> tuple[Target, torch.Tensor, torch.Tensor]:
    """A target of blocks of one class with holes, overlapping rectangles, and padding that regions avoid."""
    rng = np.random.default_rng(seed)
    label = torch.from_numpy(np.kron(rng.integers(CLASSES, size=(2, 2, 2)), np.ones((1, 4, 4), np.int64)))
    label[torch.from_numpy(rng.random(label.shape) < rng.choice([0.1, 0.5]))] = 255
    valid = torch.ones(label.shape, dtype=torch.bool)
    valid[..., -1] = False
    label[~valid] = 255
    regions = torch.zeros(2, 5, 8, 8, dtype=torch.bool)
    for image, number in np.ndindex(2, 5):
        top, left = rng.integers(0, 6, 2)
        regions[image, number, top : top + rng.integers(1, 6), left : left + rng.integers(1, 6)] = True
    weight = torch.from_numpy(rng.random(label.shape)).float() * (label != 255)
    return Target(label, weight, valid), regions, torch.from_numpy(rng.choice([0.0, 0.4, 0.7, 0.9], CLASSES)).float()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_regions_grow_as_plain_loops_say(seed: int) -> None:
    target, regions, thresholds = drawn(seed)
    found = pl.grow(target, regions, thresholds)
    for image in range(2):
        expected, old = target.label[image].clone(), target.label[image]
        for region in regions[image] & target.valid[image]:
            inside = old[region]
            chosen = inside[inside != 255].tolist()
            if not chosen:
                continue
            counts = [chosen.count(c) for c in range(CLASSES)]
            winner = int(np.argmax(counts))
            limit = np.float32(thresholds[winner].item())
            enough = np.float32(len(chosen)) >= limit * np.float32(len(inside))
            if limit > 0 and enough and np.float32(counts[winner]) > limit * np.float32(len(chosen)):
                expected[region] = winner
        assert torch.equal(found.label[image], expected)
    joined = (target.label == 255) & (found.label != 255)
    assert torch.equal(found.weight, torch.where(joined, 1.0, target.weight))
    assert found.stats["st/pixels_grown"] == joined.sum() and not bool((joined & ~target.valid).any())


def test_a_region_of_all_but_one_pixel_takes_that_pixel_and_one_of_two_classes_does_not() -> None:
    label = torch.tensor([[1, 1, 1, 255], [1, 1, 2, 2]])
    target = Target(label, (label != 255).float(), label > 0)
    found = pl.grow(target, torch.ones(2, 1, 4, dtype=torch.bool), torch.full((3,), 0.75))
    assert found.label.tolist() == [[1, 1, 1, 1], [1, 1, 2, 2]]
    assert found.weight.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    stricter = pl.grow(target, torch.ones(2, 1, 4, dtype=torch.bool), torch.full((3,), 0.76))
    assert torch.equal(stricter.label, label)


@pytest.mark.parametrize("empty", ["regions", "labels", "thresholds"])
def test_where_there_is_nothing_to_grow_from_nothing_grows(empty: str) -> None:
    target, regions, _ = drawn(0)
    if empty == "labels":
        target = Target(torch.full_like(target.label, 255), torch.zeros_like(target.weight), target.valid)
    regions = regions & (empty != "regions")
    found = pl.grow(target, regions, torch.full((CLASSES,), 0.0 if empty == "thresholds" else 0.5))
    assert torch.equal(found.label, target.label) and found.stats["st/pixels_grown"] == 0


def test_regions_must_lie_on_the_labels_grid() -> None:
    target, regions, thresholds = drawn(0)
    with pytest.raises(ValueError, match=r"regions must be \[B, M, \*S\], but got"):
        pl.grow(target, regions[..., :4], thresholds)
