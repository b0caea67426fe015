"""`echo` from produce to answer read, beside a bare chain of as many aiokafka hops on the same broker.

A job passes six topics and five processes: ingest, verify, scheduler, worker, aggregator. The bare chain passes as many
with nothing in between but aiokafka, records of the same size, as many partitions, the last hop transactional in the same
way (two producers in turn, a record on each of two topics). Both stand on the same broker at the same time and are measured
in turn: latency from before the send to the answer decoded, at 20 and 200 jobs/s (open loop), and the highest rate that is
kept up with a bounded number of jobs in flight (closed loop).

- `chain`: starts the bare chain; `hop` is one of its processes.
- `probe`: sends and reads, the same code for both.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from benchmarks.harness import Row, median, percentile
from benchmarks.pipeline.chain import bare_chain
from benchmarks.pipeline.probe import Probe, Target, bare_target, llmos_target
from llmos.cli.up import up
from llmos.infra.settings import Settings, load

REPEATS = 5
RATES = ((20.0, 6.0), (200.0, 4.0))
"""Jobs per second, and for how many seconds."""
SATURATION_SECONDS = 5.0
IN_FLIGHT = 2000
PEER = "bare chain"


async def run(console: Console) -> list[Row]:
    """All figures; takes about three minutes."""
    with tempfile.TemporaryDirectory(prefix="llmos-bench-") as directory:
        settings = load(state_directory=Path(directory) / "state")
        stop = asyncio.Event()
        rows: list[Row] = []

        async def measure(ready: Settings) -> None:
            try:
                rows.extend(await _measure(ready, console))
            finally:
                stop.set()

        await up(settings, stop=stop, on_ready=measure, report=lambda line: None)
        return rows


async def _measure(settings: Settings, console: Console) -> list[Row]:
    partitions = settings.kafka.partitions
    figures: dict[tuple[str, str], list[float]] = {}
    async with bare_chain(settings.kafka.bootstrap, partitions) as ends:
        targets: list[Target] = [llmos_target(partitions), bare_target(*ends, partitions)]
        probes = [Probe(settings.kafka.bootstrap, target) for target in targets]
        try:
            for probe in probes:
                await probe.start()
                await probe.saturate(IN_FLIGHT, 2.0)
                await probe.paced(200.0, 1.0)
            for repeat in range(REPEATS):
                for probe in probes if repeat % 2 == 0 else reversed(probes):
                    console.print(f"run {repeat + 1} of {REPEATS}: {probe.name}", style="dim")
                    await _one_run(probe, lambda what, value, of=probe.name: _note(figures, of, what, value))
        finally:
            for probe in probes:
                await probe.stop()
    return _rows(figures)


async def _one_run(probe: Probe, note: Callable[[str, float], None]) -> None:
    for rate, seconds in RATES:
        latencies = await probe.paced(rate, seconds)
        note(f"p50 at {rate:g}/s", percentile(latencies, 0.50))
        note(f"p99 at {rate:g}/s", percentile(latencies, 0.99))
    note("highest rate", await probe.saturate(IN_FLIGHT, SATURATION_SECONDS))


def _note(figures: dict[tuple[str, str], list[float]], of: str, what: str, value: float) -> None:
    figures.setdefault((of, what), []).append(value)


def _rows(figures: dict[tuple[str, str], list[float]]) -> list[Row]:
    rows = []
    for rate, _ in RATES:
        for share, target in (("p50", "<= 2"), ("p99", "")):
            what = f"{share} at {rate:g}/s"
            ours, theirs = (median(figures[of, what]) for of in ("llmos", PEER))
            rows.append(Row(f"echo, produce to answer read, {what}", ours * 1000, "ms", PEER, theirs * 1000, target))
    ours, theirs = (median(figures[of, "highest rate"]) for of in ("llmos", PEER))
    rows.append(Row(f"echo, highest sustained rate, {IN_FLIGHT} in flight", ours, "jobs/s", PEER, theirs, ">= 0.35"))
    return rows
