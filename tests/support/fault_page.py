"""Makes tests/FAULTS.md of the tests themselves: what each fault is answered with, as it was seen.

A test says which row it covers, and how it brings the fault about:

    @pytest.mark.fault(36, how="a notify command that does not exist")
    def test_...(observed: Observed) -> None:
        ...
        observed("one warning in the log, exit code 0")

`observed` takes what really happened; `saw=` in the marker stands for it where the assertions say it all. `seam=True`
marks a fault that is put in at the boundary, because the hardware for it is not at hand. `--write-faults` writes the
page: tests that passed take the place of their old lines, and lines of tests that did not run stay.
"""

from __future__ import annotations

import ast
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.fault_rows import FAULTS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "tests" / "FAULTS.md"
MOST_SEEN, LONGEST = 5, 700
HEAD = """\
# Faults, and what happened

Every fault and bad input that thresher answers for: how a test brought it about, and what it then saw. A **seam** is a
fault that is put in at the boundary to hardware that a test machine lacks; all others happen for real.
Written by `pytest --write-faults`; tests/unit/test_fault_page.py holds it to the tests.

| # | fault | how it was produced | what happened | test | driven |
|---|---|---|---|---|---|
"""
_LINE = re.compile(r"^\| (\d+) \| (.*?) \| (.*?) \| (.*) \| `(\S+)`(?: \((\d+) cases\))? \| (real|seam) \|$")
_SEEN = pytest.StashKey["list[tuple[int, str]]"]()
_BOOK = pytest.StashKey["Book"]()
_TOLD = "faults"
Key = tuple[int, str]


@dataclass(frozen=True)
class Entry:
    """One line of the page.

    Attributes:
        row: number of the fault.
        test: where it is tested, without parameters.
        how: how it is produced.
        seen: what happened, as Markdown.
        seam: whether it is put in at a boundary.
        cases: how many parameters it was tried with.
    """

    row: int
    test: str
    how: str
    seen: str
    seam: bool
    cases: int = 1

    def line(self) -> str:
        cases = f" ({self.cases} cases)" if self.cases > 1 else ""
        driven = "seam" if self.seam else "real"
        return f"| {self.row} | {FAULTS[self.row]} | {cell(self.how)} | {self.seen} | `{self.test}`{cases} | {driven} |"


def cell(text: str) -> str:
    """Text as it stands in a table: one line, nothing that Markdown or HTML takes for itself.

    >>> cell("a | b\\nc <d>")
    'a / b; c &lt;d&gt;'
    """
    lines = "; ".join(" ".join(line.split()) for line in text.strip().splitlines() if line.strip())
    return lines.replace("|", "/").replace("<", "&lt;").replace(">", "&gt;").replace("*", "\\*").replace("`", "'")


def parse(text: str) -> dict[Key, Entry]:
    """The lines of a page."""
    found = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match:
            row, _, how, seen, test, cases, driven = match.groups()
            how = how.replace("\\*", "*").replace("&lt;", "<").replace("&gt;", ">")
            entry = Entry(int(row), test, how, seen, driven == "seam", int(cases or 1))
            found[entry.row, entry.test] = entry
    return found


def render(entries: Iterable[Entry]) -> str:
    """The page, the same for the same entries."""
    return HEAD + "".join(f"{e.line()}\n" for e in sorted(entries, key=lambda e: (e.row, e.test)))


# ---- what the sources say ----


@dataclass(frozen=True)
class Mark:
    """A marker as it stands in a test's source."""

    how: str
    seam: bool
    saw: str | None
    observes: bool


def marks(folder: Path = ROOT / "tests") -> dict[Key, Mark]:
    """Every marker of every test below a folder, by row and test."""
    found: dict[Key, Mark] = {}
    for path in sorted(folder.rglob("test_*.py")):
        name = path.relative_to(ROOT).as_posix()
        for place, function in _functions(ast.parse(path.read_text(encoding="utf-8"))):
            for row, mark in _marks_of(function):
                found[row, f"{name}::{place}"] = mark
    return found


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Test functions, and the methods of test classes also where they are inherited."""
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}

    def methods(node: ast.ClassDef) -> Iterator[ast.FunctionDef]:
        yield from (item for item in node.body if isinstance(item, ast.FunctionDef))
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in classes:
                yield from methods(classes[base.id])

    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from ((f"{node.name}::{method.name}", method) for method in methods(node))


def _marks_of(function: ast.FunctionDef) -> Iterator[tuple[int, Mark]]:
    observes = any(argument.arg == "observed" for argument in function.args.args)
    for decorator in function.decorator_list:
        if not isinstance(decorator, ast.Call) or ast.unparse(decorator.func) != "pytest.mark.fault":
            continue
        given = {word.arg: ast.literal_eval(word.value) for word in decorator.keywords if word.arg}
        mark = Mark(given["how"], given.get("seam", False), given.get("saw"), observes)
        yield from ((ast.literal_eval(row), mark) for row in decorator.args)


# ---- what a run sees ----


class Observed:
    """Takes what happened in one test.

    Args:
        seen: where it goes.
        rows: the rows that the test covers.
        hidden: texts of this machine alone, by what is shown instead.
    """

    def __init__(self, seen: list[tuple[int, str]], rows: list[int], hidden: Mapping[str, str]) -> None:
        self._seen, self._rows, self._hidden = seen, rows, hidden

    def __call__(self, what: object, row: int | None = None) -> None:
        """Notes what happened.

        Args:
            what: in words, or an error.
            row: of a test that covers several; left out: all of them.
        """
        text = str(what)
        for secret, shown in self._hidden.items():
            text = text.replace(secret, shown)
        text = re.sub(r"\bpid([= ])\d+", r"pid\1N", text)
        text = cell(text)
        text = text if len(text) <= LONGEST else f"{text[:LONGEST].rstrip()}..."
        rows = self._rows if row is None else [row]
        assert rows and set(rows) <= set(self._rows), f"the test is not marked for row {row}"
        self._seen += [(number, text) for number in rows]


@dataclass
class Tally:
    """What the cases of one test came to."""

    cases: int = 0
    failed: bool = False
    seen: dict[int, list[str]] = field(default_factory=dict)


class Book:
    """What a run has seen so far."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase of one test is over, in this process or in one of several that share the tests."""
        told = dict(report.user_properties)
        if _TOLD not in told:
            return
        tally = self._tallies.setdefault(report.nodeid.partition("[")[0], Tally())
        if not report.passed:
            tally.failed = True
        elif report.when == "call":
            tally.cases += 1
            for row, text in told[_TOLD]:
                known = tally.seen.setdefault(row, [])
                if text not in known and len(known) < MOST_SEEN:
                    known.append(text)

    def entries(self, sources: Mapping[Key, Mark]) -> dict[Key, Entry]:
        """The lines of the tests that passed."""
        found = {}
        for (row, test), mark in sources.items():
            tally = self._tallies.get(test)
            if tally is None or tally.failed or not tally.cases:
                continue
            seen = "; ".join(tally.seen.get(row, [])) or cell(mark.saw or "")
            found[row, test] = Entry(row, test, mark.how, seen, mark.seam, tally.cases)
        return found


def written(old: str, new: Mapping[Key, Entry], sources: Mapping[Key, Mark]) -> str:
    """A page with new lines in place of their old ones, and without lines of tests that are gone."""
    kept = {key: entry for key, entry in parse(old).items() if key in sources}
    return render((kept | dict(new)).values())


@pytest.fixture
def observed(request: pytest.FixtureRequest) -> Observed:
    """Takes what happened, for the page of faults."""
    hidden = {str(ROOT): "...", socket.gethostname(): "HOST"}
    if "tmp_path" in request.fixturenames:
        hidden = {str(request.getfixturevalue("tmp_path")): "..."} | hidden
    rows = [row for marker in request.node.iter_markers("fault") for row in marker.args]
    return Observed(request.node.stash.setdefault(_SEEN, []), rows, hidden)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-faults", action="store_true", help="write what the tests saw to tests/FAULTS.md")


def pytest_configure(config: pytest.Config) -> None:
    words = "fault(number, ..., how=, saw=None, seam=False): a row of tests/FAULTS.md that the test covers"
    config.addinivalue_line("markers", words)
    config.stash[_BOOK] = Book()
    config.pluginmanager.register(config.stash[_BOOK])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Sends what a test has seen along with its report."""
    outcome: Any = yield
    if any(True for _ in item.iter_markers("fault")):
        outcome.get_result().user_properties.append((_TOLD, list(item.stash.get(_SEEN, []))))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Writes the page, or says which of its lines are not what was seen in this run."""
    sources = marks()
    seen = config.stash[_BOOK].entries(sources)
    old = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    if config.getoption("--write-faults"):
        PAGE.write_text(written(old, seen, sources), encoding="utf-8")
        return
    shown = parse(old)
    for row, test in sorted(key for key, entry in seen.items() if key in shown and shown[key].seen != entry.seen):
        terminalreporter.write_line(f"tests/FAULTS.md, row {row}: {test} saw something else; see --write-faults")
