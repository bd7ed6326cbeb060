"""Commands on sweep files, class tables, split lists, points and masks that nobody would write."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import search.running
from tests.support import fuzz
from trainable import strict_yaml
from trainable.data.synth import write_scenes

EXAMPLES = 30
SWEEP: dict[str, Any] = {
    "name": "tiny",
    "recipe": "per_class",
    "preset": "V3.0",
    "data": {
        "root": "scenes", "group_by": r"^(p\d+)", "labeled": "splits/labelled.txt", "classes": "class_mapping.csv",
        "unlabeled": "splits/unlabelled.txt", "val": "splits/val.txt", "test": None, "layout": "auto", "ignore": [],
    },
    "train": {
        "steps": 40, "eval_every_steps": 10, "batch_size": 2, "crop_size": 32, "patience": 0, "encoder_weights": None,
        "st": {"start_step": 1}, "optimizer": {"lr": 0.01},
    },
    "space": {"st.weight": {"low": 0.1, "high": 1.0}, "ema_decay": {}, "threshold": {"low": 0.3, "high": 0.9}},
    "search": {"trials": 8, "baselines": False, "asha": {"grace_steps": 10}, "keep": {"best": 2}},
    "resources": {"cpus_per_worker": 1},
    "storage": "runs",
    "tracking": {"wandb": {"mode": "disabled"}},
}  # fmt: skip
WORDS = (
    "", "none", "auto", "..", "../x", ".", "~", "a/b", "CON", "x" * 300, "road", "per_class", "fixmatch", "-1", "1e400",
    "${HOME}", "${THRESHER_DATA}", "${", "s3://b/c", "s3://u:p@b/c", "foo://x", "\u2028", "\x00", "\ud800", "nul\0",
    "splits/val.txt", "class_mapping.csv", "images", "^(", "(a+)+$", "null", "{}", "true",
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(WORDS), st.sampled_from([None, True, False, 0, -1, 1, 2**63, 10**30, 0.5, 1e308, [], {}]),
    st.just(float("inf")), st.sampled_from([1, 2, 3, 20, 0.2, 0.9, 1e-3, True, "auto", None]),
    st.text(max_size=6), st.lists(st.sampled_from(WORDS), max_size=3),
    st.dictionaries(st.sampled_from((*WORDS, "low", "high", "log", "choices", "scale")), st.floats(0, 2), max_size=3),
)  # fmt: skip

_numbers = itertools.count()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_scenes(folder / "scenes", photos=6, patches_per_photo=4, size=32, labeled=8)
    (folder / "sweep.yaml").write_text(strict_yaml.dump(SWEEP))
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(search.running, "connected", fuzz.no_ray)
    monkeypatch.setenv("THRESHER_CACHE", str(tmp_path / "cache"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return tmp_path


def answered(world: Path, folder: Path, change: Callable[[Path], None], *commands: tuple[str, ...]) -> None:
    """Changes a copy of the data set and its sweep file, and looks at what some commands say and do."""
    here = folder / str(next(_numbers))
    shutil.copytree(world, here)
    change(here)
    before = fuzz.tree(here)
    for words in commands:
        fuzz.command(*(word.format(here=here) for word in words))
        after = fuzz.tree(here)
        if words[0] == "sweep":
            # Whether the storage can be written is tried before Ray is started: its folder may stay, empty.
            after = {path: content for path, content in after.items() if content is not None or path in before}
        assert after == before, f"{words} changed something"
    assert list((folder / "elsewhere").iterdir()) == []
    shutil.rmtree(here)


CHECK, PREVIEW = ("data", "check", "{here}/sweep.yaml"), ("preview", "{here}/sweep.yaml", "--no-probe")
START = ("sweep", "{here}/sweep.yaml")


def test_what_is_right_is_taken(world: Path, folder: Path) -> None:
    for words in (CHECK, PREVIEW, START):
        answer = fuzz.command(*(word.format(here=world) for word in words))
        assert answer.code == (None if words is START else 0), answer


# -- sweep files ---------------------------------------------------------------------------------------------------


def put(document: dict[str, Any], seed: int, value: Any) -> None:
    """Puts a value at some place of a document, under a name that is there or under a new one."""
    draw, inner = random.Random(seed), document
    while True:
        name = draw.choice(sorted(inner))
        if isinstance(inner[name], dict) and inner[name] and draw.random() < 0.75:
            inner = inner[name]
            continue
        if draw.random() < 0.1:
            name = draw.choice((name + "x", name.upper(), "st", "data.root", ""))
        inner[name] = value
        return


PLACES = st.lists(st.tuples(st.integers(0, 10**6), VALUES), min_size=1, max_size=3)


@pytest.mark.fault(
    44,
    how="random values at random keys of a sweep file, through the commands",
    saw="an answer in words with an exit code; no traceback",
)
def test_any_value_in_a_sweep_file(world: Path, folder: Path) -> None:
    @settings(max_examples=EXAMPLES)
    @given(PLACES, st.sampled_from([CHECK, PREVIEW, START]))
    def any_value(places: list[tuple[int, Any]], words: tuple[str, ...]) -> None:
        answered(world, folder, lambda here: write_values(here, places), words)

    any_value()


def write_values(here: Path, places: list[tuple[int, Any]]) -> None:
    document = json.loads(json.dumps(SWEEP))
    for seed, value in places:
        put(document, seed, value)
    # JSON is YAML, and says also what no YAML writer would.
    (here / "sweep.yaml").write_text(json.dumps(document, indent=1))


def test_any_text_for_a_sweep_file(world: Path, folder: Path) -> None:
    lines = strict_yaml.dump(SWEEP).splitlines()
    odd = st.sampled_from(["\t", "- ", "&a ", "*a", "!!python/object:os.system", "<<: *a", "? ", "---", "%YAML 1.1",
                           ": ", "{", "[", "'", '"', "|", ">", "#", "\ufeff", "\x85", "name: x"])  # fmt: skip
    edit = st.tuples(st.sampled_from(["insert", "replace", "delete", "repeat"]), st.integers(0, len(lines)), odd)

    @settings(max_examples=EXAMPLES)
    @given(st.lists(edit, max_size=4), st.binary(max_size=8), st.sampled_from(["", "utf-16", "latin-1", "bytes"]))
    def any_text(edits: list[tuple[str, int, str]], extra: bytes, coding: str) -> None:
        answered(world, folder, lambda here: write_text(here, edits, extra, coding), CHECK, PREVIEW)

    def write_text(here: Path, edits: list[tuple[str, int, str]], extra: bytes, coding: str) -> None:
        text = list(lines)
        for how, place, odd_text in edits:
            old = text[place : place + 1]
            new = {"insert": [odd_text, *old], "replace": [odd_text], "delete": [], "repeat": old * 2}[how]
            text[place : place + 1] = new
        content = "\n".join(text).encode(coding if coding in ("utf-16",) else "utf-8")
        (here / "sweep.yaml").write_bytes(content + (extra if coding == "bytes" else b""))

    any_text()


# -- tables and lists ----------------------------------------------------------------------------------------------

CELL = st.one_of(
    st.sampled_from([*WORDS, "water", "1 2 3", "#ff0000", "256 0 0", "1,2,3", "p0_y0_x0", "images/p0_y0_x0.png"]),
    st.text(max_size=6),
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("class_mapping.csv", "class_name,class_color"), ("class_mapping.csv", None), ("splits/labelled.txt", None),
        ("splits/val.txt", None),
    ],
)  # fmt: skip
def test_any_table_of_classes_and_any_list(name: str, head: str | None, world: Path, folder: Path) -> None:
    kept = (world / "scenes" / name).read_bytes()

    @settings(max_examples=EXAMPLES // 2)
    @given(
        st.lists(st.lists(CELL, min_size=1, max_size=3), max_size=4), st.sampled_from([",", ";", "\t", " "]),
        st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(),
        st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
    )  # fmt: skip
    def any_rows(rows: list[list[str]], comma: str, newline: str, append: bool, coding: str) -> None:
        lines = ([head] if head and not append else []) + [comma.join(row) for row in rows]
        content = newline.join(lines).encode(coding, "ignore")

        def change(here: Path) -> None:
            (here / "scenes" / name).write_bytes(kept + content if append else content)

        answered(world, folder, change, CHECK)

    any_rows()


@pytest.mark.parametrize("name", ["coordinates.json", "points.csv"])
def test_any_points(name: str, world: Path, folder: Path) -> None:
    images = [path.name for path in sorted((world / "scenes" / "images").iterdir())]
    number = st.one_of(
        st.floats(-5, 20), st.sampled_from([1e308, -1e308, 2**70, float("nan"), float("inf"), None, "x", True, "1"])
    )
    points = st.dictionaries(
        st.one_of(st.sampled_from(images), CELL), st.one_of(st.lists(st.lists(number, max_size=3), max_size=3), VALUES),
        max_size=8,
    )  # fmt: skip
    section = {"file": name, "radius": 2, "class": "dot"}
    data = {"root": "scenes", "layout": "points", "points": section, "group_by": "none"}

    @settings(max_examples=EXAMPLES)
    @given(st.one_of(points, VALUES), st.booleans(), st.binary(max_size=10))
    def any_points(found: Any, full: bool, extra: bytes) -> None:
        def change(here: Path) -> None:
            for part in ("masks", "splits", "class_mapping.csv"):
                path = here / "scenes" / part
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            rest = {image: [[3, 4]] for image in images} if full else {}
            whole = {**rest, **found} if isinstance(found, dict) else found
            content = json.dumps(whole).encode()
            if name.endswith("csv"):
                pairs = whole.items() if isinstance(whole, dict) else [(whole, [[1, 2]])]
                rows = [[image, *p] for image, ps in pairs if isinstance(ps, list) for p in ps if isinstance(p, list)]
                content = ("image,x,y\n" + "\n".join(",".join(map(str, row)) for row in rows)).encode("utf-8", "ignore")
            (here / "scenes" / name).write_bytes(content + extra)
            train = {"steps": 40, "eval_every_steps": 10, "encoder_weights": None}
            document = {**SWEEP, "data": data, "space": {}, "train": train}
            document.pop("preset")
            (here / "sweep.yaml").write_text(strict_yaml.dump(document))

        answered(world, folder, change, CHECK)

    any_points()


# -- images and masks ----------------------------------------------------------------------------------------------

MODES = ("1", "L", "P", "RGB", "RGBA", "I;16", "I", "F", "CMYK", "LA")


@st.composite
def pictures(draw: st.DrawFn) -> tuple[str, str, tuple[int, int], int, bytes]:
    """Mode, suffix, size, seed of the values, and bytes to put in place of a part of the file."""
    size = draw(st.sampled_from([(32, 32), (32, 32), (32, 32), (1, 1), (32, 33), (0, 0), (3000, 1)]))
    return (
        draw(st.sampled_from(MODES)), draw(st.sampled_from([".png", ".png", ".tif", ".jpg", ".webp", ".npy"])), size,
        draw(st.integers(0, 99)), draw(st.one_of(st.just(b""), st.binary(max_size=20))),
    )  # fmt: skip


def write_picture(path: Path, picture: tuple[str, str, tuple[int, int], int, bytes]) -> None:
    """A file whose name may promise something else than it holds."""
    mode, suffix, (width, height), seed, extra = picture
    draw = np.random.default_rng(seed)
    path = path.with_suffix(suffix)
    values = draw.integers(0, (3, 7, 256)[seed % 3], (height, width))
    if suffix == ".npy":
        kinds = (np.uint8, np.int64, np.float32, np.bool_, np.uint16, object)
        np.save(path, values.astype(kinds[seed % len(kinds)]), allow_pickle=True)
    elif width and height:
        flat = Image.fromarray(values.astype(np.uint8))
        made = Image.fromarray(values.astype(np.uint16)) if mode == "I;16" else flat.convert(mode)
        try:
            made.save(path)
        except (OSError, KeyError):
            made.save(path, format="TIFF")
    else:
        path.write_bytes(b"")
    if extra and path.stat().st_size:
        content = bytearray(path.read_bytes())
        place = seed * len(content) // 100
        content[place : place + len(extra)] = extra
        path.write_bytes(content)


@pytest.mark.fault(
    37,
    how="random pictures and random bytes as images and masks, through the commands",
    saw="an answer in words with an exit code; no traceback",
)
@pytest.mark.parametrize("kind", ["masks", "images"])
def test_any_picture(kind: str, world: Path, folder: Path) -> None:
    names = sorted((world / "scenes" / kind).iterdir())

    @settings(max_examples=EXAMPLES)
    @given(st.lists(st.tuples(st.integers(0, len(names) - 1), pictures()), min_size=1, max_size=3), st.booleans())
    def any_picture(found: list[tuple[int, Any]], beside: bool) -> None:
        def change(here: Path) -> None:
            for place, picture in found:
                path = here / "scenes" / kind / names[place].name
                if not beside:
                    path.unlink(missing_ok=True)
                write_picture(path, picture)

        answered(world, folder, change, CHECK, ("data", "index", "{here}/sweep.yaml"))

    any_picture()
