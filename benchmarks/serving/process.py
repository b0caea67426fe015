"""Runs one measurement in a process of its own: what to measure goes in as JSON, figures come out as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.serving.models import Measured

SECONDS = 420.0
"""A measurement that takes longer is broken."""


class Work(NamedTuple):
    """What a process measures."""

    model: Measured
    prompts: list[str]
    batches: list[int]
    repeats: int
    first_tokens: int
    """How often the time to the first token is taken."""


class Figures(NamedTuple):
    """What it found."""

    tokens_per_second: dict[int, list[float]]
    """By batch, one for each repeat."""
    first_token_seconds: list[float]


async def measured(module: str, work: Work) -> Figures:
    """Runs `python -m benchmarks.serving.<module>`.

    Raises:
        RuntimeError: it failed; the text is the end of what it said.
        TimeoutError: it took longer than `SECONDS`.
    """
    threads = str(os.cpu_count())
    with tempfile.TemporaryFile() as said:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"benchmarks.serving.{module}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=said,
            env={**os.environ, "OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"},
        )
        try:
            async with asyncio.timeout(SECONDS):
                out, _ = await process.communicate(json.dumps(_object(work)).encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            said.seek(0)
            raise RuntimeError(f"benchmarks.serving.{module} failed:\n{said.read().decode(errors='replace')[-2000:]}")
    found = json.loads(out.splitlines()[-1])
    rates = {int(batch): rate for batch, rate in found["tokens_per_second"].items()}
    return Figures(rates, found["first_token_seconds"])


def main(measure: Callable[[Work], Figures]) -> None:
    """The body of such a process."""
    given: dict[str, Any] = json.load(sys.stdin)
    model = given.pop("model")
    figures = measure(Work(model=Measured(**model | {"directory": Path(model["directory"])}), **given))
    print(json.dumps(figures._asdict()), flush=True)


def _object(work: Work) -> dict[str, Any]:
    return {**work._asdict(), "model": {**work.model._asdict(), "directory": str(work.model.directory)}}
