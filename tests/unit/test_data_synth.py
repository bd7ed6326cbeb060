"""Generated scenes: the same from a seed everywhere, sound by the project's own check, and no trivial task."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.folders import config
from trainable.config import DataConfig
from trainable.data.check import inspect
from trainable.data.draws import Draws, cover, fill_path, smooth_noise
from trainable.data.manifest import build_manifest, hidden_mask
from trainable.data.paint import paint
from trainable.data.scenes import BARE, CLASS_NAMES, ROAD, make_scene
from trainable.data.synth import GROUP_BY, write_scenes
from trainable.errors import ConfigError

SPLITS = {
    "labeled": "splits/labelled.txt",
    "unlabeled": "splits/unlabelled.txt",
    "val": "splits/val.txt",
    "test": "splits/test.txt",
}


def written(root: Path, **given: int) -> DataConfig:
    write_scenes(root, **({"photos": 6, "patches_per_photo": 4, "size": 64, "labeled": 5} | given))
    return config(root, group_by=GROUP_BY, **SPLITS)


def pixels_digest(root: Path) -> str:
    """Over names and pixels; encoders may differ, pixels may not."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.png")):
        digest.update(path.name.encode() + np.asarray(Image.open(path)).tobytes())
    for path in sorted(root.rglob("*.txt")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def test_scenes_pass_the_check_without_a_word(tmp_path: Path) -> None:
    report = inspect(written(tmp_path / "set"), tmp_path)
    assert report.faults == []
    assert report.warnings == []
    assert report.class_names == CLASS_NAMES
    assert {split: counts.images for split, counts in report.splits.items()} == {
        "labeled": 5, "unlabeled": 11, "val": 4, "test": 4,
    }  # fmt: skip


def test_a_seed_fixes_every_pixel(tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        written(tmp_path / folder, seed=seed)
    assert pixels_digest(tmp_path / "a") == pixels_digest(tmp_path / "b")
    assert pixels_digest(tmp_path / "a") != pixels_digest(tmp_path / "c")


def test_the_pixels_of_seed_0_are_these(tmp_path: Path) -> None:
    written(tmp_path / "set")
    assert pixels_digest(tmp_path / "set") == "67583d77516114bc"


def test_the_rare_class_is_rare_and_roads_are_thin() -> None:
    shares = []
    for photo in range(6):
        labels = make_scene(Draws(3, f"photo {photo}"), 384, 384).labels
        shares.append(np.bincount(labels.ravel(), minlength=7) / labels.size)
        road = labels == ROAD
        inner = road & np.roll(road, 6, 0) & np.roll(road, -6, 0) & np.roll(road, 6, 1) & np.roll(road, -6, 1)
        assert inner.sum() < 0.05 * road.sum()
    mean = np.mean(shares, axis=0)
    assert mean.argmin() == BARE
    assert 0.005 < mean[BARE] < 0.02
    assert (mean > 0.005).all()


def test_labels_are_simpler_than_the_ground_and_photos_differ_in_light() -> None:
    means = []
    for photo in range(5):
        draws = Draws(0, f"photo {photo}")
        scene = make_scene(draws, 256, 256)
        assert 0.01 < (scene.labels != scene.truth).mean() < 0.2
        means.append(paint(draws, scene).reshape(-1, 3).mean(axis=0))
    assert np.ptp(np.array(means), axis=0).min() > 15


def test_hidden_labels_of_the_pool_are_written(tmp_path: Path) -> None:
    manifest = build_manifest(written(tmp_path / "set"), tmp_path)
    pool = [item for item in manifest.items if item.split == "unlabeled"]
    assert all(hidden_mask(manifest, item) is not None for item in pool)
    assert all(item.mask is None for item in pool)


def test_labeled_patches_come_from_half_of_the_photos(tmp_path: Path) -> None:
    manifest = build_manifest(written(tmp_path / "set", photos=10, patches_per_photo=4, labeled=8), tmp_path)
    labeled = {item.group for item in manifest.items if item.split == "labeled"}
    pool = {item.group for item in manifest.items if item.split == "unlabeled"}
    assert len(labeled) <= 3
    assert len(labeled | pool) == 6


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"photos": 2}, "photos=2"),
        ({"size": 8}, "size=8"),
        ({"patches_per_photo": 0}, "patches_per_photo=0"),
        ({"labeled": 16}, "between 1 and 15"),
        ({"labeled": 0}, "labeled=0"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, given: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        written(tmp_path / "set", **given)
    assert not (tmp_path / "set").exists()


def test_shapes_are_filled_like_a_slow_reference() -> None:
    draws = Draws(5, "shapes")
    for _ in range(40):
        corners = [(draws.number(-4, 24), draws.number(-4, 18)) for _ in range(3)]
        rounded = [(round(x * 16) / 16, round(y * 16) / 16) for x, y in corners]
        got = np.zeros((14, 20), bool)
        found = cover(got.shape, corners)
        if found is not None:
            got[found[0], found[1]] = found[2]
        for y in range(14):
            for x in range(20):
                sides = [
                    (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)
                    for (x0, y0), (x1, y1) in zip(rounded, [*rounded[1:], rounded[0]], strict=True)
                ]
                assert got[y, x] == (all(s >= 0 for s in sides) or all(s <= 0 for s in sides))


def test_a_path_has_its_width() -> None:
    target = np.zeros((20, 40), np.uint8)
    fill_path(target, [(-5, 10), (45, 10)], 4, 1)
    assert target.sum(axis=0).tolist() == [5] * 40


def test_noise_stays_in_range_and_is_smooth() -> None:
    noise = smooth_noise(Draws(0, "noise"), 50, 70, 10)
    assert noise.shape == (50, 70)
    assert 0 <= noise.min() < 0.2
    assert 0.8 < noise.max() <= 1
    assert np.abs(np.diff(noise, axis=1)).max() < 0.16
