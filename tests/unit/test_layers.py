"""The order of the layers, the absence of cycles, and who may name which vendor."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("trainable", "spaces", "search")

LAYERS = """
trainable
trainable.errors trainable.faults trainable.atomic trainable.scalars trainable.processes
trainable.document trainable.yaml_events
trainable.strict_yaml trainable.knob
trainable.config trainable.task
trainable.schedules trainable.ema trainable.metrics trainable.losses trainable.pseudo_labels
trainable.data
trainable.collective
trainable.deeplab trainable.discriminator trainable.plain_unet trainable.figures trainable.batch_norm
trainable.models trainable.models_3d trainable.device trainable.optimizers
trainable.health
trainable.recipes
trainable.state trainable.meters trainable.checkpoint trainable.targets trainable.evaluation
trainable.feed trainable.yardstick trainable.identity trainable.judgment
trainable.session
trainable.loop trainable.predict trainable.relay trainable.watchdog
trainable.worker
spaces
search
search.address search.metric_columns search.schema search.checks search.config
search.events search.trial_record search.run_state search.records search.store search.patient_log
search.tables search.catching_up
search.failure search.messages search.suggestion search.known search.asker search.scheduler search.searcher
search.slots search.gpu_gate search.flags search.stop_question search.folder_lock search.mirror
search.trial_folder search.trial
search.cluster search.preflight search.control search.verdicts search.driver search.tune_hooks
search.wandb_key search.publisher_process
search.progress search.keeping search.tracking search.opening search.running search.watchers search.notify
search.sweep search.resume search.single
search.importance search.comparison search.trained search.export search.status search.study search.probe search.preview
search.starter search.doctor search.demo search.confirm search.report
search.cli
"""
"""A module stands in the line of the longest name that it starts with; it imports only from its own line and above."""

VENDORS = {
    "optuna": {"spaces.derive", "search.asker", "search.importance", "search.study"},
    "pandas": {"search.tables"},
    "pyarrow": {"search.store", "search.tables"},
    "wandb": {"search.tracking"},
    "obstore": {"search.store"},
    "typer": {"search.cli"},
    "segmentation_models_pytorch": {"trainable.models"},
    "monai": {"trainable.models_3d"},
}

_RANK = {name: rank for rank, line in enumerate(LAYERS.split("\n")) for name in line.split()}


@cache
def modules() -> dict[str, Path]:
    """Every module of the project by dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Statements that run on import: those for the type checker alone are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        if isinstance(node, ast.stmt):
            yield node
        yield from statements(node)


def names(statement: ast.stmt) -> list[str]:
    """What an import statement names; `from a import b` names a.b."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    if isinstance(statement, ast.ImportFrom):
        return [f"{statement.module}.{alias.name}" for alias in statement.names]
    return []


def imports(path: Path) -> set[str]:
    return {name for statement in statements(ast.parse(path.read_text())) for name in names(statement)}


def ours(name: str) -> str | None:
    """The project's module that an imported name lies in."""
    parts = name.split(".")
    while parts and ".".join(parts) not in modules():
        parts.pop()
    return ".".join(parts) or None


@cache
def graph() -> dict[str, set[str]]:
    """By module, the modules of the project that it imports."""
    return {
        module: {found for name in imports(path) if (found := ours(name)) and found != module}
        for module, path in modules().items()
    }


def rank(module: str) -> int | None:
    parts = module.split(".")
    while parts:
        known = _RANK.get(".".join(parts))
        if known is not None and (len(parts) > 1 or parts == module.split(".") or parts[0] == "spaces"):
            return known
        parts.pop()
    return None


def test_every_module_has_its_place() -> None:
    assert [module for module in modules() if rank(module) is None] == []


def test_a_module_imports_only_from_its_own_layer_and_those_above() -> None:
    wrong = [
        f"{module} imports {below}"
        for module, found in graph().items()
        for below in found
        if (rank(below) or 0) > (rank(module) or 0)
    ]
    assert wrong == []


def test_there_are_no_cycles() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(f"a cycle: {' imports '.join(reversed(error.args[1]))}")


@pytest.mark.parametrize("vendor", sorted(VENDORS))
def test_a_vendor_is_named_only_in_its_places(vendor: str) -> None:
    places = VENDORS[vendor]
    found = {
        module
        for module, path in modules().items()
        for name in imports(path)
        if name.split(".")[0] == vendor
        and not any(module == place or module.startswith(f"{place}.") for place in places)
    }
    assert found == set()


def test_only_the_worker_knows_ray_train() -> None:
    found = {m for m, path in modules().items() for name in imports(path) if name.startswith("ray.train")}
    assert found <= {"trainable.worker"}
    torch_trainer = {m for m, path in modules().items() if re.search(r"\bTorchTrainer\(", path.read_text())}
    assert torch_trainer <= {"trainable.worker"}


def test_the_training_system_runs_without_ray() -> None:
    found = {
        module
        for module, path in modules().items()
        for name in imports(path)
        if name.split(".")[0] == "ray" and module.startswith(("trainable.", "spaces.")) and module != "trainable.worker"
    }
    assert found == set()


def test_nothing_is_imported_inside_a_function_or_by_a_star() -> None:
    wrong = []
    for module, path in modules().items():
        tree = ast.parse(path.read_text())
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
        inner = {id(n) for f in functions for n in ast.walk(f)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom) and id(node) in inner:
                wrong.append(f"{module}:{node.lineno} imports inside a function")
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                wrong.append(f"{module}:{node.lineno} imports everything")
            if isinstance(node, ast.ImportFrom) and node.level:
                wrong.append(f"{module}:{node.lineno} imports by a relative name")
    assert wrong == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    vague = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
    assert [module for module in modules() if vague & set(module.split("."))] == []


def test_every_package_is_installed() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    listed = set(re.findall(r'^ {4}"((?:trainable|spaces|search)[\w.]*)",$', project, re.M))
    found = {module for module, path in modules().items() if path.name == "__init__.py"}
    assert found <= listed
    assert {name for name in listed if not (ROOT / name.replace(".", "/")).is_dir()} == set()
