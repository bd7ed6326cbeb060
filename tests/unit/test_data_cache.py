"""The cache: the decoded pixels exactly, built once, shared, and never half-written or silently damaged."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.folders import config, ids_of, image_of, listed_folder, write_folder, write_lists
from trainable.config import CacheConfig, DataConfig
from trainable.data import cache as cache_module
from trainable.data import pack as pack_module
from trainable.data.cache import open_cache
from trainable.data.hashes import cache_folder
from trainable.data.lock import STALE_S, build_lock
from trainable.data.manifest import build_manifest
from trainable.errors import DataError
from trainable.faults import armed
from trainable.processes import pid_alive


def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are decoded from now on."""
    seen: list[Path] = []
    read = cache_module.read_pixels

    def counted(path: Path) -> Any:
        seen.append(path)
        return read(path)

    monkeypatch.setattr(cache_module, "read_pixels", counted)
    return seen


def require_exact(cfg: DataConfig, base: Path, names: list[str]) -> None:
    manifest = build_manifest(cfg, base)
    cache = open_cache(manifest, cfg.cache)
    for index, item in enumerate(manifest.items):
        image = cache.image(index)
        assert np.array_equal(image, image_of(names.index(item.id)))
        assert not image.flags.writeable
        if item.split != "unlabeled":
            assert np.array_equal(cache.mask(index), ids_of(names.index(item.id)))
    assert tuple(cache.class_pixels()) == manifest.class_pixels("labeled")


def test_pixels_come_back_exactly_and_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, cfg = listed_folder(tmp_path / "set")
    seen = decoded(monkeypatch)
    require_exact(cfg, tmp_path, names)
    assert len(seen) == len(names)
    require_exact(cfg, tmp_path, names)
    assert len(seen) == len(names)


def test_another_split_of_the_same_images_decodes_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, cfg = listed_folder(tmp_path / "set")
    require_exact(cfg, tmp_path, names)
    seen = decoded(monkeypatch)
    write_lists(tmp_path / "set", {"labeled": [names[2]], "unlabeled": [*names[:2], *names[3:6]]})
    require_exact(cfg, tmp_path, names)
    assert seen == []


def test_sizes_may_differ_and_gray_is_shown_as_rgb(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names = write_folder(root)
    shapes = {names[0]: (7, 31), names[5]: (40, 5)}
    for place, (name, shape) in enumerate(shapes.items()):
        Image.fromarray(image_of(place, shape)[..., 0]).save(root / "images" / f"{name}.png")
        Image.fromarray(ids_of(place, shape)).save(root / "masks" / f"{name}.png")
    cfg = config(root)
    manifest = build_manifest(cfg, tmp_path)
    cache = open_cache(manifest, cfg.cache)
    for place, (name, shape) in enumerate(shapes.items()):
        index = [item.id for item in manifest.items].index(name)
        assert cache.image(index).shape == (*shape, 3)
        assert (cache.image(index) == image_of(place, shape)[..., :1]).all()
        assert np.array_equal(cache.mask(index), ids_of(place, shape))


def test_equal_images_are_stored_once(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names = write_folder(root)
    cfg = config(root)
    before = open_cache(build_manifest(cfg, tmp_path), cfg.cache).nbytes
    shutil.copy(root / "images" / f"{names[0]}.png", root / "images" / f"{names[1]}.png")
    assert open_cache(build_manifest(cfg, tmp_path), cfg.cache).nbytes == before - image_of(0).nbytes


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "remove", "index", "sums", "empty", "traverse"])
def test_a_damaged_cache_is_built_again(tmp_path: Path, damage: str) -> None:
    names, cfg = listed_folder(tmp_path / "set")
    require_exact(cfg, tmp_path, names)
    pixels = tmp_path / "cache" / "pixels"
    for data in pixels.glob("*.bin"):
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        if damage == "flip":
            data.write_bytes(content)
        elif damage == "cut":
            data.write_bytes(content[:-1])
        elif damage == "grow":
            data.write_bytes(bytes(content) + b"x")
        elif damage == "remove":
            data.unlink()
    for index in pixels.glob("*.json"):
        if damage == "index":
            index.write_text(index.read_text().replace("1", "2", 1))
        elif damage == "empty":
            index.write_bytes(b"")
        elif damage in ("sums", "traverse"):
            plain = json.loads(index.read_text())["index"]
            plain |= {"sums": plain["sums"][:-1]} if damage == "sums" else {"data": "../pixels/" + plain["data"]}
            index.write_text(json.dumps({"index": plain, "checksum": pack_module._checksum(plain)}))
    require_exact(cfg, tmp_path, names)
    assert len(list(pixels.iterdir())) == 4, "what was damaged is gone"


@pytest.mark.fault(
    13,
    how="ENOSPC at each write, fsync and rename of the pixel cache",
    saw="refused by name; no part of a cache is left behind",
    seam=True,
)
@pytest.mark.parametrize("place", ["cache.write", "cache.fsync", "cache.rename", "cache.index.rename"])
def test_a_full_disk_ends_the_build_and_leaves_nothing_behind(tmp_path: Path, place: str) -> None:
    names, cfg = listed_folder(tmp_path / "set")
    manifest = build_manifest(cfg, tmp_path)

    def full() -> None:
        raise OSError(28, "No space left on device")

    with armed(place, full), pytest.raises(DataError, match="No space left.*THRESHER_CACHE"):
        open_cache(manifest, cfg.cache)
    assert list((tmp_path / "cache" / "pixels").iterdir()) == []
    require_exact(cfg, tmp_path, names)


BUILD = """
import sys
from pathlib import Path
from tests.support.folders import LISTED, config
from trainable.data.cache import open_cache
from trainable.data.manifest import build_manifest
cfg = config(Path(sys.argv[1]), **LISTED)
open_cache(build_manifest(cfg, Path(".")), cfg.cache)
"""


@pytest.mark.parametrize("place", ["cache.write:3", "cache.fsync", "cache.rename", "cache.index.rename:2"])
def test_a_killed_build_is_taken_over(tmp_path: Path, place: str) -> None:
    names, cfg = listed_folder(tmp_path / "set")
    killed = subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path / "set")],
        env=os.environ | {"THRESHER_FAULT": place, "OMP_NUM_THREADS": "1"}, timeout=120, check=False,
    )  # fmt: skip
    assert killed.returncode == 137
    assert list((tmp_path / "cache" / "pixels").glob("*.lock"))
    require_exact(cfg, tmp_path, names)
    assert len(list((tmp_path / "cache" / "pixels").iterdir())) == 4, "the killed build's files are gone"


def _open_and_count(root: str, base: str) -> int:
    """How many images this process decoded."""
    seen = []
    read = cache_module.read_pixels

    def slow(path: Path) -> Any:
        seen.append(path)
        time.sleep(0.02)
        return read(path)

    cache_module.read_pixels = slow
    cfg = config(Path(root), **{key: f"splits/{key}.txt" for key in ("labeled", "unlabeled", "val", "test")})
    open_cache(build_manifest(cfg, Path(base)), cfg.cache)
    return len(seen)


def test_of_several_processes_one_builds(tmp_path: Path) -> None:
    names, _ = listed_folder(tmp_path / "set")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        counts = pool.starmap(_open_and_count, [(str(tmp_path / "set"), str(tmp_path))] * 2)
    assert sorted(counts) == [0, len(names)]


def test_a_lock_of_a_dead_or_silent_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    finished = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    dead = int(finished.stdout)
    assert pid_alive(os.getpid())
    assert not pid_alive(dead)
    here = socket.gethostname()
    old = time.time() - STALE_S - 5
    for content, age in (({"host": here, "pid": dead}, None), ({"host": "elsewhere", "pid": 1}, old), (None, old)):
        path.write_text("" if content is None else json.dumps(content))
        if age is not None:
            os.utime(path, (age, age))
        with build_lock(path, lambda: False) as lock:
            assert lock is not None
            assert json.loads(path.read_text())["pid"] == os.getpid()
        assert not path.exists()


def test_whoever_waits_goes_on_once_the_work_is_done(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    asked = []

    def ready() -> bool:
        asked.append(1)
        return len(asked) > 2

    with build_lock(path, lambda: False) as holder, build_lock(path, ready) as waiter:
        assert holder is not None
        assert waiter is None
    assert len(asked) == 3


@pytest.mark.fault(
    37,
    how="images cut short after the check, found when a run decodes them",
    saw="DataError with every file name; no cache is built",
)
def test_damaged_images_are_named_and_nothing_is_built(tmp_path: Path) -> None:
    names, cfg = listed_folder(tmp_path / "set")
    for place in (0, 5):
        path = tmp_path / "set" / "images" / f"{names[place]}.png"
        path.write_bytes(path.read_bytes()[:-60])
    manifest = build_manifest(cfg, tmp_path)
    with pytest.raises(DataError) as caught:
        open_cache(manifest, cfg.cache)
    assert [Path(fault.where).stem for fault in caught.value.faults] == [names[0], names[5]]
    assert list((tmp_path / "cache" / "pixels").iterdir()) == []


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_file_that_changed_since_the_manifest_is_refused(tmp_path: Path, kind: str) -> None:
    names, cfg = listed_folder(tmp_path / "set")
    manifest = build_manifest(cfg, tmp_path)
    other = image_of(77) if kind == "images" else ids_of(77)
    Image.fromarray(other).save(tmp_path / "set" / kind / f"{names[0]}.png")
    with pytest.raises(DataError, match=f"{names[0]}.png: a file must not change"):
        open_cache(manifest, cfg.cache)


def test_too_little_room_is_refused_with_the_arithmetic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, cfg = listed_folder(tmp_path / "set")
    manifest = build_manifest(cfg, tmp_path)
    with pytest.raises(DataError, match=r"12 images of 0.000 GB and 9 masks .* max_gb=1e-06"):
        open_cache(manifest, CacheConfig(dir=str(tmp_path / "cache"), max_gb=1e-6))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(DataError, match=r"more than the 0.001 GB that are free"):
        open_cache(manifest, cfg.cache)
    assert not (tmp_path / "cache" / "pixels").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    _, cfg = listed_folder(tmp_path / "set")
    manifest = build_manifest(cfg, tmp_path)
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(DataError, match="must be writable.*data.cache.dir"):
        open_cache(manifest, CacheConfig(dir=str(tmp_path / "taken")))


def test_the_folder_is_the_environments_then_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THRESHER_CACHE", raising=False)
    monkeypatch.setattr(cache_module.cache_folder.__globals__["platform"], "system", lambda: "Linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder(CacheConfig(), tmp_path) == tmp_path / "xdg" / "thresher"
    assert cache_folder(CacheConfig(dir="mine"), tmp_path) == tmp_path / "mine"
    monkeypatch.setenv("THRESHER_CACHE", str(tmp_path / "forced"))
    assert cache_folder(CacheConfig(dir="mine"), tmp_path) == tmp_path / "forced"


def test_large_packs_are_checked_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, cfg = listed_folder(tmp_path / "set")
    monkeypatch.setattr(pack_module, "_VERIFY_BYTES", 600)
    monkeypatch.setattr(pack_module, "_BATCH_BYTES", 1000)
    require_exact(cfg, tmp_path, names)
    require_exact(cfg, tmp_path, names)
