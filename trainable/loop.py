"""The loop: `train()` runs one configuration from its start, or from its checkpoint, to its end. Plain torch.

Nobody but the caller knows of Ray: device, reporter and stop question are handed in.
"""

from __future__ import annotations

from pathlib import Path

import torch

from trainable.config import RunConfig
from trainable.errors import TrainingDiverged
from trainable.evaluation import Interrupted
from trainable.session import open_session
from trainable.state import Observer, Outcome, Reporter, StopQuestion, ignore_report, never_stop


def train(
    run: RunConfig, directory: Path | str, *, base: Path | str = ".", device: str | torch.device = "cpu", rank: int = 0,
    world_size: int = 1, report: Reporter = ignore_report, should_stop: StopQuestion = never_stop,
    observer: Observer | None = None,
) -> Outcome:  # fmt: skip
    """Train one configuration, going on from the checkpoint in `directory` where there is one.

    Args:
        run: what to train.
        directory: the run's folder; `checkpoints/` is kept in it.
        base: the folder that relative data paths start from.
        device: where to train. rank: this worker. world_size: number of workers.
        report: called with every evaluation, after the best model is written and before the checkpoint.
        should_stop: asked at every step and every evaluation batch; a reason ends the run as PAUSED.
        observer: sees the signals between steps, about once a second.

    Returns:
        How the run ended.

    Raises:
        ConfigError, DataError: the configuration or the data cannot be used.
        CheckpointError: the checkpoint belongs to another configuration.
    """
    session = open_session(run, Path(directory), Path(base), torch.device(device), rank, world_size)
    session.observer = observer
    try:
        while True:
            if session.due():
                report(session.evaluate(should_stop))
            if session.checkpoint_due():
                session.save()
            ending, reason = session.verdict(), should_stop()
            if ending is not None:
                return session.outcome(*ending)
            if reason is not None:
                raise Interrupted
            session.enter_phase(should_stop)
            session.train_step()
            session.between_steps()
    except Interrupted:
        session.save()
        return session.outcome("PAUSED", should_stop() or "stop")
    except TrainingDiverged as error:
        return session.outcome("DIVERGED", "non_finite", str(error))
    finally:
        session.close()
