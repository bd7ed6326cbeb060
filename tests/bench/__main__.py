"""All benchmarks that fit into minutes: `make bench`. Each compares two things in one run and prints a ratio."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = ("tests.bench.loop_ratio", "tests.bench.record_rebuild")


def main() -> int:
    """Run each in a process of its own."""
    failed = [name for name in BENCHMARKS if subprocess.run([sys.executable, "-m", name], check=False).returncode]
    for name in failed:
        print(f"failed: {name}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
