"""A run in progress: its data, networks, optimizers and state, and the acts that the loop calls in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainable import checkpoint
from trainable.batch_norm import check_batch
from trainable.collective import average, uneven_batches
from trainable.config import RecipeConfig, RunConfig, resolve
from trainable.data.augment import make_views, to_device
from trainable.data.dataset import Dataset, open_dataset
from trainable.data.random import stream_seed
from trainable.data.streams import U8
from trainable.device import autocast, device_name, peak_memory_mb
from trainable.errors import ConfigError, TrainingDiverged
from trainable.evaluation import Interrupted
from trainable.feed import Feed, Pace
from trainable.identity import description, fingerprint
from trainable.judgment import Judge
from trainable.meters import Meters, read
from trainable.optimizers import Optimizer
from trainable.recipes import dimension_fault, get_recipe
from trainable.recipes.interface import Phase, PhaseContext, Recipe
from trainable.state import (
    LoopState,
    Observer,
    Outcome,
    OutcomeState,
    Progress,
    Report,
    Snapshot,
    StopQuestion,
    never_stop,
)
from trainable.targets import drop_targets, read_targets, save_output, write_targets
from trainable.yardstick import Yardstick

NAN_CHECK_EVERY = 10
OBSERVE_EVERY_S = 1.0


class Session:
    """One run in this process.

    Args:
        run: the configuration. recipe: made for it. data: opened. directory: the run's folder.
        nets: the recipe's networks, on the CPU. device: where it trains. rank: this worker.
        world_size: number of workers.
    """

    def __init__(
        self, run: RunConfig, recipe: Recipe[Any], data: Dataset, directory: Path, nets: Mapping[str, nn.Module],
        device: torch.device, rank: int = 0, world_size: int = 1,
    ) -> None:  # fmt: skip
        self.run, self.recipe, self.data, self.directory = run, recipe, data, directory
        self.objective = recipe.objective_of(run.objective, run.direction)
        self.cfg: RecipeConfig = recipe.cfg
        self.device, self.rank, self.world_size = device, rank, world_size
        self.state = LoopState()
        self.meters = Meters(device, world_size)
        self.observer: Observer | None = None
        self.targets: dict[int, U8] = {}
        self._named: str | None = None
        self.nets = {name: net.to(device) for name, net in nets.items()}
        if device.type == "cuda" and recipe.task.ndim == 2:
            self.nets = {n: net.to(memory_format=torch.channels_last) for n, net in self.nets.items()}
        self.device_state = {name: t.to(device) for name, t in recipe.device_state().items()}
        recipe.use_device_state(self.device_state)
        buffers = [b for net in self.nets.values() for b in net.buffers()]
        # What workers gather from their own share of a batch: running statistics, thresholds that adapt.
        self._shared = [t for t in (*buffers, *self.device_state.values()) if t.is_floating_point()]
        recipe.precision = autocast(self.cfg.amp, device)
        self.phases = list(recipe.phases())
        self.optimizers: dict[str, Optimizer] = {}
        self._feed = Feed(data, run.seed, rank, world_size)
        self._pace = Pace(run.seed, device)
        self._yardstick = Yardstick(run, recipe, data, device, rank, world_size)
        self._judge = Judge(recipe, self.objective, lambda message: self._tell(message=message))
        self._clock = time.monotonic()
        self._observed = 0.0
        self._saved_step = 0

    # -- phases ------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """The current phase."""
        return self.phases[self.state.phase]

    @property
    def steps(self) -> int:
        """Length of the whole run."""
        return sum(p.steps for p in self.phases)

    def _phase_start(self) -> int:
        return sum(p.steps for p in self.phases[: self.state.phase])

    def enter_phase(self, should_stop: StopQuestion = never_stop) -> None:
        """Begin the phase whose turn it is, where it has not begun, and open its streams.

        Raises:
            Interrupted: asked to stop while the phase's targets were written; the phase has not begun.
        """
        before = self.state.phase, self.state.begun, dict(self.state.recipe)
        if self.state.begun and self.state.step >= self._phase_start() + self.phase.steps:
            self.state.phase, self.state.begun = self.state.phase + 1, False
            self._feed.close()
        if not self.state.begun:
            try:
                self._write_targets(should_stop)
            except Interrupted:
                self.state.phase, self.state.begun, self.state.recipe = before
                raise
            self._build_optimizers(fresh=self.phase.fresh_optimizers)
            self.state.begun = True
        if not self._feed.is_open:
            self._feed.open(self.phase, self.state.phase, self.state.step - self._phase_start(), self.targets)
            self._pace.open(self.phase)
            for name, net in self.nets.items():
                net.train(any(name in spec.nets for spec in self.phase.optimizers.values()))

    def _build_optimizers(self, *, fresh: bool) -> None:
        kept = {} if fresh else {name: o.state_dict() for name, o in self.optimizers.items()}
        self.optimizers = {
            name: Optimizer(spec, self.nets, self.world_size) for name, spec in self.phase.optimizers.items()
        }
        for name, state in kept.items():
            if name in self.optimizers:
                self.optimizers[name].load_state_dict(state)

    def _write_targets(self, should_stop: StopQuestion) -> None:
        written: dict[int, U8] = {}
        torch.manual_seed(stream_seed(self.run.seed, "phase", self.state.phase))
        self.recipe.begin_phase(self.phase, self._context(written.__setitem__, should_stop))
        if written:
            self.targets = written
            self.state.targets = write_targets(self.directory, self.state.phase, written, keep=self.rank == 0)

    def _context(
        self, write: Callable[[int, U8], None], should_stop: StopQuestion = never_stop
    ) -> PhaseContext:
        return PhaseContext(
            nets=self.nets, phase=self.state.phase, predict=partial(self._yardstick.predict, self.nets, should_stop),
            image=self.data.source.image, labels=self.data.source.mask, targets=self.targets, write=write,
            save=lambda name, content: save_output(self.directory, name, content),
            metrics=(self.state.last_report or {}).get("record", {}), remember=self.state.recipe,
        )  # fmt: skip

    # -- one step ----------------------------------------------------------------------------------------------

    def train_step(self) -> None:
        """One step of the recipe; nothing in it waits for the device."""
        host = self._feed.take()
        in_phase = self.state.step - self._phase_start()
        views = {name: make_views(to_device(batch, self.device)) for name, batch in host.items()}
        sched = self._pace.at(self.state.step, in_phase)
        rates: dict[str, Tensor] = {}
        for name, optimizer in self.optimizers.items():
            optimizer.set_lr(optimizer.spec.lr(in_phase) * self.state.recipe.get(f"lr_scale/{name}", 1.0))
            rates["lr" if not rates else f"lr/{name}"] = optimizer.lr
        torch.manual_seed(stream_seed(self.run.seed, f"dropout/{self.rank}", self.state.step))
        out = self.recipe.step(self.nets, views, sched, self.optimizers)
        average(self._shared, self.world_size)
        self.meters.add(out, rates)
        self.state.step += 1

    def between_steps(self) -> None:
        """Look at the signals now and then: a loss that is not finite, and progress for people."""
        if self.state.step % NAN_CHECK_EVERY == 0:
            self._check_finite()
        now = time.monotonic()
        if self.observer is not None and now - self._observed >= OBSERVE_EVERY_S:
            self._observed = now
            self._tell(signals=read(self.meters.sums(), self.recipe.task.class_names))

    def _check_finite(self) -> None:
        bad = self.meters.bad_loss()
        if bad is None or bad.streak < self.cfg.health.nonfinite_steps:
            return
        first = self.state.step - bad.streak
        parts = ", ".join(f"{name}={value:g}" for name, value in bad.values.items()) or "that of another worker"
        raise TrainingDiverged(
            f"the loss is not finite since step {first + 1} ({bad.streak} steps in a row): {parts}; "
            "lower the learning rate or the gradient clip"
        )

    # -- evaluation --------------------------------------------------------------------------------------------

    def due(self) -> bool:
        """Whether this step wants an evaluation that has not been made."""
        step = self.state.step
        if step == 0 or step == self.state.evaluated_step:
            return False
        end = self._phase_start() + self.phase.steps
        return (
            step % self.cfg.eval_every_steps == 0
            or step >= self.steps
            or (step == end and self.phase.evaluate_at_end)
        )

    def evaluate(self, should_stop: StopQuestion) -> Report:
        """Evaluate, remember the outcome, and write the best model where this is it.

        Raises:
            Interrupted: asked to stop in the middle; nothing is remembered.
            TrainingDiverged: the loss has not been finite for too long.
        """
        self._check_finite()
        last = self.state.step - self._phase_start() - 1
        record = self._yardstick.measure(self.nets, self.phase, last, should_stop)
        record |= read(self.meters.sums(), self.recipe.task.class_names)
        self.meters.clear()
        self.recipe.after_evaluation(record, self.state.recipe)
        report = Report(self.state.step, self._time_s(), self._judge.value(record), record)
        self._remember(report)
        if self.rank == 0 and self.state.step == self._phase_start() + self.phase.steps:
            self.recipe.end_phase(self.phase, self._context(_written_before))
        return replace(report, health=dict(self.state.broken), peak_memory_mb=peak_memory_mb(self.device))

    def _remember(self, report: Report) -> None:
        if self._judge.remember(self.state, report) and report.objective is not None and self.rank == 0:
            weights = self.nets[self.recipe.evaluated].state_dict()
            model = description(self.run, self.recipe, self.data.manifest)
            checkpoint.save_best(
                self.directory, weights, step=report.step, value=report.objective, model=model,
                better=self.objective.better,
            )  # fmt: skip
        self._judge.look(self.state, report)
        self._tell(record=report.record)

    def _tell(self, **what: Any) -> None:
        if self.observer is not None and self.rank == 0:
            self.observer(Progress(self.state.step, self.steps, self.phase.name, **what))

    # -- ending ------------------------------------------------------------------------------------------------

    def verdict(self) -> tuple[OutcomeState, str | None] | None:
        """How the run ends by itself, or None while it goes on."""
        if self.state.step >= self.steps:
            return ("COMPLETE", None)
        return self._judge.verdict

    def checkpoint_due(self) -> bool:
        """Whether a checkpoint is wanted here: at every multiple of its interval, and where the run ends."""
        step, every = self.state.step, self.cfg.checkpoint_every_steps or self.cfg.eval_every_steps
        return step != self._saved_step and (step % every == 0 or self.verdict() is not None)

    def _settled_step(self) -> int:
        """The last step of which nothing is left to do: an evaluation that is still to be made changes the state."""
        return self.state.step - 1 if self.due() else self.state.step

    def save(self) -> None:
        """Write everything that a resume needs."""
        self.state.time_s, self._clock = self._time_s(), time.monotonic()
        self._saved_step = self._settled_step()
        snapshot = self.snapshot()
        if self.rank == 0:
            checkpoint.save_last(self.directory, snapshot)
            # The state before this one stays as well, and names its own targets.
            drop_targets(self.directory, self._named)
            self._named = self.state.targets

    def _time_s(self) -> float:
        return self.state.time_s + time.monotonic() - self._clock

    def outcome(self, state: OutcomeState, reason: str | None, error: str | None = None) -> Outcome:
        """How the run ended."""
        return Outcome(
            state=state, stop_reason=reason, step=self.state.step, time_s=self._time_s(),
            best_value=self.state.best_value, best_step=self.state.best_step,
            peak_memory_mb=peak_memory_mb(self.device), device=device_name(self.device),
            health=dict(self.state.broken), error=error,
        )  # fmt: skip

    def close(self) -> None:
        """Stop the prefetch thread."""
        self._feed.close()

    # -- saving and loading ------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The run at this step."""
        loop = asdict(self.state) | {"meters": self.meters.sums(), "verdict": self._judge.verdict}
        return Snapshot(
            fingerprint=fingerprint(self.run, self.recipe, self.objective),
            loop=loop,
            nets={name: net.state_dict() for name, net in self.nets.items()},
            optimizers={name: o.state_dict() for name, o in self.optimizers.items()},
            device_state=dict(self.device_state),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot of this configuration.

        Raises:
            CheckpointError: it belongs to another one.
        """
        nets = {name: net.state_dict() for name, net in self.nets.items()}
        wanted = fingerprint(self.run, self.recipe, self.objective)
        checkpoint.check_fits(snapshot, wanted, self.directory, nets)
        loop = dict(snapshot.loop)
        self.meters.restore(loop.pop("meters"))
        verdict = loop.pop("verdict")
        self._judge.verdict = (verdict[0], verdict[1]) if verdict else None
        self.state = LoopState(**loop)
        self._saved_step = self._settled_step()
        for name, net in self.nets.items():
            net.load_state_dict(snapshot.nets[name])
        if self.state.begun:
            self._build_optimizers(fresh=True)
        for name, state in snapshot.optimizers.items():
            self.optimizers[name].load_state_dict(state)
        for name, tensor in self.device_state.items():
            tensor.copy_(snapshot.device_state[name])
        if self.state.targets is not None:
            self.targets = read_targets(self.directory / self.state.targets)


def open_session(
    run: RunConfig, directory: Path, base: Path, device: torch.device, rank: int = 0, world_size: int = 1
) -> Session:
    """Open a run's data, build its networks, and go on from its checkpoint where there is one.

    Raises:
        ConfigError, DataError: the configuration or the data cannot be used.
        CheckpointError: the checkpoint belongs to another configuration.
    """
    kind = get_recipe(run.recipe)
    data = open_dataset(run.data, base, supervised=not kind.needs_unlabeled)
    task = data.task()
    fault = dimension_fault(kind, task.ndim)
    if fault is not None:
        raise ConfigError([fault])
    task = kind.adapt(task)
    cfg = resolve(
        kind.config, preset=kind.preset_values(run.preset), train=run.train, class_names=task.class_names
    )
    if faults := uneven_batches(cfg, world_size):
        raise ConfigError(faults)

    def whole(snapshot: Snapshot) -> None:
        if snapshot.loop.get("targets") is not None:
            read_targets(directory / snapshot.loop["targets"])

    snapshot, notes = checkpoint.load_last(directory, whole, tidy=rank == 0)
    for note in notes:
        print(f"warning: {note}", flush=True)
    # What a checkpoint holds needs none of the weights that the networks began with, which may be gone.
    begun = cfg if snapshot is None else cfg.model_copy(update={"encoder_weights": None, "init_from": None})
    torch.manual_seed(stream_seed(run.seed, "init", 0))
    nets = kind(begun, task).build()
    check_batch(nets, cfg.batch_size, world_size)
    session = Session(run, kind(cfg, task), data, directory, nets, device, rank, world_size)
    if snapshot is not None:
        session.restore(snapshot)
    return session


def _written_before(position: int, labels: U8) -> None:
    raise ValueError("targets are written at the start of a phase, not at its end")
