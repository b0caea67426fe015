"""`python -m benchmarks [NAME …]`: runs benchmarks, prints tables, writes `benchmarks/results/<name>.json`."""

from __future__ import annotations

import asyncio
import importlib
import sys

from rich.console import Console

from benchmarks.harness import machine, show, write

NAMES = ("pipeline",)


def main(names: list[str]) -> int:
    """Exit code 1 for an unknown name; missed targets are shown, not failed: machines differ."""
    console = Console()
    for name in names or NAMES:
        if name not in NAMES:
            console.print(f"there is no benchmark {name}; there are: {', '.join(NAMES)}")
            return 1
        at = machine()
        rows = asyncio.run(importlib.import_module(f"benchmarks.{name}").run(console))
        show(name, rows, console)
        console.print(f"written to {write(name, rows, at)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
