"""What a node is asked before a run on object storage begins: the question itself, without Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from search import preflight
from search.config import load_sweep
from search.preflight import _lacks, check_weights
from search.store import open_store
from tests.support.s3 import s3_server
from tests.unit.test_search_config import GOOD, folder, messages, written

__all__ = ["folder"]

PROBE = "control/.probe-7"


def test_a_node_must_read_what_the_driver_wrote_and_write_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as server:
        run = f"{server.uri}/runs/toy"
        open_store(run).write_bytes(PROBE, b"thresher\n")
        assert _lacks([], run, PROBE) == []
        assert open_store(run).list() == [PROBE]
        # The same name elsewhere: everything works, and nothing of it would be found again.
        [(where, why)] = _lacks([], run, "control/.probe-8")
        assert where == run and why is not None and "another storage" in why
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        [(where, why)] = _lacks([], run, PROBE)
        assert where == run and why is not None and "must be reachable" in why and "after 2 tries" in why


def test_pretrained_weights_are_asked_for_once_each_and_never_for_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[tuple[str, str, str]] = []
    monkeypatch.setattr(preflight, "segmenter", lambda *network: built.append(network[:3]))
    train = {"architecture": "unet", "encoder": "resnet34", "encoder_weights": "imagenet"}
    check_weights(3, [train])
    assert built == []
    check_weights(2, [train, train, train | {"encoder_weights": None}])
    assert built == [("unet", "resnet34", "imagenet")]


@pytest.mark.parametrize(
    ("storage", "message"),
    [("ftp://host/x", "must be a folder or s3://bucket/prefix"), ("s3:///x", "must be a folder or s3://bucket/prefix"),
     ("s3://key:sEcReT@bucket/x", "must hold no credentials"), ("s3://bucket/x", None), ("file:///tmp/runs", None)],
)  # fmt: skip
def test_an_address_that_cannot_keep_a_run_is_found_in_the_file(
    folder: Path, storage: str, message: str | None
) -> None:
    text = GOOD.replace("./runs", storage)
    if message is None:
        assert load_sweep(written(folder, text)).storage == storage
        return
    [found] = messages(folder, text)
    assert found.startswith("sweep.yaml:14:storage: ") and message in found and "sEcReT" not in found


def test_folders_that_a_node_does_not_see_are_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    assert _lacks([str(tmp_path), missing], None, PROBE) == [(missing, None)]
