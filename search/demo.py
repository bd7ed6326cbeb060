"""A search over generated scenes, small enough for two CPU cores and a few minutes."""

from __future__ import annotations

from pathlib import Path

from search.records import RunState, TrialRecord
from search.suggestion import DEFAULT
from trainable.data.synth import GROUP_BY, write_scenes
from trainable.errors import ConfigError, Fault

NAME = "demo"
SWEEP = """\
# What `thresher demo` searches: thresholds, weights and rates of a small network on generated scenes.
# It is a sweep file as any other: change it, and run `thresher sweep {file} --fresh`.
name: {name}
recipe: per_class
data:
  root: {data}
  group_by: '{group_by}'
  labeled: splits/labelled.txt
  unlabeled: splits/unlabelled.txt
  val: splits/val.txt
  test: splits/test.txt
train:
  steps: 120
  eval_every_steps: 20
  batch_size: 4
  crop_size: 64
  patience: 0
  architecture: fpn
  encoder: tu-mobilenetv3_small_050
  encoder_weights: null
  num_heads: 1
  scale_every_steps: 0
  optimizer: {{name: adamw, head_lr_mult: 1, warmup_steps: 5}}
  st: {{start_step: 40, ramp_steps: 20}}
space:
  threshold: {{mode: base_slope}}
  st.weight: {{low: 0.1, high: 1}}
  ema_decay: {{}}
  optimizer.lr: {{low: 1e-3, high: 1e-2}}
search: {{trials: 8, asha: {{grace_steps: 60, reduction_factor: 3}}}}
storage: .
tracking: {{wandb: {{mode: disabled}}}}
seed: 0
"""


def prepare(folder: Path, fresh: bool = False) -> Path:
    """Write the scenes and the sweep file where they are missing, the file also where it is to be fresh; returns it.

    Raises:
        ConfigError: the folder cannot be written.
    """
    data, file = folder / f"{NAME}-data", folder / f"{NAME}.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (data / "splits" / "test.txt").is_file():
            write_scenes(data, photos=12, patches_per_photo=16, size=64, labeled=24)
        if fresh or not file.is_file():
            text = SWEEP.format(file=file, name=NAME, data=data.name, group_by=GROUP_BY)
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        message = f"the folder must be writable, but got {error.strerror or error}; name another by --storage"
        raise ConfigError([Fault(str(error.filename or folder), message)]) from error
    return file


def verdict(state: RunState) -> str:
    """Whether the search found something better than the recipe's defaults, in plain words."""
    best, default = state.best(), _default(state)
    if best is None:
        return "no trial came to a result"
    if default is None or default.best_value is None:
        return f"the recipe's defaults came to no result; the best is trial {best.number} with {best.best_value:.4f}"
    assert best.best_value is not None
    found, own = f"{best.best_value:.4f} (trial {best.number}, {best.source})", f"{default.best_value:.4f}"
    if best.number == default.number or not state.better(best.best_value, default.best_value):
        return f"the search did not beat the recipe's defaults: {own} is the best value"
    return (
        f"the search beat the recipe's defaults: {found} against {own}. One run each on few images: `thresher confirm` "
        "tells whether the difference holds over seeds"
    )


def _default(state: RunState) -> TrialRecord | None:
    return next((trial for trial in state.trials.values() if trial.source == DEFAULT), None)
