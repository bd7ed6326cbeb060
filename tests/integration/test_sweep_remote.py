"""A run on object storage: its checkpoints come back on a machine that has nothing but the address."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from pyarrow import parquet

from search.records import TrialState
from search.store import open_store
from search.trial_folder import SCRATCH
from tests.support.drive import NAME
from tests.support.drivers import Zygote, evaluations, state_of, wait_until
from tests.support.s3 import ENVIRONMENT, s3_server

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.fault(
    9, 16,
    how=(
        "a sweep on an S3 server whose driver is killed; resumed with an empty local disk while requests "
        "get 503"
    ),
    saw="trials go on from the checkpoints in the bucket; nothing is left on the local disk",
)
def test_a_killed_run_on_s3_goes_on_from_its_checkpoints(tmp_path: Path, zygote: Zygote) -> None:
    with s3_server() as server:
        uri = f"{server.uri}/runs"
        env = {name: os.environ[name] for name in (*ENVIRONMENT, "AWS_ENDPOINT_URL")}
        env |= {"THRESHER_TOY": json.dumps({"sleep": 0.4}), "TMPDIR": str(tmp_path)}
        driver = zygote.start("sweep", uri, env=env, search={"trials": 2, "asha": None})
        run = f"{uri}/{NAME}"
        wait_until(run, lambda state: evaluations(state) >= 2, driver)
        driver.kill()
        store = open_store(run)
        assert "trials/0/checkpoints/last.json" in store.list("trials/0")
        # What the killed machine had is not there any more.
        env |= {"THRESHER_TOY": "{}", "TMPDIR": tempfile.mkdtemp(dir=tmp_path)}
        server.refuse = 3
        again = zygote.start("resume", run, env=env)
        assert again.wait() == 0, again.text
        state = state_of(run)
        assert [trial.state for trial in state.trials.values()] == [TrialState.COMPLETE] * 2
        assert [row.step for row in state.trials[0].evaluations] == [5, 10, 15, 20]
        log = store.read_bytes("trials/0/train.log").decode()
        assert "attempt 2" in log and any(f"from step {step}" in log for step in (5, 10))
        (tmp_path / "trials.parquet").write_bytes(store.read_bytes("trials.parquet"))
        assert list(pd.read_parquet(tmp_path / "trials.parquet")["attempts"]) == [2, 1]
        assert parquet.read_metadata(tmp_path / "trials.parquet").num_rows == 2
        # Nothing is left of the finished trials on this machine.
        assert list(Path(env["TMPDIR"]).glob(f"{SCRATCH}*/*")) == []
