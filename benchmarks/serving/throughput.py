"""Tokens per second and time to the first token: the pipeline, the engine alone, and `transformers`, model by model."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks.harness import Row, machine, median
from benchmarks.serving.models import Measured, big_model, prompts, small_model
from benchmarks.serving.pipeline import first_token_seconds, system, wave
from benchmarks.serving.process import Figures, Work, measured
from llmos.client import Client

BATCHES = [1, 8, 16]
REPEATS = 5
FIRST_TOKENS = 15
TARGETS = {1: ">= 1.0", 16: ">= 1.5"}
"""Of the pipeline over `transformers`, by requests at once."""
BUDGET_BYTES = 6 * 1024**3
PEER, ENGINE = "transformers generate", "engine called directly"


async def run(console: Console) -> list[Row]:
    """All figures of this part; takes about six minutes."""
    instructions = machine()["instructions"]
    assert isinstance(instructions, list)
    with tempfile.TemporaryDirectory(prefix="llmos-bench-") as directory:
        models = [small_model(), big_model(Path(directory) / "models", instructions)]
        await _write(models[1])
        direct: dict[tuple[str, str], Figures] = {}
        texts = {model.name: prompts(max(BATCHES), model.prompt_tokens) for model in models}
        for model in models:
            work = Work(model, texts[model.name], BATCHES, REPEATS, FIRST_TOKENS)
            for name, module in ((PEER, "peer"), (ENGINE, "engine")):
                console.print(f"{name}: {model.name}, {model.dtype}", style="dim")
                direct[name, model.name] = await measured(module, work)
        rows: list[Row] = []
        overrides = {
            "node": {"cpu_devices": 1, "models_directories": [str(models[1].directory.parent)]},
            "worker": {"slots": max(BATCHES), "budget_bytes": BUDGET_BYTES},
        }
        async with system(Path(directory) / "state", **overrides) as client:
            for model in models:
                console.print(f"pipeline: {model.name}", style="dim")
                found, streamed = await _pipeline(client, model, texts[model.name])
                rows += _rows(model, found, streamed, direct[PEER, model.name], direct[ENGINE, model.name])
        return rows


async def _pipeline(client: Client, model: Measured, texts: list[str]) -> tuple[Figures, float]:
    """The pipeline's figures, and tokens per second of the largest batch with every token streamed."""
    rates: dict[int, list[float]] = {}
    for batch in BATCHES:
        await wave(client, model, texts[:batch])
        rates[batch] = [await wave(client, model, texts[:batch]) for _ in range(REPEATS)]
    streamed = [await wave(client, model, texts, "tokens") for _ in range(REPEATS)]
    firsts = [await first_token_seconds(client, model, texts[i % len(texts)]) for i in range(FIRST_TOKENS)]
    return Figures(rates, firsts), median(streamed)


def _rows(model: Measured, ours: Figures, streamed: float, peer: Figures, engine: Figures) -> list[Row]:
    work = f"{model.prompt_tokens} + {model.new_tokens} tokens, {model.dtype}"
    rows = []
    for batch in BATCHES:
        what = f"{model.name}, {batch} at once"
        value, direct = median(ours.tokens_per_second[batch]), median(engine.tokens_per_second[batch])
        theirs = median(peer.tokens_per_second[batch])
        rows.append(Row(what, value, "tokens/s", PEER, theirs, TARGETS.get(batch, ""), work))
        rows.append(Row(what, value, "tokens/s", ENGINE, direct, ">= 0.9", work))
    at_once = median(ours.tokens_per_second[BATCHES[-1]])
    what = f"{model.name}, {BATCHES[-1]} at once, every token streamed"
    rows.append(Row(what, streamed, "tokens/s", "none streamed", at_once, "", work))
    first, alone = median(ours.first_token_seconds), median(engine.first_token_seconds)
    added = f"added by the pipeline: {(first - alone) * 1000:.1f} ms; transformers: {median(peer.first_token_seconds) * 1000:.1f} ms"
    what = f"{model.name}, submission to first token on the stream, p50"
    rows.append(Row(what, first * 1000, "ms", ENGINE, alone * 1000, "", added))
    return rows


async def _write(model: Measured) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.serving.writer", str(model.directory), model.dtype)
    )
    if await process.wait() != 0:
        raise RuntimeError("the big model could not be written")
