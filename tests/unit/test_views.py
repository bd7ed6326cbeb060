"""Batches and views: counter-based, label-true, and padded where there is no image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.images import Blocks
from trainable.data.augment import blur, box_mask, make_views, mix, normalize, recolor, resample
from trainable.data.loaders import StreamSampler, order
from trainable.data.prefetch import Prefetcher
from trainable.data.streams import Geometry, MultiScale, Photometric, Stream
from trainable.data.strong import blur_kernel, color_matrix, cutmix_box, cutmix_boxes

_LUMA = torch.tensor([0.299, 0.587, 0.114])
_CHROMA = np.array([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
PLAIN = Geometry(1.0, 1.0, flip=False)


def sampler(stream: Stream, shapes: list[tuple[int, int]], **kwargs: int) -> StreamSampler:
    source = Blocks(shapes, 3)
    return StreamSampler(stream, source, list(range(len(shapes))), shapes, seed=1, **kwargs)


@settings(deadline=None, max_examples=25)
@given(count=st.integers(1, 12), number=st.integers(1, 9), seed=st.integers(0, 5))
def test_every_pass_shows_every_item_once(count: int, number: int, seed: int) -> None:
    drawn = [i for first in range(0, 3 * count * number, number) for i in order(seed, "s", count, first, number)]
    for start in range(0, len(drawn) - count + 1, count):
        assert sorted(drawn[start : start + count]) == list(range(count))


def test_batches_depend_on_the_step_alone() -> None:
    stream = Stream("s", "labeled", 4, 32, Geometry(0.5, 2.0), Photometric(), 2)
    one, two = sampler(stream, [(64, 64)] * 6), sampler(stream, [(64, 64)] * 6)
    for step in (7, 3):
        a, b = one.batch(step), two.batch(step)
        for name, value in vars(a).items():
            other = getattr(b, name)
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
    assert not torch.equal(one.batch(1).theta, one.batch(2).theta)


def test_workers_cut_the_batch_of_one_into_parts() -> None:
    stream = Stream("s", "labeled", 4, 32, Geometry(0.5, 2.0), Photometric(), 1)
    shapes = [(64, 64)] * 6
    whole = sampler(stream, shapes).batch(5)
    parts = [sampler(stream, shapes, rank=r, world_size=2).batch(5) for r in range(2)]
    for name in ("window", "plane", "theta", "index"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(p, name) for p in parts]))
    assert torch.equal(whole.color, torch.cat([p.color for p in parts], 1))


def test_a_batch_that_the_workers_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size=3, workers=2"):
        sampler(Stream("s", "labeled", 3, 32), [(64, 64)] * 4, world_size=2)


def test_an_unzoomed_crop_is_the_image_itself() -> None:
    """Against slicing: a whole-pixel crop must be exact, image and label alike."""
    made = sampler(Stream("s", "labeled", 3, 64, PLAIN), [(64, 64)] * 3)
    batch = made.batch(0)
    image, label, valid = resample(batch)
    for row, index in enumerate(batch.index.tolist()):
        expected = torch.from_numpy(made.source.image(index)).movedim(-1, 0).float() / 255
        assert torch.allclose(image[row], expected, atol=1e-5)
        assert torch.equal(label[row], torch.from_numpy(made.source.mask(index)).long())
    assert bool(valid.all())


def test_a_mirrored_crop_mirrors_image_and_label() -> None:
    made = sampler(Stream("s", "labeled", 16, 64, Geometry(1.0, 1.0, flip=True)), [(64, 64)] * 4)
    batch = made.batch(0)
    image, label, _ = resample(batch)
    mirrored = 0
    for row, index in enumerate(batch.index.tolist()):
        straight = torch.from_numpy(made.source.mask(index)).long()
        is_mirrored = bool(batch.theta[row, 0, 0] < 0)
        mirrored += is_mirrored
        assert torch.equal(label[row], straight.flip(-1) if is_mirrored else straight)
        expected = torch.from_numpy(made.source.image(index)).movedim(-1, 0).float() / 255
        assert torch.allclose(image[row], expected.flip(-1) if is_mirrored else expected, atol=1e-5)
    assert 0 < mirrored < 16


def test_what_lies_outside_the_image_is_ignored_and_invalid() -> None:
    made = sampler(Stream("s", "labeled", 8, 64, PLAIN), [(32, 48)] * 4)
    image, label, valid = resample(made.batch(0))
    assert valid.flatten(1).sum(1).tolist() == [32 * 48] * 8
    assert bool((label[~valid] == 255).all())
    assert float((image * ~valid.unsqueeze(1)).abs().max()) == 0.0


def test_what_lies_outside_does_not_darken_the_rim_of_a_small_image() -> None:
    made = sampler(Stream("s", "labeled", 4, 64, Geometry(0.6, 1.7)), [(32, 48), (48, 32), (80, 80)])
    for image in made.source.images:  # type: ignore[attr-defined]
        image[:] = 200
    for step in range(3):
        image, _, valid = resample(made.batch(step))
        assert not bool(valid.all())
        torch.testing.assert_close(image, 200 / 255 * valid.unsqueeze(1).expand_as(image))


def test_labels_stay_true_under_zoom() -> None:
    """The color of the blocks tells the class, so a resampled label can be judged by the resampled image."""
    from tests.support.images import COLORS

    made = sampler(Stream("s", "labeled", 8, 48, Geometry(0.6, 1.7)), [(64, 64)] * 4)
    image, label, valid = resample(made.batch(2))
    palette = torch.tensor(COLORS[:3]).float() / 255
    nearest = (image.movedim(1, -1).unsqueeze(-2) - palette).square().sum(-1).argmin(-1)
    agreement = (nearest == label)[valid].float().mean()
    assert agreement > 0.9


def test_images_of_many_sizes_share_one_window() -> None:
    made = sampler(Stream("s", "labeled", 6, 32, Geometry(0.5, 1.0)), [(40, 200), (300, 36), (64, 64)])
    for step in range(4):
        views = make_views(made.batch(step))
        assert views.image.shape == (6, 3, 32, 32)
        assert bool(views.valid.any())


def test_multiscale_changes_the_side_on_its_steps_only() -> None:
    stream = Stream("s", "labeled", 2, 32, multiscale=MultiScale(48, 80, 3))
    made = sampler(stream, [(96, 96)] * 2)
    sides = [made.batch(step).side for step in range(30)]
    assert {s for i, s in enumerate(sides) if i % 3} == {(32, 32)}
    assert {s for i, s in enumerate(sides) if i % 3 == 0} == {(48, 48), (64, 64), (80, 80)}


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31))
def test_color_keeps_gray_gray_and_blur_keeps_the_mean(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = torch.from_numpy(color_matrix(rng, Photometric(1.0, 0.4, 0.5)))
    gray = torch.full((1, 3, 4, 4), 0.4)
    changed = gray.flatten(2).movedim(1, 2) @ matrix[:, :3].T + matrix[:, 3]
    assert float((changed.amax(-1) - changed.amin(-1)).max()) < 1e-4
    kernel = torch.from_numpy(blur_kernel(rng, 1.0))[None]
    flat = torch.full((1, 3, 8, 8), 0.3)
    assert torch.allclose(blur(flat, kernel), flat, atol=1e-5)


def test_hue_turns_by_half_of_the_jitter_of_its_circle() -> None:
    """A jitter of .5 is torchvision's ColorJitter(.5, .5, .5, .25): a quarter of the circle to either side."""

    class Drawn:
        def __init__(self, hue: float) -> None:
            self.hue = hue

        def random(self, size: int) -> np.ndarray[Any, Any]:
            return np.array([0.0, 0.5, 0.5, 0.5, self.hue, 1.0])

    red = np.array([1.0, 0.0, 0.0])
    for drawn, quarter in ((0.0, -1), (0.5, 0), (1.0, 1)):
        matrix = color_matrix(Drawn(drawn), Photometric(1.0, 0.5, 0.0))  # type: ignore[arg-type]
        i, q = _CHROMA @ matrix[:, :3] @ red
        turned = math.degrees(math.atan2(q, i) - math.atan2(*(_CHROMA @ red)[::-1]))
        assert abs(turned - 90 * quarter) < 0.5


def test_recolor_is_the_affine_map_clamped() -> None:
    image = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    color = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1)) * 2 - 0.5
    moved = torch.einsum("bij,bjhw->bihw", color[:, :, :3], image)
    expected = (moved + color[:, :, 3, None, None]).clamp(0, 1)
    assert torch.allclose(recolor(image, color), expected, atol=1e-6)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), ndim=st.sampled_from([2, 3]))
def test_a_cutmix_box_lies_inside_and_covers_its_share(seed: int, ndim: int) -> None:
    box = cutmix_box(np.random.default_rng(seed), 1.0, ndim)
    low, high = box[:ndim], box[ndim:]
    assert (low >= 0).all() and (high <= 1 + 1e-6).all() and (high > low).all()
    assert np.prod(high - low) <= 0.4 + 1e-5


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), ndim=st.sampled_from([2, 3]), number=st.integers(2, 4))
def test_several_cutmix_boxes_lie_inside_and_share_their_area(seed: int, ndim: int, number: int) -> None:
    boxes = cutmix_boxes(np.random.default_rng(seed), 1.0, number, ndim).reshape(number, 2, ndim)
    low, high = boxes[:, 0], boxes[:, 1]
    assert (low >= 0).all() and (high <= 1 + 1e-6).all() and (high > low).all()
    areas = (high - low).prod(1) * number
    assert (areas >= 0.25 - 1e-5).all() and (areas <= 0.5 + 1e-5).all()
    one, alone = (cut(np.random.default_rng(seed)) for cut in (
        lambda rng: cutmix_boxes(rng, 1.0, 1, ndim), lambda rng: cutmix_box(rng, 1.0, ndim)
    ))  # fmt: skip
    assert np.array_equal(one, alone)


def test_boxes_come_all_or_none_at_their_chance_and_in_other_shapes() -> None:
    drawn = [cutmix_boxes(np.random.default_rng(seed), 0.3, 3, 2).reshape(3, 2, 2) for seed in range(400)]
    met = [boxes for boxes in drawn if boxes.any()]
    assert 0.2 < len(met) / len(drawn) < 0.4 and all((b[:, 1] > b[:, 0]).all() for b in met)
    sides = np.concatenate([boxes[:, 1] - boxes[:, 0] for boxes in met])
    assert np.std(np.log(sides[:, 0] / sides[:, 1])) > 0.3


def test_where_two_boxes_overlap_neither_pastes() -> None:
    corners = torch.tensor([[0.0, 0.0, 0.5, 0.5, 0.25, 0.25, 0.75, 0.75], [0.0] * 8])
    covered = box_mask(corners, torch.Size([4, 4]))
    expected = [[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert covered[0].int().tolist() == expected and not covered[1].any()


def test_a_stream_pastes_as_many_boxes_as_it_is_told() -> None:
    stream = Stream("s", "unlabeled", 2, 32, PLAIN, Photometric(0, 0, 0, 0, 1.0, 3), 1, labels="none")
    made = sampler(stream, [(32, 32)] * 2)
    batch = made.batch(0)
    assert batch.box.shape == (1, 2, 12)
    views = make_views(batch)
    assert torch.equal(views.strong[0], mix(views.image, views.boxes[0])) and bool(views.boxes[0].any())


def test_mix_pastes_the_next_image_and_its_label_alike() -> None:
    image = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 2, 4, 4)
    box = box_mask(torch.tensor([[0.0, 0.0, 0.5, 0.5]] * 3), torch.Size([4, 4]))
    mixed = mix(image, box)
    assert mixed[0, 0, 0, 0] == 1 and mixed[0, 0, 3, 3] == 0 and mixed[2, 0, 0, 0] == 0
    label = torch.arange(3).view(3, 1, 1).expand(3, 4, 4)
    assert torch.equal(mix(label, box).float(), mixed[:, 0])


def test_strong_views_differ_from_the_weak_one_but_not_in_geometry() -> None:
    stream = Stream("s", "unlabeled", 4, 32, PLAIN, Photometric(1.0, 0.5, 0.0, 0.0, 0.0), 2, labels="none")
    views = make_views(sampler(stream, [(32, 32)] * 4).batch(0))
    assert len(views.strong) == 2 and not torch.allclose(views.strong[0], views.strong[1])
    # A turned hue leaves the luminance alone.
    weak, strong = (torch.tensordot(_LUMA, view, ([0], [1])) for view in (views.image, views.strong[0]))
    weak, strong = (view - view.mean((1, 2), keepdim=True) for view in (weak, strong))
    correlation = (weak * strong).sum() / (weak.norm() * strong.norm())
    assert float(correlation) > 0.5
    assert not any(bool(box.any()) for box in views.boxes)


def test_normalized_gray_has_the_known_values() -> None:
    made = normalize(torch.full((1, 3, 1, 1), 0.5)).flatten().tolist()
    assert made == pytest.approx([(0.5 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.5 - 0.406) / 0.225], rel=1e-5)


def test_the_prefetch_thread_raises_where_the_batch_would_be() -> None:
    def cut(step: int) -> dict[str, object]:
        if step == 2:
            raise RuntimeError("broken image")
        return {"step": step}

    taken = []
    fetch = Prefetcher(cut, 0, 5)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="broken image"):
        for batch in fetch:
            taken.append(batch["step"])
    assert taken == [0, 1]
    fetch.close()
