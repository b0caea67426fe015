"""What is resident in the ledger: when it changes, now and then, and at once when the ledger was emptied."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from llmos.infra.ledger.memory import MemoryLedger
from llmos.infra.ledger.port import LedgerAway
from llmos.schemas.telemetry import Residency
from llmos.services.worker.residency import RESIDENCY_SECONDS, ResidencyWriter
from tests.kit.bench import Bench, on_bench

pytestmark = pytest.mark.may_block  # time is virtual and nothing else runs on the loop

DEVICE = "node-0.cpu0"


def resident(**fields: object) -> Residency:
    return Residency(model="m", name="m", state="resident", resident_bytes=5, load_seconds=2.0, **fields)  # type: ignore[arg-type]


class Writing:
    """A writer, and how often it wrote."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.residents = [resident()]
        self.ctx = bench.context("worker")
        assert isinstance(self.ctx.ledger, MemoryLedger)
        self.ledger = self.ctx.ledger
        self.writer = ResidencyWriter(self.ctx, DEVICE, 3, lambda: self.residents)
        self.writes = 0
        self.away = False
        put = self.ledger.put_residency

        async def counted(device: str, incarnation: int, residents: Sequence[Residency]) -> bool:
            if self.away:
                raise LedgerAway("gone")
            self.writes += 1
            return await put(device, incarnation, residents)

        monkeypatch.setattr(self.ledger, "put_residency", counted)


def test_it_is_written_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for what changes with every step, such as the last use; with what it says of tier and load."""

    async def main(bench: Bench) -> None:
        writing = Writing(bench, monkeypatch)
        await writing.writer.write()
        await writing.writer.write()
        writing.residents = [resident(last_used_at=9.0, active=1)]
        await writing.writer.write()
        assert writing.writes == 1
        writing.residents = [resident(pinned=True)]
        await writing.writer.write()
        assert writing.writes == 2
        assert await writing.ledger.residency() == {DEVICE: [resident(pinned=True)]}

    on_bench(main)


def test_it_is_written_again_when_the_ledger_was_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger's generation tells; without such a sign it is written now and then all the same."""

    async def main(bench: Bench) -> None:
        writing = Writing(bench, monkeypatch)
        await writing.writer.write()
        await writing.ledger.reconcile([], 60.0, 0.0)
        await writing.writer.write()
        await writing.writer.write()
        assert writing.writes == 2
        await asyncio.sleep(RESIDENCY_SECONDS)
        await writing.writer.write()
        assert writing.writes == 3

    on_bench(main)


def test_a_ledger_that_is_away_is_written_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the next look."""

    async def main(bench: Bench) -> None:
        writing = Writing(bench, monkeypatch)
        await writing.writer.write()
        writing.residents, writing.away = [], True
        await writing.writer.write()
        writing.away = False
        await writing.writer.write()
        assert (writing.writes, (await writing.ledger.residency()).get(DEVICE, [])) == (2, [])

    on_bench(main)


def test_news_are_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks."""

    async def main(bench: Bench) -> None:
        writing = Writing(bench, monkeypatch)
        running = asyncio.create_task(writing.writer.run())
        await asyncio.sleep(0.01)
        writing.residents = []
        writing.writer.changed()
        await asyncio.sleep(0.01)
        assert writing.writes == 2
        running.cancel()

    on_bench(main)
