"""tests/FAULTS.md says what the tests say: every row is covered, and no line is of a test that is gone."""

from __future__ import annotations

import pytest

from tests.support.fault_page import (
    PAGE,
    ROOT,
    Book,
    Entry,
    Mark,
    Observed,
    cell,
    marks,
    parse,
    render,
    written,
)
from tests.support.fault_rows import FAULTS

HINT = "run the tests concerned with --write-faults"


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_every_fault_has_a_test() -> None:
    assert list(FAULTS) == list(range(1, 49))
    assert {row for row, _ in marks()} == set(FAULTS)


def test_every_test_of_a_fault_says_what_happened() -> None:
    silent = [key for key, mark in marks().items() if mark.saw is None and not mark.observes]
    assert silent == []


def test_the_page_holds_a_line_for_every_marker_and_no_other() -> None:
    said = {key: (cell(mark.how), mark.seam) for key, mark in marks().items()}
    shown = {key: (cell(entry.how), entry.seam) for key, entry in parse(page()).items()}
    assert shown == said, HINT


def test_what_a_marker_states_is_on_the_page() -> None:
    entries = parse(page())
    differ = [
        key for key, mark in marks().items() if mark.saw and not mark.observes and entries[key].seen != cell(mark.saw)
    ]
    assert differ == [], HINT
    assert all(entry.seen for entry in entries.values()), HINT


def test_the_page_is_as_it_is_written_and_knows_no_machine() -> None:
    text = page()
    assert text == render(parse(text).values()), HINT
    assert len(text.encode()) < 400_000
    assert str(ROOT) not in text and "/tmp/" not in text


def test_lines_of_tests_that_did_not_run_stay_and_those_of_tests_that_are_gone_do_not() -> None:
    ran, idle, gone = (Entry(1, f"t.py::{name}", "how", "old", False) for name in ("ran", "idle", "gone"))
    marked = Mark("new how", True, "new", False)
    sources = {(1, "t.py::ran"): marked, (1, "t.py::idle"): Mark("how", False, "old", False)}
    new = {(1, "t.py::ran"): Entry(1, "t.py::ran", "new how", "new", True, 3)}
    found = written(render([ran, idle, gone]), new, sources)
    assert parse(found) == {(1, "t.py::idle"): idle, **new}
    assert found == written(found, {}, sources)
    assert Book().entries(sources) == {}


def test_what_one_of_several_processes_saw_is_counted_where_the_page_is_written() -> None:
    book, place = Book(), ("t.py", 1, "it")
    for name, seen in (("t.py::it[a]", "one"), ("t.py::it[b]", "two"), ("t.py::other", "three")):
        told = [] if "other" in name else [("faults", [[1, seen]])]
        book.pytest_runtest_logreport(
            pytest.TestReport(name, place, {}, "passed", None, "call", user_properties=told)  # type: ignore[arg-type]
        )
    sources = {(1, "t.py::it"): Mark("how", False, None, True), (1, "t.py::other"): Mark("how", False, "said", False)}
    assert book.entries(sources) == {(1, "t.py::it"): Entry(1, "t.py::it", "how", "one; two", False, 2)}


def test_what_is_seen_names_no_folder_no_host_and_no_process() -> None:
    seen: list[tuple[int, str]] = []
    Observed(seen, [10], {"/tmp/x": "...", "box": "HOST"})("/tmp/x/run: pid=4711 on host=box | holds `it`")
    assert seen == [(10, ".../run: pid=N on host=HOST / holds 'it'")]
