"""A driver in a process of its own, that tests can kill: a real sweep over the toy training.

With a data set's folder in THRESHER_REAL, it really trains: a tiny network on tiny images.

python -m tests.support.drive sweep STORAGE '{"search": {"trials": 6}}'
python -m tests.support.drive resume RUN '{"add_trials": 3}'
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from search.opening import Setting, examine
from search.resume import resume
from search.running import Options, SweepResult
from search.schema import SweepConfig
from search.sweep import start_sweep
from trainable.data.synth import GROUP_BY
from trainable.errors import ThresherError

FIT = "tests.support.toy:fit"
NAME = "toy"


def toy_setting(config: SweepConfig) -> Setting:
    """Two classes, without a data set."""
    return Setting(("land", "road"), (0.9, 0.1), "d" * 64)


def toy_options(**changes: Any) -> Options:
    # Whether a cluster is safe is tested by itself: asking it takes seconds.
    changes.setdefault("insecure", "THRESHER_RAY_ADDRESS" in os.environ)
    return Options(
        num_cpus=2, num_gpus=0, fit=FIT, examine=toy_setting, check_weights=lambda ndim, starts: None, **changes
    )


def toy_config(storage: Path | str, **sections: Any) -> SweepConfig:
    """A sweep whose trials take 20 steps and evaluate every 5; the first rung lies at step 5."""
    found: dict[str, Any] = {
        "name": NAME,
        "recipe": "per_class",
        "data": {"root": str(storage)},
        "train": {"steps": 20, "eval_every_steps": 5, "encoder_weights": None, "st.start_step": 0},
        "space": {"st.weight": {}, "threshold": {}},
        "search": {
            "trials": 6,
            "max_concurrent": 1,
            "asha": {"grace_steps": 5},
            "baselines": False,
            "hang_s": 60.0,
        },
        "resources": {"cpus_per_worker": 1},
        "storage": str(storage),
        "tracking": {"wandb": {"mode": "disabled"}},
    }
    for name, section in sections.items():
        found[name] = {**found[name], **section} if isinstance(section, dict) and name in found else section
    return SweepConfig.model_validate(found)


def real_config(storage: Path | str, data: Path | str, **sections: Any) -> SweepConfig:
    """The same sweep over tiny networks that train on the scenes in a folder."""
    lists = {"labeled": "splits/labelled.txt", "unlabeled": "splits/unlabelled.txt", "val": "splits/val.txt"}
    tiny = {
        "steps": 20, "eval_every_steps": 5, "batch_size": 2, "crop_size": 32, "patience": 0, "encoder_weights": None,
        "architecture": "fpn", "encoder": "tu-test_resnet", "scale_every_steps": 0, "st.start_step": 1, "amp": "off",
    }  # fmt: skip
    found = {"data": {"root": str(data), "group_by": GROUP_BY, **lists}, "train": tiny}
    return toy_config(storage, **found, **sections)


def real_options() -> Options:
    return replace(toy_options(), fit=Options.fit, examine=examine)


def main(command: str, where: str, text: str = "{}") -> int:
    given, data = json.loads(text), os.environ.get("THRESHER_REAL")
    options = toy_options() if data is None else real_options()
    try:
        if command == "sweep":
            config = toy_config(where, **given) if data is None else real_config(where, data, **given)
            result: SweepResult = start_sweep(config, options=options)
        else:
            result = resume(where, options=options, **given)
    except ThresherError as error:
        print(error, flush=True)
        return error.exit_code
    print(result, flush=True)
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
