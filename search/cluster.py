"""Starting Ray, or joining a cluster that is safe to join, and leaving nothing behind."""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private import worker as ray_worker
from ray._private.state import state as global_state

from trainable.errors import ConfigError, ThresherError
from trainable.processes import pid_alive

ADDRESS_VARIABLES = ("THRESHER_RAY_ADDRESS", "RAY_ADDRESS")
TEMP_PREFIX = "thr-"
OBJECT_STORE_BYTES = 100 * 2**20
START_TRIES = 3
_PROBE = """
import sys
from ray._raylet import GcsClient
try:
    GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, timeout=10)
except Exception as error:
    sys.exit(3 if "auth" in f"{type(error).__name__} {error}".lower() else 4)
"""

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A busy machine may take a minute for what takes seconds.
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000000",
    # Tune's own snapshot is a cache that nobody reads.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
}
"""How Tune is told to keep quiet and to leave signals and results to us."""


@dataclass(frozen=True)
class Cluster:
    """A Ray that this process is connected to.

    Attributes:
        own: whether we started it.
        temp: a folder for what only this session needs.
    """

    own: bool
    temp: Path

    @property
    def nodes(self) -> list[Mapping[str, float]]:
        """Resources of every node that is alive, or that the autoscaler may still add."""
        alive = [node["Resources"] for node in alive_nodes()]
        limit = _autoscaler_limit()
        extra = {
            kind: max(0.0, limit.get(kind, 0) - sum(node.get(kind, 0.0) for node in alive))
            for kind in ("CPU", "GPU")
        }
        return [*alive, extra] if extra["CPU"] > 0 or extra["GPU"] > 0 else alive

    @property
    def shared(self) -> bool:
        """Whether there is more than one machine, so that local files are not seen by all trials."""
        hosts = {node["NodeManagerHostname"] for node in alive_nodes()}
        return len(hosts) > 1 or hosts != {socket.gethostname()}


def alive_nodes() -> list[dict[str, Any]]:
    """Ray's own description of every node that is there."""
    nodes: Any = ray.nodes  # untyped in Ray
    return [node for node in nodes() if node["Alive"]]


@contextmanager
def connected(
    address: str | None = None,
    *,
    insecure: bool = False,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
) -> Iterator[Cluster]:
    """Connects to Ray while the block runs, and shuts down only what it started.

    Args:
        address: an existing cluster; None = the environment's (`THRESHER_RAY_ADDRESS`, `RAY_ADDRESS`), else a
            new one on this machine alone.
        insecure: join even a cluster that anybody who reaches it can run code on.
        num_cpus: CPUs of a new one; None = all.
        num_gpus: GPUs of a new one; None = all.

    Raises:
        ConfigError: the cluster is not there, or not safe.
    """
    os.environ.update(QUIET)
    temp = Path(tempfile.mkdtemp(prefix=f"{TEMP_PREFIX}{os.getpid()}-", dir=_short_folder()))
    _clear_dead(temp.parent)
    try:
        if ray.is_initialized():
            with _no_raw_errors():
                yield Cluster(False, temp)
            return
        where = address or next((os.environ[v] for v in ADDRESS_VARIABLES if os.environ.get(v)), "local")
        _start(where, insecure, temp, {"num_cpus": num_cpus, "num_gpus": num_gpus})
        try:
            with _no_raw_errors():
                yield Cluster(where == "local", temp)
        finally:
            ray.shutdown()
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _start(where: str, insecure: bool, temp: Path, size: Mapping[str, int | None]) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if where == "local":
        _own_token()
        _share_path()
        # The path of a socket must stay under 108 bytes, hence the short folder.
        folder = str(temp / "ray")
        options |= {
            **size,
            "include_dashboard": False,
            "_temp_dir": folder,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    else:
        check_safe(where, insecure)
    for tries_left in reversed(range(START_TRIES if where == "local" else 1)):
        try:
            with _deaf_children():
                ray.init(address=where, **options)
            return
        except Exception as error:  # Ray raises a bare one when a process of its own is slow to start.
            ray.shutdown()
            if tries_left:
                continue
            if where == "local":
                raise ThresherError(
                    f"Ray: must start on this machine, but after {START_TRIES} tries got {_first_line(error)}; free "
                    "processors or memory and run the same command again"
                ) from error
            raise ConfigError(
                f"Ray: {where} must be reachable, but got {_first_line(error)}; check the address"
            ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[
        :300
    ]


@contextmanager
def _deaf_children() -> Iterator[None]:
    """What is started in the block does not hear SIGTERM and SIGHUP.

    A job manager, or a terminal that closes, signals a whole process group. Only the driver may act on that: with
    Ray's own processes gone, no trial could write its checkpoint any more.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _no_raw_errors() -> Iterator[None]:
    """Keeps Ray from printing a page of its own when a trial's process dies: one line of ours says it better."""
    printer, tune_log = getattr(ray_worker, "print_to_stdstream", None), logging.getLogger("ray.tune")
    level = tune_log.level
    tune_log.setLevel(logging.CRITICAL)
    if printer is not None:
        ray_worker.print_to_stdstream = _print_nothing
    try:
        yield
    finally:
        tune_log.setLevel(level)
        if printer is not None:
            ray_worker.print_to_stdstream = printer


def _print_nothing(*args: Any, **options: Any) -> None:
    """In the place of Ray's printer."""


def check_safe(address: str, insecure: bool) -> None:
    """Refuses a cluster that runs the code of whoever reaches it.

    Args:
        address: as given to Ray: `host:port`, `auto` or `ray://host:port`.
        insecure: the user said that it may.

    Raises:
        ConfigError: it is not on the loopback interface, and has no token or does not ask for it.
    """
    if insecure:
        return
    if is_loopback(address):
        return
    rule = f"Ray cluster {address}: must ask for a token, because Ray runs the code of whoever reaches its ports, but "
    cure = (
        "; start it with RAY_AUTH_MODE=token and the same token on every node (`ray get-auth-token --generate`), "
        "or pass --insecure on a network that you trust"
    )
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        raise ConfigError(f"{rule}RAY_AUTH_MODE={os.environ.get('RAY_AUTH_MODE')!r} here{cure}")
    if address != "auto" and not address.startswith("ray://") and _answers_without_token(address):
        raise ConfigError(f"{rule}it answers without one{cure}")


def is_loopback(address: str) -> bool:
    """Whether an address can only be this machine seen from itself.

    >>> is_loopback("127.0.0.1:6379"), is_loopback("ray://[::1]:10001"), is_loopback("10.0.0.4:6379")
    (True, True, False)
    """
    host = address.rpartition("://")[2].rpartition(":")[0].strip("[]") or address
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _answers_without_token(address: str) -> bool:
    """Tries, in a process that knows no token, whether the cluster lets it in."""
    bare = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    bare |= {"RAY_AUTH_MODE": "disabled", "HOME": "/nonexistent"}
    probe = subprocess.run(
        [sys.executable, "-c", _PROBE, address], env=bare, capture_output=True, timeout=60, check=False
    )
    return probe.returncode == 0


def _own_token() -> None:
    """A token for a cluster of our own, known to its processes alone and written nowhere.

    Ray asks for tokens by itself on a cluster that it starts, but else makes one that anybody here can read.
    """
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _share_path() -> None:
    """Lets the processes of our own cluster import what this one can, also from a tree that is not installed."""
    root = str(Path(__file__).resolve().parents[1])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *paths])


def _short_folder() -> str:
    return "/tmp" if sys.platform != "win32" and os.access("/tmp", os.W_OK) else tempfile.gettempdir()


def _clear_dead(folder: Path) -> None:
    """Removes what drivers that were killed could not."""
    for path in folder.glob(f"{TEMP_PREFIX}*-*"):
        pid = path.name.removeprefix(TEMP_PREFIX).partition("-")[0]
        if pid.isdigit() and not pid_alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _autoscaler_limit() -> Mapping[str, float]:
    try:
        return global_state.get_max_resources_from_cluster_config() or {}
    except (AttributeError, RuntimeError, ValueError):
        return {}  # A private call of Ray: without it, what is there is all we know.
