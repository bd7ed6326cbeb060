"""What a user of the command line is told of bad input: every fault at once, exit 2, nothing written, no traceback."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from search.cli import main
from search.events import Event, encode
from search.gpu_gate import holders
from search.store import open_store
from tests.support.fault_page import Observed
from tests.support.folders import as_rgb, ids_of, listed_folder
from tests.support.runs import unbroken
from tests.unit.test_data_images import png_of

SWEEP = """\
name: tiny
recipe: per_class
data:
  root: set
  group_by: '^(p\\d+)'
  labeled: splits/labeled.txt
  unlabeled: splits/unlabeled.txt
  val: splits/val.txt
  cache: {dir: ../../cache}
train: {steps: 40, eval_every_steps: 10, encoder_weights: null}
space: {st.weight: {}}
search: {trials: 4}
storage: runs
"""
Ask = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    listed_folder(tmp_path / "work" / "set")
    return tmp_path / "work"


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def ask(folder: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs a command on a sweep file that is wrong; returns what it says on standard error."""

    def run(*arguments: str, text: str = SWEEP, **changes: str) -> str:
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        (folder / "sweep.yaml").write_text(text, encoding="utf-8")
        before = files(folder)
        assert main([word.format(sweep=folder / "sweep.yaml") for word in arguments]) == 2
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err + shown.out
        assert files(folder) == before
        return (shown.err or shown.out).replace(f"{folder}/", "")

    return run


@pytest.mark.fault(44, how="a sweep file with a word, a quoted number, a list and a truth value for other types")
def test_wrong_types_are_named_with_line_and_key(ask: Ask, observed: Observed) -> None:
    said = ask(
        "sweep", "{sweep}",
        **{"steps: 40": "steps: ten", "eval_every_steps: 10": "eval_every_steps: '10'", "{trials: 4}": "{trials: [4]}",
           "storage: runs": "storage: runs\nseed: true"},
    )  # fmt: skip
    for key in ("10:train.steps: ", "10:train.eval_every_steps: ", "12:search.trials: ", "14:seed: "):
        assert f"sweep.yaml:{key}" in said
    observed(said)


@pytest.mark.fault(44, how="a sweep file that gives `search` twice")
def test_a_duplicate_key_is_named_with_both_lines(ask: Ask, observed: Observed) -> None:
    said = ask("preview", "{sweep}", "--no-probe", text=SWEEP + "search: {trials: 9}\n")
    assert "sweep.yaml:14:search: " in said and "must stand once" in said
    observed(said)


@pytest.mark.fault(45, how="a sweep file with `recipe: per_clas`; with a knob `stepz`; with an objective `val/mIoU`")
def test_unknown_names_come_with_the_nearest_known_one(ask: Ask, observed: Observed) -> None:
    for change, wanted in (
        ({"recipe: per_class": "recipe: per_clas"}, "did you mean 'per_class'?"),
        ({"steps: 40": "stepz: 40"}, "did you mean 'steps'?"),
        ({"{trials: 4}": "{trials: 4, objective: val/mIoU}"}, "did you mean 'val/miou'?"),
    ):
        said = ask("sweep", "{sweep}", **change)
        assert wanted in said
        observed(said.partition("?")[0] + "?" if "?" in said else said)


@pytest.mark.fault(46, how="a threshold of 1.5, three thresholds in a list, low above high, grace above steps")
def test_values_out_of_range_are_told_at_once(ask: Ask, observed: Observed) -> None:
    said = ask(
        "sweep", "{sweep}",
        **{"steps: 40": "steps: 40, threshold: {default: 1.5}", "{st.weight: {}}": "{st.weight: {low: 2, high: 1}}",
           "{trials: 4}": "{trials: 4, asha: {grace_steps: 50}}"},
    )  # fmt: skip
    assert "threshold" in said and "1.5" in said and "space.st.weight" in said and "grace_steps=50" in said
    observed(said)
    listed = ask("sweep", "{sweep}", **{"steps: 40": "steps: 40, threshold: [0.5, 0.6, 0.7]"})
    assert "threshold" in listed
    observed(listed)


@pytest.mark.fault(47, how="sweeps called ../x, CON, 'x.', 200 letters, naïve, a/b, /etc/x, in the file and by --set")
@pytest.mark.parametrize("name", ["../x", "CON", "x.", "a" * 200, "naïve", "a/b", "/etc/x"])
def test_a_name_that_is_no_safe_folder_is_refused(name: str, ask: Ask, observed: Observed) -> None:
    said = ask("sweep", "{sweep}", **{"name: tiny": f"name: '{name}'"})
    assert "sweep.yaml:1:name: " in said
    assert "--set name: " in ask("sweep", "{sweep}", "--set", f"name='{name}'")
    if name == "../x":
        observed(said)


@pytest.mark.fault(41, how="`sweep` with patches of one photo in the labeled list and in val")
def test_a_leak_is_refused_by_the_command(ask: Ask, folder: Path, observed: Observed) -> None:
    (folder / "set/splits/unlabeled.txt").write_text("p0_y2_x0\np1_y1_x0\n")
    (folder / "set/splits/val.txt").write_text("p1_y2_x0\n")
    said = ask("sweep", "{sweep}")
    assert "both labeled and val: p1" in said and "allow_leak" in said
    observed(said)


@pytest.mark.fault(40, how="`sweep` with an empty list of validation images")
def test_an_empty_split_is_refused_by_the_command(ask: Ask, folder: Path, observed: Observed) -> None:
    (folder / "set/splits/val.txt").write_text("\n")
    said = ask("sweep", "{sweep}")
    assert "val.txt" in said
    observed(said)


@pytest.mark.fault(38, 43, how="`data check` on a mask with an unknown color and an image of 30000 x 30000 pixels")
def test_masks_and_images_that_lie_are_named(ask: Ask, folder: Path, observed: Observed) -> None:
    values = as_rgb(ids_of(0))
    values[0, 0] = (1, 2, 3)
    Image.fromarray(values).save(folder / "set/masks/p0_y0_x0.png")
    (folder / "set/images/p0_y1_x0.png").write_bytes(png_of(30_000, 30_000, 1, 0, b""))
    said = ask("data", "check", "{sweep}")
    colored = next(line for line in said.splitlines() if "p0_y0_x0.png" in line)
    bomb = next(line for line in said.splitlines() if "p0_y1_x0.png" in line)
    assert "1 2 3 (1 px; nearest: " in colored and "bomb" in bomb
    observed(colored, row=38)
    observed(bomb, row=43)


@pytest.mark.fault(21, how="`status` and `resume` of a run with an event of the next schema")
def test_a_run_of_a_newer_version_is_refused_by_the_commands(ask: Ask, folder: Path, observed: Observed) -> None:
    state = unbroken(open_store(folder / "run"), 1)
    [segment] = (folder / "run" / "events").iterdir()
    with segment.open("ab") as file:
        file.write(encode(Event(state.seq + 1, 1, "t", "merged", {"trial": 0})))
    for command in ("status", "resume", "table"):
        said = ask(command, str(folder / "run"))
        assert "schema 2" in said and "newer version" in said
    observed(said)


@pytest.mark.fault(26, how="an nvidia-smi that lists another process on the GPU", seam=True)
def test_who_holds_a_gpu_is_read_from_the_drivers_own_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, observed: Observed
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '4711, /usr/bin/python3, 20000 MiB'\necho '{os.getpid()}, me, 9 MiB'\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert holders() == ("pid 4711 (python3, 20000 MiB)",)
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert holders() == ()
    observed("held by process 4711 (python3, 20000 MiB), without our own; a tool that fails counts as none")
