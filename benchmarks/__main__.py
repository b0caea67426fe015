"""`python -m benchmarks [NAME …]`: runs benchmarks, prints tables, writes `benchmarks/results/<name>.json`.

`NAME:PART,PART` runs some parts of one that has parts; its file is then `<name>-<part>-<part>.json`.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys

import structlog
from rich.console import Console

from benchmarks.harness import machine, show, write

WIDTH = 200
"""Where the output is no terminal."""
NAMES = ("pipeline", "seal", "serving")


def main(names: list[str]) -> int:
    """Exit code 1 for an unknown name; missed targets are shown, not failed: machines differ."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    for text in names or NAMES:
        name, _, listed = text.partition(":")
        parts = listed.split(",") if listed else []
        if name not in NAMES:
            console.print(f"there is no benchmark {name}; there are: {', '.join(NAMES)}")
            return 1
        module = importlib.import_module(f"benchmarks.{name}")
        known = getattr(module, "PARTS", {})
        if wrong := [part for part in parts if part not in known]:
            console.print(f"{name} has no part {', '.join(wrong)}; it has: {', '.join(known) or 'none'}")
            return 1
        at = machine()
        console.print(f"{at['processor']}, {at['cores']} cores, {at['instructions']}", style="dim", markup=False)
        rows = asyncio.run(module.run(console, parts) if known else module.run(console))
        title = "-".join([name, *parts])
        show(title, rows, console)
        console.print(f"written to {write(title, rows, at)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
