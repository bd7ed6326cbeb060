"""Memory of large tensors: huge pages are asked for, unless the user has said otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NAME = "THP_MEM_ALLOC_ENABLE"


@pytest.mark.parametrize(("said", "then"), [(None, "1"), ("0", "0")])
def test_the_package_asks_for_huge_pages_before_torch_is_imported(said: str | None, then: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != NAME}
    if said is not None:
        environment[NAME] = said
    code = f"import os, sys, trainable; print(os.environ['{NAME}'], 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [then, "False"]
