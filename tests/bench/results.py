"""The numbers that benchmarks have found, in one small file that can be committed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.json")


def record(section: str, command: str, numbers: Any) -> None:
    """Puts what a benchmark found in the place of what it had found before.

    Args:
        section: the benchmark. command: how to run it again. numbers: what it found.
    """
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    found[section] = {"command": command, "found": numbers}
    RESULTS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
