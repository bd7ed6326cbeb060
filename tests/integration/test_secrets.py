"""Secrets are planted wherever a process may find them; a search that crashes writes none of them down."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from search.records import TrialState
from tests.support.canaries import ADDRESS, ENVIRONMENT, SECRETS, found_in, leaks, plant
from tests.support.drive import NAME
from tests.support.drivers import Zygote, evaluations, state_of, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_the_search_for_secrets_finds_them(tmp_path: Path) -> None:
    secret = ENVIRONMENT["WANDB_API_KEY"]
    pq.write_table(pa.table({"text": ["a" * 100, f"<{secret}>"] * 50}), tmp_path / "a.parquet", compression="zstd")
    (tmp_path / "b.log").write_bytes(b"\xff\0" + secret.encode())
    (tmp_path / "c.txt").write_text("nothing")
    assert {Path(line.partition(": ")[0]).name for line in leaks([tmp_path])} == {"a.parquet", "b.log"}


def test_no_secret_reaches_any_byte(tmp_path: Path, zygote: Zygote) -> None:
    storage, temp, home = tmp_path / "runs", tmp_path / "temp", tmp_path / "home"
    for folder in (storage, temp):
        folder.mkdir()
    env = plant(home) | {"TMPDIR": str(temp)}
    trouble = {"0": {"what": "tell", "at": 7, "times": 9}, "1": {"what": "kill", "at": 7}}
    (storage / "toy.json").write_text(json.dumps({"sleep": 0.02, "trials": trouble}))
    offline = {"wandb": {"mode": "offline"}}
    driver = zygote.start(
        "sweep", storage, env=env, search={"trials": 3, "retries": 1, "asha": None}, tracking=offline
    )
    run = storage / NAME
    wait_until(run, lambda state: evaluations(state) >= 3, driver)
    rays = list(Path("/tmp").glob(f"thr-{driver.pid}-*"))
    assert rays, "Ray's own folder of the run must be searched, too"
    driver.kill()
    assert leaks([*rays, tmp_path], but=[home / ".netrc"]) == []
    again = zygote.start("resume", run, env=env)
    assert again.wait() == 3, again.text
    state = state_of(run)
    assert [trial.state for trial in state.trials.values()].count(TrialState.FAILED) == 1
    assert "***" in (state.trials[0].error or "") and "***" in (run / "trials" / "0" / "train.log").read_text()
    assert list((run / "wandb").rglob("*.wandb")), "wandb must have drawn"
    assert leaks([tmp_path], but=[home / ".netrc"]) == []
    assert found_in(again.text.encode() + driver.text.encode()) == []


@pytest.mark.parametrize("address", ["s3://user:{}@bucket/x", "s3://{}@bucket/x", "s3://bucket/x?token={}"])
def test_a_secret_in_an_address_is_refused_and_not_repeated(address: str, tmp_path: Path, zygote: Zygote) -> None:
    driver = zygote.start("sweep", address.format(ADDRESS))
    assert driver.wait() == 2
    assert "must hold no credentials" in driver.text and found_in(driver.text.encode()) == []
    assert set(SECRETS.values()) > set(ENVIRONMENT.values())
