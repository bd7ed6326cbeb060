"""What a machine has and lacks, checked without changing it."""

from __future__ import annotations

import importlib
import importlib.metadata
import netrc
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from search.store import open_store
from trainable.errors import ThresherError

State = Literal["ok", "warn", "fail"]
PACKAGES = ("torch", "torchvision", "ray", "optuna", "segmentation-models-pytorch", "pandas", "pyarrow", "wandb")
LITTLE_DISK_GB = 20.0
LITTLE_SHM_GB = 1.0


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        what: what was looked at.
        state: `ok`, `warn` (works, but know it) or `fail` (will not work).
        detail: what was found, and what to do.
    """

    what: str
    state: State
    detail: str


def examine(storage: str) -> Iterator[Check]:
    """Every check, in order.

    Args:
        storage: where runs are to be kept.
    """
    yield _python()
    yield from _packages()
    yield _same_build()
    yield from _devices()
    yield _processor()
    yield _disk("disk for runs", Path(storage) if "://" not in storage else Path.cwd())
    yield _shared_memory()
    yield _storage(storage)
    yield _ray()
    yield _wandb()


def _python() -> Check:
    fits = sys.version_info >= (3, 11)
    hint = "" if fits else "; thresher needs 3.11 or newer"
    return Check("python", "ok" if fits else "fail", f"{platform.python_version()} on {platform.system()}{hint}")


def _packages() -> Iterator[Check]:
    for name in PACKAGES:
        try:
            yield Check(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, "fail", "not installed; install requirements.lock")


def _same_build() -> Check:
    """torch and torchvision of different builds fail only when torchvision is loaded."""
    try:
        importlib.import_module("torchvision.ops")
    except (ImportError, RuntimeError) as error:
        detail = f"torchvision does not fit torch ({error}); install both from requirements.lock"
        return Check("torch + torchvision", "fail", detail)
    return Check("torch + torchvision", "ok", "fit each other")


def _devices() -> Iterator[Check]:
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = "torch was built without CUDA" if built is None else f"CUDA {built} build, but no usable device"
        yield Check("gpu", "warn", f"none ({why}); trials train on the CPU")
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found = torch.cuda.get_device_properties(index)
        yield Check(f"gpu {index}", "ok", f"{found.name}, {found.total_memory / 2**30:.0f} GB")


def _processor() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Check("cpu", "ok", f"{cores} cores")


def _disk(what: str, folder: Path) -> Check:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    little = free < LITTLE_DISK_GB
    return Check(what, "warn" if little else "ok", f"{free:.0f} GB free at {folder}")


def _shared_memory() -> Check:
    shm = Path("/dev/shm")
    if not shm.is_dir():
        return Check("shared memory", "ok", "no /dev/shm on this system")
    total = shutil.disk_usage(shm).total / 2**30
    little = total < LITTLE_SHM_GB
    hint = "; Ray is slow and may fail below 1 GB: enlarge it (docker: --shm-size)" if little else ""
    return Check("shared memory", "warn" if little else "ok", f"{total:.1f} GB{hint}")


def _storage(storage: str) -> Check:
    probe = f"{storage.rstrip('/')}/.thresher-doctor"
    try:
        open_store(probe).preflight()
    except ThresherError as error:
        return Check("storage", "fail", str(error))
    return Check("storage", "ok", f"{storage} can keep a run")


def _ray() -> Check:
    address = os.environ.get("THRESHER_RAY_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if not address:
        return Check("ray cluster", "ok", "none named; a search starts its own on this machine")
    token = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    hint = "" if token else ", without RAY_AUTH_MODE=token: refused unless --insecure or on loopback"
    return Check("ray cluster", "ok" if token else "warn", f"{address}{hint}")


def _wandb() -> Check:
    if os.environ.get("WANDB_API_KEY"):
        return Check("wandb key", "ok", "in the environment (its value is never shown)")
    if _netrc_has("api.wandb.ai", netrc.netrc):
        return Check("wandb key", "ok", "in netrc (its value is never shown)")
    return Check("wandb key", "warn", "none; mode auto records offline, and `thresher wandb-sync` sends it later")


def _netrc_has(host: str, reader: Callable[[], netrc.netrc]) -> bool:
    try:
        return reader().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
