"""Every command and every snippet of the README runs, and its tables say what the code says.

`python -m tests.integration.test_readme` writes the tables anew.
"""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from search.cli import COMMANDS, main
from search.cli.output import shown
from search.config import load_sweep
from search.running import Options
from trainable import strict_yaml
from trainable.config import PixelRecipeConfig
from trainable.data.synth import write_scenes
from trainable.knob import knobs_of
from trainable.recipes import RECIPES

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
SHARED = (
    "steps", "batch_size", "crop_size", "eval_every_steps", "patience", "architecture", "encoder", "encoder_weights",
    "optimizer.lr", "optimizer.warmup_steps", "grad_clip", "ema_decay", "st.start_step", "st.ramp_steps", "st.weight",
    "threshold", "loss.ce", "loss.dice", "loss.focal", "scale_min", "scale_max", "amp",
)  # fmt: skip
SMALL = {
    "steps": 4, "eval_every_steps": 2, "batch_size": 2, "crop_size": 32, "patience": 0, "architecture": "fpn",
    "encoder": "tu-mobilenetv3_small_050", "encoder_weights": None, "scale_every_steps": 0, "st": {"start_step": 1},
}  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)


def lines(program: str) -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line.split()[0] == program]


def knob_table() -> str:
    rows = ["| knob | default | legal | searched by default | meaning |", "| --- | --- | --- | --- | --- |"]
    known = knobs_of(PixelRecipeConfig)
    for name in SHARED:
        knob = known[name]
        searched = shown(knob.search) if knob.searchable else "never"
        legal = shown(list(knob.choices) or knob.legal)
        rows.append(f"| `{name}` | {shown(knob.default)} | {legal} | {searched} | {knob.help} |")
    return "\n".join(rows)


def recipe_table() -> str:
    rows = ["| recipe | what it does | presets | source |", "| --- | --- | --- | --- |"]
    for name, kind in RECIPES.items():
        rows.append(f"| `{name}` | {kind.about} | {', '.join(kind.presets) or '-'} | {kind.source} |")
    return "\n".join(rows)


def with_tables(text: str) -> str:
    for marker, table in (("knobs", knob_table()), ("recipes", recipe_table())):
        text = re.sub(
            rf"(<!-- {marker} -->\n).*?(<!-- end -->)",
            lambda m, t=table: f"{m[1]}{t}\n{m[2]}",
            text,
            flags=re.S,
        )
    return text


def test_the_tables_say_what_the_code_says() -> None:
    text = README.read_text(encoding="utf-8")
    assert with_tables(text) == text, "run: python -m tests.integration.test_readme"


@pytest.mark.parametrize("line", lines("make"))
def test_every_make_target_is_there(line: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_every_command_that_is_named_exists() -> None:
    named = set(re.findall(r"`thresher ([a-z-]+)", README.read_text(encoding="utf-8")))
    named |= {shlex.split(line)[1] for line in lines("thresher")}
    assert named <= set(COMMANDS)
    assert {
        "init",
        "preview",
        "sweep",
        "resume",
        "stop",
        "table",
        "export",
        "train",
        "predict",
        "confirm",
    } <= named


def test_the_sweep_file_that_is_shown_loads(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", photos=6, patches_per_photo=4, size=32, labeled=8)
    [text] = blocks("yaml")
    (tmp_path / "sweep.yaml").write_text(text)
    sweep = load_sweep(tmp_path / "sweep.yaml")
    assert sweep.search.asha is not None
    assert sweep.data.root == str(tmp_path / "scenes")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_command_runs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_ray: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    monkeypatch.setattr("search.cli.results.Options", functools.partial(Options, fit="tests.support.toy:fit"))
    for line in lines("thresher"):
        # One seed says nothing, and takes a third of the time.
        code = main([*shlex.split(line)[1:], *(["--seeds", "1"] if " confirm " in line else [])])
        assert code == 0, f"{line}: {capsys.readouterr()}"
        if " init " in line:
            _make_small(tmp_path / "scenes.yaml")
    assert len(list((tmp_path / "masks").glob("*.png"))) == 192
    assert (tmp_path / "runs" / "scenes" / "report.html").is_file()
    names: dict[str, Any] = {}
    for snippet in blocks("python"):
        exec(compile(snippet, "README.md", "exec"), names)
    assert len(names["trials"]) == 3
    assert set(names["trials"]["state"]) <= {"COMPLETE", "PRUNED"}


def _make_small(path: Path) -> None:
    data = strict_yaml.load(path).data
    data["train"], data["space"] = SMALL, {"st.weight": {}, "ema_decay": {}}
    data["search"] |= {"trials": 2, "baselines": False}
    data["tracking"] = {"wandb": {"mode": "disabled"}}
    path.write_text(strict_yaml.dump(data))


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
