"""One row per recipe: what makes it small enough for a test, and what it must report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import trainable.session
from tests.support.images import blocks_dataset, dots_dataset, stacked_dataset
from trainable import train
from trainable.config import RunConfig, merge
from trainable.data.dataset import Dataset
from trainable.data.random import stream_seed
from trainable.session import Session
from trainable.state import Observer, Outcome, Report, Reporter, StopQuestion, ignore_report, never_stop
from trainable.yardstick import Yardstick

TINY: dict[str, Any] = {
    "steps": 12, "eval_every_steps": 4, "batch_size": 2, "crop_size": 32, "patience": 0, "encoder_weights": None,
    "architecture": "deeplabv3plus", "encoder": "tu-test_resnet", "amp": "off",
    "optimizer": {"lr": 0.01, "warmup_steps": 2},
}  # fmt: skip
PIXEL: dict[str, Any] = {
    "scale_min": 32, "scale_max": 64, "scale_every_steps": 3, "st": {"start_step": 3}, "threshold": 0.34,
}  # fmt: skip
COUNTS = ("st/images_selected", "st/images_seen", "st/pixels_selected", "st/pixels_seen", "st/ratio")
ST = (*COUNTS, "st/ratio/a")
ADVERSARIAL = ("loss/fm", "loss/d", "d_threshold", "lr/d")


@dataclass(frozen=True)
class Row:
    """One recipe, small.

    Attributes:
        recipe: its name. train: its knobs, on top of `TINY`.
        signals: what its last evaluation must report, beside `loss/total` and `lr`; None stands nowhere.
        dataset: what it trains on. variant: tells rows of one recipe apart.
    """

    recipe: str
    train: Mapping[str, Any] = field(default_factory=dict)
    signals: tuple[str, ...] = ()
    dataset: Callable[[], Dataset] = blocks_dataset
    variant: str = ""

    def __str__(self) -> str:
        return f"{self.recipe}-{self.variant}" if self.variant else self.recipe

    def config(self, **changes: Any) -> RunConfig:
        """The run's configuration."""
        values = merge(merge(TINY, self.train), changes)
        return RunConfig(name="t", recipe=self.recipe, data={"root": "."}, train=values, seed=3)  # type: ignore[arg-type]


ROWS = (
    Row("supervised", {k: v for k, v in PIXEL.items() if k.startswith("scale")}, ("loss/sup",)),
    Row("per_class", PIXEL, ("loss/sup", "loss/st", "threshold/a", *ST)),
    Row(
        "s4gan", {"d_threshold": 0.5, "st": {"start_step": 3}, "d_lr": 0.01, "optimizer": {"decay_steps": 10}},
        ("loss/sup", "loss/st", *ADVERSARIAL, *ST),
    ),
    Row(
        "s4gan", {"d_threshold": 0.4, "d_warmup_steps": 5, "freeze_bn_affine": True, "d_image_norm": "legacy",
                  "optimizer": {"head_bias_lr_mult": 2.0, "head_bias_decay": False, "schedule": "step_poly",
                                "poly_every_steps": 3},
                  "architecture": "deeplabv2", "mlmt": {"enabled": True, "start_step": 2, "ramp_steps": 4}},
        ("loss/sup", "loss/st", "loss/mlmt", *ADVERSARIAL, *ST), variant="mlmt",
    ),
    Row(
        "s4gan_v2", {"d_threshold": 0.55, "d_warmup_steps": 3, "st": {"start_step": 3}, "ema_decay": 0.7},
        ("loss/sup", "loss/st", *ADVERSARIAL, *ST),
    ),
    Row(
        "diverse_head",
        {"num_heads": 4, "head_channels": 8, "freeze_start_step": 3, "freeze_draws": 2, "head_dropout": 0.2},
        ("loss/sup", "loss/st", *ST),
    ),
    Row(
        "per_class", PIXEL | {"threshold": 0.9, "threshold_mode": "freematch", "selection": {"momentum": 0.5},
                              "teacher": "student", "strong_view": False, "ema_buffers": "copy"},
        ("loss/sup", "loss/st", "threshold/a", *COUNTS), variant="freematch",
    ),
    Row("fixmatch", {"threshold": 0.34, "st": {"start_step": 3}}, ("loss/sup", "loss/st", "threshold/a", *COUNTS)),
    Row(
        "unimatch", PIXEL | {"threshold_mode": "softmatch", "selection": {"momentum": 0.5}},
        ("loss/sup", "loss/st", "st/weight", *COUNTS),
    ),
    Row(
        "unimatch_v2", {"threshold_mode": "class_ratio", "selection": {"momentum": 0.5}, "optimizer": {"lr": 0.001},
                        "ohem_threshold": 0.6, "ohem_min_kept": 100, "ema_decay": 0.7},
        ("loss/sup", "loss/st", "threshold/a", *COUNTS),
    ),
    Row(
        "corrmatch", PIXEL | {"corr_channels": 8, "threshold_mode": "fixed"},
        ("loss/sup", "loss/st", "threshold/a", "st/pixels_grown", *COUNTS),
    ),
    Row(
        "cps", {"evaluate": "mean", "threshold_mode": "corr_global", "selection": {"momentum": 0.5},
                "st": {"start_step": 3}},
        ("loss/sup", "loss/st", "threshold/a", "lr/second", *COUNTS),
    ),
    Row(
        "mean_teacher", {"st": {"start_step": 2, "ramp_steps": 4}, "threshold_mode": "entropy_pct", "ema_decay": 0.7,
                         "augment": {"cutmix_p": 1.0}},
        ("loss/sup", "loss/st", "st/entropy_limit", *COUNTS),
    ),
    Row(
        "self_training_rounds",
        {"architecture": "unet", "rounds": {"number": 2, "init_share": 0.5, "reinit": True},
         "optimizer": {"restart_steps": 3},
         "threshold": {"positive": 0.6, "negative": 0.4, "positive_floor": 0.5, "negative_ceiling": 0.45}},
        ("loss/st", "loss/focal", "loss/dice", "val/auc", "val/particle_f1", "st/images_selected",
         "st/pixels_selected"),
        dots_dataset,
    ),
    Row(
        "surface",
        {"architecture": "unet", "optimizer": {"plateau_patience": 0}, "loss": {"skeleton": 0.1},
         "post": {"min_component": 4, "max_hole": 2}},
        ("loss/sup", "loss/boundary", "loss/cldice", "loss/skeleton", "val/loss", "val/loss_constant", "val/voi_score"),
        dots_dataset,
    ),
    Row(
        "surface",
        {"crop_size": 16, "volume": {"depth": 2, "filters": 8}, "optimizer": {"plateau_factor": 0.3},
         "loss": {"cldice_iterations": 1}, "post": {"min_component": 4, "max_hole": 2}},
        ("loss/sup", "loss/connectivity", "val/loss", "val/voi_score"), stacked_dataset, variant="volume",
    ),
)  # fmt: skip
"""Every recipe has a row at least; a new recipe adds one here."""


def run_row(
    row: Row, folder: Path, *, report: Reporter = ignore_report, should_stop: StopQuestion = never_stop,
    observer: Observer | None = None, rank: int = 0, world_size: int = 1, **changes: Any,
) -> Outcome:  # fmt: skip
    """Train a row's recipe in a folder, going on from the checkpoint there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainable.session, "open_dataset", lambda cfg, base, **kwargs: row.dataset())
        return train(
            row.config(**changes), folder, report=report, should_stop=should_stop, observer=observer, rank=rank,
            world_size=world_size,
        )  # fmt: skip


class StopAfter:
    """Asks to stop at the n-th question."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    def __call__(self) -> str | None:
        self.left -= 1
        return "stop" if self.left < 0 else None


def worker(rank: int, folder: Path) -> None:
    """One of two workers: trains every row, once whole and once broken off, and leaves what it found in a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    found: dict[str, Any] = {}
    for row in ROWS:
        reports: list[Report] = []
        kept: list[Session] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Session, "close", _keep(kept, Session.close))
            changes = {"steps": 6, "eval_every_steps": 6, "batch_size": 4}
            shared = {"rank": rank, "world_size": 2, **changes}
            run_row(row, folder / str(row), report=reports.append, **shared)
            alone = evaluated_alone(kept[0])
            assert alone.items() <= reports[-1].record.items(), row
            broken, rest = folder / f"{row}-broken", []
            paused = run_row(row, broken, report=reports.append, should_stop=StopAfter(4), **shared)
            assert paused.state == "PAUSED" and 0 < paused.step < 6, paused
            dist.barrier()
            run_row(row, broken, report=rest.append, **shared)
        nets = {name: net.state_dict() for name, net in kept[0].nets.items()}
        torch.manual_seed(stream_seed(kept[0].run.seed, "init", 0))
        fresh = kept[0].recipe.build()
        moved = all(
            any(not torch.equal(value, weights[name]) for name, value in fresh[net].state_dict().items())
            for net, weights in nets.items()
        )
        again = {name: net.state_dict() for name, net in kept[-1].nets.items()}
        found[str(row)] = {
            "nets": nets, "record": reports[-1].record, "moved": moved,
            "resumed_nets": again, "resumed_record": rest[-1].record,
        }  # fmt: skip
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def evaluated_alone(session: Session) -> dict[str, float | None]:
    """What one worker finds that shares the images with nobody."""
    yardstick = Yardstick(session.run, session.recipe, session.data, session.device)
    return yardstick.measure(session.nets, session.phase, session.phase.steps - 1, never_stop)


def _keep(kept: list[Session], close: Callable[[Session], None]) -> Callable[[Session], None]:
    def closed(session: Session) -> None:
        kept.append(session)
        close(session)

    return closed
