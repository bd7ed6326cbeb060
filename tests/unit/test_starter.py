"""The starter file tells of the lists that it does not take."""

from __future__ import annotations

from pathlib import Path

from search.starter import starter
from trainable.data.synth import write_scenes


def test_other_lists_of_labeled_images_are_named(tmp_path: Path) -> None:
    write_scenes(tmp_path / "s", photos=4, patches_per_photo=4, size=64, labeled=4, seed=0)
    assert "other lists" not in starter(tmp_path / "s", tmp_path / "s.yaml")
    for name in ("n1", "n2"):
        (tmp_path / "s" / "splits" / name).mkdir()
        (tmp_path / "s" / "splits" / name / "labelled.txt").write_text("p00_0\n")
    text = starter(tmp_path / "s", tmp_path / "s.yaml")
    assert "  # other lists of labeled images: splits/n1/labelled.txt, splits/n2/labelled.txt\n" in text
