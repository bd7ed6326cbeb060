"""Checkpoints of other networks are refused with both shapes, no pickle is run, and a full disk loses nothing."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import trainable.session
from tests.support.images import blocks_dataset
from trainable import train
from trainable.checkpoint import load_best, load_last, read_snapshot, save_best, save_last
from trainable.config import RunConfig
from trainable.errors import CheckpointError
from trainable.faults import FAULT_POINTS, armed
from trainable.state import Snapshot

TINY = {
    "steps": 2, "eval_every_steps": 2, "batch_size": 2, "crop_size": 32, "patience": 0, "encoder_weights": None,
    "architecture": "fpn", "encoder": "tu-test_resnet", "amp": "off",
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, classes: int = 3, **values: Any) -> None:
    monkeypatch.setattr(
        trainable.session, "open_dataset", lambda cfg, base, **kwargs: blocks_dataset(num_classes=classes)
    )
    config = {"name": "t", "recipe": "supervised", "data": {"root": "."}, "train": TINY | values, "seed": 3}
    train(RunConfig.model_validate(config), folder)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def snapshot(step: int) -> Snapshot:
    return Snapshot({"recipe": "r"}, {"step": step}, {"net": {"w": torch.full((3, 2), float(step))}}, {}, {})


@pytest.mark.fault(
    19,
    how="a run folder of 3 classes opened with 4, and one of fpn opened with unet",
    saw=(
        "refused with both values and both shapes, such as `[3, 128, 1, 1] there and [4, 128, 1, 1] "
        "here`; no file is changed"
    ),
)
def test_another_class_count_or_architecture_is_refused_with_both_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, monkeypatch)
    before = files(tmp_path)
    with pytest.raises(CheckpointError) as found:
        run(tmp_path, monkeypatch, classes=4)
    text = str(found.value)
    assert "classes is ['a', 'b', 'c'] there and ['a', 'b', 'c', 'd'] here" in text
    assert "has shape [3, 128, 1, 1] there and [4, 128, 1, 1] here" in text
    with pytest.raises(CheckpointError) as found:
        run(tmp_path, monkeypatch, architecture="unet")
    text = str(found.value)
    assert "train.architecture is 'fpn' there and 'unet' here" in text
    assert "has shape none there and [" in text and "more tensors differ" in text
    assert files(tmp_path) == before


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trapped",)


@pytest.mark.fault(
    48,
    how=(
        "pickles that make a folder when they are loaded, as a torch file, an old torch file and a plain "
        "pickle, in the place of a checkpoint"
    ),
    saw="read as damaged; the code in them is never run",
)
@pytest.mark.parametrize("name", ["last.pt", "previous.pt"])
def test_a_pickle_from_elsewhere_is_never_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for write in (
        lambda path: torch.save({"format": 1, "fingerprint": Trap()}, path),
        lambda path: torch.save(Trap(), path, _use_new_zipfile_serialization=False),
        lambda path: path.write_bytes(pickle.dumps(Trap())),
    ):
        write(folder / name)
        found, notes = load_last(tmp_path / "run")
        assert found is None and name in notes[0]
        assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("content", [[1], {"format": 2}, {"format": 1, "nets": {}}, {"format": 1, "more": 1}])
def test_a_torch_file_of_something_else_is_a_damaged_state(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="last.pt: must"):
        read_snapshot(tmp_path / "last.pt")


def _full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.fault(
    14,
    how="ENOSPC in the write and in the fsync of a checkpoint",
    saw="both states before stand, byte for byte",
    seam=True,
)
@pytest.mark.parametrize("point", ["checkpoint.write", "checkpoint.fsync"])
def test_a_full_disk_leaves_both_states(point: str, tmp_path: Path) -> None:
    for step in (1, 2):
        save_last(tmp_path, snapshot(step))
    before = files(tmp_path)
    with armed(point, _full), pytest.raises(OSError, match="No space left"):
        save_last(tmp_path, snapshot(3))
    assert files(tmp_path) == before
    save_last(tmp_path, snapshot(3))
    assert read_snapshot(tmp_path / "checkpoints" / "previous.pt").loop["step"] == 2


@pytest.mark.parametrize("point", [name for name in FAULT_POINTS if name.startswith("best.")])
def test_a_full_disk_leaves_a_best_model(point: str, tmp_path: Path) -> None:
    weights = {"w": torch.ones(2)}
    save_best(tmp_path, weights, step=1, value=0.5, model={})
    with armed(point, _full), pytest.raises(OSError, match="No space left"):
        save_best(tmp_path, weights, step=2, value=0.6, model={})
    best, found = load_best(tmp_path)
    assert best.step in (1, 2) and torch.equal(found["w"], weights["w"])


def test_a_better_model_of_a_later_step_stays_unless_it_is_damaged_or_of_another_run(tmp_path: Path) -> None:
    weights = {"w": torch.ones(2)}

    def higher(value: float, than: float) -> bool:
        return value > than

    def best(step: int, value: float, model: dict[str, Any]) -> float:
        save_best(tmp_path, weights, step=step, value=value, model=model, better=higher)
        return load_best(tmp_path)[0].value

    assert best(20, 0.7, {"seed": (1, 2)}) == 0.7
    assert best(10, 0.5, {"seed": (1, 2)}) == 0.7
    assert best(10, 0.8, {"seed": (1, 2)}) == 0.8
    assert best(20, 0.9, {"seed": (1, 2)}) == 0.9
    assert best(10, 0.5, {"seed": (1, 3)}) == 0.5
    assert best(20, 0.7, {"seed": (1, 3)}) == 0.7
    (tmp_path / "checkpoints" / "best-00000020.safetensors").write_bytes(b"damaged")
    assert best(10, 0.5, {"seed": (1, 3)}) == 0.5
