"""The strict YAML reader: values, places, and a fault instead of a surprise."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from trainable.document import Document
from trainable.errors import ConfigError
from trainable.scalars import scalar
from trainable.strict_yaml import dump, load, loads, parse_value
from trainable.yaml_events import MAX_BYTES

_TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=12)
_LEAF = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(-1e9, 1e9) | _TEXT
_TREE = st.recursive(
    _LEAF,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(_TEXT.filter(bool), below, max_size=4),
    max_leaves=20,
)


def faults(text: str | bytes, tmp_path: Path) -> list[tuple[str, str]]:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load(path)
    return [(fault.where.replace(f"{tmp_path}/", ""), fault.message) for fault in caught.value.faults]


@given(st.dictionaries(_TEXT.filter(bool), _TREE, min_size=1, max_size=5))
def test_a_json_object_reads_as_itself(data: dict[str, Any]) -> None:
    assert loads(json.dumps(data)).data == data


@given(_TEXT.filter(lambda text: text.strip() == text and text))
def test_what_a_plain_dumper_writes_for_text_comes_back_as_text(text: str) -> None:
    quoted = "'" + text.replace("'", "''") + "'"
    assert loads(f"key: {quoted}").data == {"key": text}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_number_reads_as_itself(number: float) -> None:
    assert loads(f"x: {number!r}").data["x"] == number


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("5e-4", 5e-4), ("5E3", 5000.0), ("+.5", 0.5), ("1.", 1.0), ("007", 7), ("-12", -12), ("0x1F", 31),
        ("0o17", 15), ("no", "no"), ("Yes", "Yes"), ("on", "on"), ("12:30", "12:30"), ("1_000", "1_000"),
        ("2026-01-01", "2026-01-01"), ("true", True), ("FALSE", False), ("null", None), ("~", None), ("", None),
        ("e5", "e5"), (".", "."), ("1e", "1e"), ("0b1", "0b1"), ("nan", "nan"), ("inf", "inf"),
    ],
)  # fmt: skip
def test_plain_scalars_follow_the_core_rules(written: str, read: Any) -> None:
    value = loads(f"x: {written}").data["x"]
    assert value == read
    assert type(value) is type(read)


@pytest.mark.parametrize("written", ["'5e-4'", '"true"', "'~'", "|\n  12"])
def test_quoted_scalars_stay_text(written: str) -> None:
    assert isinstance(loads(f"x: {written}").data["x"], str)


@pytest.mark.parametrize("written", [".inf", "-.INF", ".nan", "1e999", "1" * 50, "0." + "1" * 50])
def test_a_number_must_be_finite_and_short(written: str) -> None:
    with pytest.raises(ValueError, match="a number must"):
        scalar(written)
    with pytest.raises(ConfigError, match="text:2:b.c: a number must"):
        loads(f"a: 1\nb: {{c: {written}}}")


def test_keys_are_text_as_written() -> None:
    assert loads("0: a\nno: b\n1.5: c\nnull: d").data == {"0": "a", "no": "b", "1.5": "c", "null": "d"}


def test_places_name_the_line_of_the_key_or_the_nearest_around_it() -> None:
    document = loads("a: 1\nb:\n  optimizer.lr: {low: 1}\n  list:\n    - x\n    - {y: 2}\n", "f.yaml")
    assert document.place(("a",)) == "f.yaml:1"
    assert document.place("b.optimizer.lr.low") == "f.yaml:3"
    assert document.place("b.list.1.y") == "f.yaml:6"
    assert document.place("b.gone.deeper") == "f.yaml:2"
    assert document.place("gone") == "f.yaml"


def test_an_override_replaces_and_names_itself() -> None:
    document = loads("a: {b: 1, c: {d: 2}}\n", "f.yaml")
    changed = document.with_value(["a", "c"], {"e": 3}, "--set a.c")
    assert changed.data == {"a": {"b": 1, "c": {"e": 3}}}
    assert changed.place("a.c.e") == "--set a.c"
    assert changed.place("a.b") == "f.yaml:1"
    assert document.data == {"a": {"b": 1, "c": {"d": 2}}}
    with pytest.raises(ConfigError, match="a.b must hold keys, but got a.b=1"):
        document.with_value(["a", "b", "c"], 2, "--set a.b.c")


def test_an_override_finds_keys_with_dots() -> None:
    document = loads("train: {optimizer.lr: 1, st: {weight: 2}}\n")
    changed = document.with_value(["train", "optimizer", "lr"], 5, "--set")
    changed = changed.with_value(["train", "st", "weight"], 6, "--set")
    assert changed.data == {"train": {"optimizer.lr": 5, "st": {"weight": 6}}}
    assert changed.place("train.optimizer.lr") == "--set"
    added = document.with_value(["train", "optimizer", "name"], "sgd", "--set")
    assert added.data["train"]["optimizer"] == {"name": "sgd"}
    with pytest.raises(ConfigError, match="a must hold keys"):
        loads("a: [1, 2]").with_value(["a", "0"], 3, "--set a.0")


@pytest.mark.fault(
    44,
    how="one file with anchor, alias, duplicate key, tag, merge key, NaN, empty key and list as key",
    saw="all eight reported at once, each with file:line:key",
)
def test_every_fault_of_the_writing_is_reported_at_once(tmp_path: Path) -> None:
    text = "a: &x 1\nb: *x\na: 2\nc: !!str 3\nd: {<<: 1, e: .nan, '': 1}\n? [k]\n: 1\n"
    assert [(where, message.split(";")[0].split(",")[0]) for where, message in faults(text, tmp_path)] == [
        ("sweep.yaml:1:a", "anchors (&x) are not read"),
        ("sweep.yaml:2:b", "aliases (*x) are not read"),
        ("sweep.yaml:3:a", "a key must stand once"),
        ("sweep.yaml:4:c", "tags (tag:yaml.org"),
        ("sweep.yaml:5:d", "merge keys (<<) are not read"),
        ("sweep.yaml:5:d.e", "a number must be finite"),
        ("sweep.yaml:5:d", "a key must not be empty"),
        ("sweep.yaml:6", "a key must be a plain word"),
    ]


@pytest.mark.fault(
    44,
    how="sixty nested aliases",
    saw="refused without being built",
)
def test_a_bomb_of_aliases_is_refused_without_being_built() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
    with pytest.raises(ConfigError, match="aliases"):
        loads("\n".join(lines))


@pytest.mark.parametrize("text", ["[" * 5000, "{a: " * 500, "- " * 3000 + "x", "x: " + "[" * 40 + "]" * 40])
def test_depth_has_a_limit(text: str) -> None:
    with pytest.raises(ConfigError):
        loads(text)


def test_size_has_a_limit(tmp_path: Path) -> None:
    assert "at most 256 KB" in faults("a: " + "x" * MAX_BYTES, tmp_path)[0][1]


@pytest.mark.fault(
    44,
    how="lines indented by tabs",
    saw="each line named: `must be indented by spaces, but got a tab`",
)
def test_tabs_are_named_line_by_line(tmp_path: Path) -> None:
    assert faults("a:\n\tb: 1\n\tc: 2\n", tmp_path) == [
        (f"sweep.yaml:{n}", "lines must be indented by spaces, but got a tab; use two spaces") for n in (2, 3)
    ]


@pytest.mark.fault(
    44,
    how="UTF-16 and UTF-32 files",
    saw="`save it as UTF-8`",
)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_encodings_are_named(encoding: str, tmp_path: Path) -> None:
    assert "save it as UTF-8" in faults("name: x\n".encode(encoding), tmp_path)[0][1]


@pytest.mark.fault(
    44,
    how="a UTF-8 file with a byte order mark",
    saw="read as if it had none",
)
def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes("name: \u00fc\n".encode("utf-8-sig"))
    assert load(path).data == {"name": "\u00fc"}


@pytest.mark.fault(
    44,
    how="a Latin-1 file",
    saw="refused with line and byte",
)
def test_latin_1_is_refused_with_its_line(tmp_path: Path) -> None:
    [(where, message)] = faults("a: 1\nname: \u00fc\n".encode("latin-1"), tmp_path)
    assert where == "sweep.yaml:2"
    assert "0xfc" in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"), ("# only words\n", "empty"), ("- a\n", "a list"), ("just words", "just words"),
        ('a: "\\ud800"', "surrogate"), ('"\\0": 1', "NUL"),
        ("a: 1\n---\nb: 2\n", "one document"), ('a: "C:\\new\\q"', "use / or single quotes"), ("a: b: c", "quote"),
        ("a: [1, 2", "must be YAML"), ("a: \x07", "printable"), ("%TAG ! x\n---\na: !b 1", "tags"), ("a: 'x", "YAML"),
    ],
)  # fmt: skip
def test_what_is_not_a_mapping_is_said_plainly(text: str, says: str, tmp_path: Path) -> None:
    [(where, message), *_] = faults(text, tmp_path)
    assert says in message
    assert where.startswith("sweep.yaml")


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.yaml", tmp_path, "a\0b"):
        with pytest.raises(ConfigError, match="must be readable"):
            load(path)


@settings(max_examples=300)
@given(st.text(max_size=80))
def test_any_text_gives_data_or_a_config_error(text: str) -> None:
    try:
        document = loads(text)
    except ConfigError as error:
        assert all(fault.where.startswith("text") and fault.message for fault in error.faults)
    else:
        assert isinstance(document, Document)
        assert all(math.isfinite(number) for number in _numbers(document.data))


@settings(max_examples=300)
@given(st.text(alphabet="ab:-#&*!|>'\"%@`{}[], \n\t?<~0.e", max_size=60))
def test_any_punctuation_gives_data_or_a_config_error(text: str) -> None:
    try:
        loads(text)
    except ConfigError as error:
        assert error.faults


@pytest.mark.fault(
    44,
    how="200 files of random bytes",
    saw="data, or a ConfigError",
)
@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_any_bytes_give_data_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(raw)
    try:
        load(path)
    except ConfigError as error:
        assert error.faults


@given(_TREE)
def test_agrees_with_the_plain_loader_where_both_mean_the_same(tree: Any) -> None:
    """A dumper quotes whatever a plain loader would misread, so both must read it as written."""
    text = yaml.safe_dump({"x": _textual(tree)}, allow_unicode=True, width=10_000)
    assert loads(text).data == yaml.safe_load(text)


_ODD = st.sampled_from(
    ["5e-4", "no", "~", "", "0x1", "1:2", "<<", "=", "- a", "a: b", "#", "'", '"', "\n", " x ", "\ufeff", "true"]
)


@given(st.dictionaries(_TEXT.filter(bool) | _ODD.filter(bool), _TREE | _ODD, max_size=5))
def test_what_is_dumped_is_read_back(data: dict[str, Any]) -> None:
    keyed = {("k" + key if key == "<<" else key): value for key, value in data.items()} or {"k": 1}
    assert loads(dump(keyed)).data == keyed


def test_a_dump_holds_no_aliases_and_refuses_objects() -> None:
    shared = [1, 2]
    assert loads(dump({"a": shared, "b": shared, "c": (3,)})).data == {"a": [1, 2], "b": [1, 2], "c": [3]}
    with pytest.raises(yaml.YAMLError):
        dump({"a": object()})


@given(_LEAF)
def test_an_override_reads_like_a_line_of_the_file(leaf: Any) -> None:
    text = json.dumps(leaf)
    assert parse_value(text, "--set x") == loads(f"x: {text}").data["x"]


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for below in value.values() for n in _numbers(below)]
    if isinstance(value, list):
        return [n for below in value for n in _numbers(below)]
    return [value] if isinstance(value, int | float) else []


def _textual(tree: Any) -> Any:
    """Whole numbers, and keys and texts that are words, which both loaders read alike."""
    if isinstance(tree, dict):
        return {f"k{index}": _textual(below) for index, below in enumerate(tree.values())}
    if isinstance(tree, list):
        return [_textual(below) for below in tree]
    if isinstance(tree, str):
        return f"word {tree!a}"
    return int(tree) if isinstance(tree, float) else tree

