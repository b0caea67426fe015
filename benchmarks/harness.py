"""What all benchmarks share: rows, the machine, a table for people, JSON for machines."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
_FLAGS = ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "avx2")


class Row(NamedTuple):
    """A figure beside its peer's, measured in the same run."""

    what: str
    value: float
    unit: str
    peer: str
    peer_value: float
    target: str
    """What the ratio should be: `<= 2` or `>= 0.35`; empty: no target."""
    note: str = ""
    """What must be known beside it: the load, the share that was completed."""

    @property
    def ratio(self) -> float:
        """Value over peer."""
        return self.value / self.peer_value if self.peer_value else float("nan")

    @property
    def ok(self) -> bool | None:
        """Whether the ratio meets the target; None without one."""
        if not self.target:
            return None
        sign, bound = self.target.split()
        return self.ratio <= float(bound) if sign == "<=" else self.ratio >= float(bound)


def machine() -> dict[str, object]:
    """The machine: processor, instruction sets, cores, memory, load."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), "")
    flags = set(next((line.partition(":")[2].split() for line in info.splitlines() if line.startswith("flags")), []))
    return {
        "processor": model or platform.processor(),
        "instructions": [flag for flag in _FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


def write(name: str, rows: Sequence[Row], at: dict[str, object]) -> Path:
    """Writes `results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    body = {
        "name": name,
        "machine": at,
        "rows": [
            {
                "what": row.what,
                "value": round(row.value, 6),
                "unit": row.unit,
                "peer": row.peer,
                "peer_value": round(row.peer_value, 6),
                "ratio": round(row.ratio, 3),
                "target": row.target,
                "ok": row.ok,
                "note": row.note,
            }
            for row in rows
        ],
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(body, indent=2) + "\n")
    return path


def show(name: str, rows: Sequence[Row], console: Console) -> None:
    """Prints the table."""
    table = Table(title=name)
    for column in ("what", "value", "peer", "ratio", "target", "", "note"):
        table.add_column(column, justify="left" if column in ("what", "peer", "target", "note") else "right")
    for row in rows:
        verdict = {True: "ok", False: "missed", None: ""}[row.ok]
        table.add_row(
            row.what,
            f"{row.value:,.4g} {row.unit}",
            f"{row.peer}: {row.peer_value:,.4g} {row.unit}",
            f"{row.ratio:.2f}",
            row.target,
            verdict,
            row.note,
        )
    console.print(table)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of `values` lie."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)
