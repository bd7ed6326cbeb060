"""Sections stacked into volumes: which belong together, and whose labels are seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainable.config import DataConfig, RunConfig
from trainable.data.dataset import open_dataset
from trainable.data.stacks import StackSource
from trainable.errors import ConfigError, DataError
from trainable.loop import train

SPLITS = {"labeled": (0, 2), "unlabeled": (1, 3), "val": (4, 5), "test": (7,)}


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    """Volume a of nine sections, 6 and 8 in no list; volume b of two unlabeled ones."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    names = [f"a_z{z:02d}" for z in range(9)] + ["b_z00", "b_z01"]
    for name in names:
        Image.fromarray(rng.integers(0, 255, (12, 10), np.uint8)).save(tmp_path / "images" / f"{name}.png")
        if name.startswith("a"):
            Image.fromarray(rng.integers(0, 2, (12, 10), np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "class_mapping.csv").write_text("class_name,class_color\ncell,0 0 0\nmembrane,255 255 255\n")
    for split, places in SPLITS.items():
        listed = [f"a_z{z:02d}" for z in places] + (["b_z00", "b_z01"] if split == "unlabeled" else [])
        (tmp_path / f"{split}.txt").write_text("\n".join(listed) + "\n")
    lists: dict[str, Any] = {split: f"{split}.txt" for split in SPLITS}
    return DataConfig(
        root=str(tmp_path), layout="volume", group_by="none", cache={"dir": str(tmp_path / "cache")},  # type: ignore[arg-type]
        volume={"group_by": "^([a-z])", "order_by": r"z(\d+)"}, **lists,  # type: ignore[arg-type]
    )  # fmt: skip


def test_training_sections_stack_and_a_gap_or_another_split_ends_a_stack(data: DataConfig) -> None:
    opened = open_dataset(data, Path("/"))
    assert opened.task().ndim == 3
    found = {split: [opened.shapes[p] for p in places] for split, places in opened.splits.items()}
    assert found == {
        "labeled": [(4, 12, 10)], "unlabeled": [(2, 12, 10)], "val": [(2, 12, 10)], "test": [(1, 12, 10)],
    }  # fmt: skip
    assert sum(opened.task().class_pixels) == 2 * 12 * 10


def test_pixels_are_the_sections_and_those_without_labels_are_ignored(data: DataConfig) -> None:
    opened, root = open_dataset(data, Path("/")), Path(data.root)
    (position,) = opened.splits["labeled"]
    for z in range(4):
        image = np.array(Image.open(root / "images" / f"a_z{z:02d}.png"))
        assert (opened.source.image(position)[z] == image[..., None]).all()
        mask = np.array(Image.open(root / "masks" / f"a_z{z:02d}.png"))
        assert (opened.source.mask(position)[z] == (mask if z in SPLITS["labeled"] else 255)).all()
    assert opened.source.image(position).shape == (4, 12, 10, 3)
    with pytest.raises(DataError, match="labeled section"):
        opened.source.mask(opened.splits["unlabeled"][0])


def test_beyond_its_room_a_volume_is_stacked_anew_and_equal(data: DataConfig) -> None:
    source = open_dataset(data, Path("/")).source
    assert isinstance(source, StackSource)
    small = StackSource(source._source, source._stacks, held_bytes=0)
    assert source.image(0) is source.image(0) and small.image(0) is not small.image(0)
    assert (small.image(0) == source.image(0)).all() and (small.mask(0) == source.mask(0)).all()


def test_a_recipe_for_images_refuses_volumes(data: DataConfig, tmp_path: Path) -> None:
    run = RunConfig(name="t", recipe="supervised", data=data, train={"steps": 2})
    with pytest.raises(ConfigError, match="supervised takes images, but the data are volumes"):
        train(run, tmp_path / "run")
