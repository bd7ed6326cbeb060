"""Real data sets, where there are any: land cover, particles and membranes through the same code."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainable.config import DataConfig
from trainable.data.cache import open_cache
from trainable.data.check import inspect
from trainable.data.manifest import build_manifest, read_mask

DATA = Path(os.environ.get("THRESHER_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def section(cache: Path, name: str, seeds: str, **given: Any) -> DataConfig:
    root = DATA / name
    if not root.is_dir():
        pytest.skip(f"{root} is not there; THRESHER_DATA names the folder of real data sets")
    lists = {"labeled": f"splits/{seeds}/labelled.txt", "unlabeled": f"splits/{seeds}/unlabelled.txt"}
    return DataConfig(root=str(root), **lists, val="splits/val.txt", cache={"dir": str(cache)}, **given)


CASES = [
    ("dubai_landcover", "n50_seed0", {"group_by": r"^(t\d+p\d+)"}, (50, 928, 163)),
    ("apoferritin_cryoem", "n2_seed0", {}, (2, 10, 2)),
    ("apoferritin_cryoem", "n2_seed0", {"points": {"file": "points.csv", "radius": 16}}, (2, 10, 2)),
    ("isbi_em", "n2_seed0", {}, (2, 49, 3)),
    ("isbi_em", "n2_seed0",
     {"group_by": "none", "volume": {"group_by": "^(tr|un)", "order_by": r"z(\d+)$"}}, (2, 49, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "seeds", "given", "counts"), CASES)
def test_a_real_set_is_read_checked_and_decoded(
    tmp_path: Path, name: str, seeds: str, given: dict[str, Any], counts: tuple[int, int, int]
) -> None:
    cfg = section(tmp_path, name, seeds, **given)
    report = inspect(cfg, tmp_path, decode=name != "dubai_landcover")
    assert report.faults == []
    assert tuple(report.splits[split].images for split in ("labeled", "unlabeled", "val")) == counts
    manifest = build_manifest(cfg, tmp_path)
    meta = json.loads((DATA / name / "meta.json").read_text())
    if manifest.layout != "points":
        assert list(manifest.class_names) == [row["name"] for row in meta["classes"]]
        shares = np.array(manifest.class_pixels("val")) / sum(manifest.class_pixels("val"))
        assert np.allclose(shares, meta["frequency_by_split"]["val"], atol=1e-5)
    if name != "dubai_landcover":
        cache = open_cache(manifest, cfg.cache)
        assert tuple(cache.class_pixels()) == manifest.class_pixels("labeled")


def test_discs_agree_with_the_drawn_particles(tmp_path: Path) -> None:
    drawn = build_manifest(section(tmp_path, "apoferritin_cryoem", "n4_seed0"), tmp_path)
    points = {"file": "points.csv", "radius": 16}
    discs = build_manifest(section(tmp_path, "apoferritin_cryoem", "n4_seed0", points=points), tmp_path)
    for a, b in zip(drawn.items, discs.items, strict=True):
        if a.split != "unlabeled":
            left, right = read_mask(drawn, a) == 1, read_mask(discs, b) == 1
            assert (left & right).sum() / (left | right).sum() > 0.85
    with (DATA / "apoferritin_cryoem" / "points.csv").open(encoding="utf-8") as file:
        rows = sum(1 for _ in csv.DictReader(file))
    listed = {item.id for item in discs.items if item.points is not None}
    assert 0 < sum(len(item.points or ()) for item in discs.items) < rows
    assert len(listed) == 6


@pytest.mark.fault(
    41,
    how="sections of one real volume in train and val",
    saw="refused unless allow_leak",
)
def test_sections_of_one_volume_on_both_sides_need_a_word(tmp_path: Path) -> None:
    volume = {"group_by": "^(tr|un)", "order_by": r"z(\d+)$"}
    report = inspect(section(tmp_path, "isbi_em", "n2_seed0", volume=volume), tmp_path, decode=False)
    assert any("both labeled and val: tr" in str(fault) for fault in report.faults)
