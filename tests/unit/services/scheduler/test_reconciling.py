"""The ledger beside the loop: leases and windows as they change, everything after it was emptied, and away again."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from llmos.infra.ledger.memory import MemoryLedger
from llmos.infra.ledger.port import Lease
from llmos.infra.telemetry.metrics import LEDGER_UNKNOWN
from llmos.services.scheduler.leasing import changes, leases_of
from llmos.services.scheduler.reconciling import Keeper, windows_known
from tests.kit.bench import configured
from tests.unit.services.scheduler.making import TERM, Office, attempt

A, B = Lease("0:1:0", "d", 7), Lease("0:2:0", "d", 7)


@pytest.mark.parametrize(
    ("written", "live", "taken", "ended"),
    [
        ([], [], [], []),
        ([], [A, B], [A, B], []),
        ([A, B], [A, B], [], []),
        ([A, B], [B], [], [("0:1:0", 7)]),
        ([A], [A._replace(device="e", epoch=8)], [A._replace(device="e", epoch=8)], []),
    ],
)
def test_what_has_to_be_written(
    written: list[Lease], live: list[Lease], taken: list[Lease], ended: list[tuple[str, int]]
) -> None:
    """New leases and moved ones are taken, those that are over end; a task that moved ends nowhere."""
    found = changes({lease.task: lease for lease in written}, {lease.task: lease for lease in live})
    assert found == (taken, ended)


class Books(Office):
    """An office with a keeper of its ledger."""

    def __init__(self) -> None:
        super().__init__(configured(scheduler={"heartbeat_timeout_seconds": 1e9}))
        assert isinstance(self.ctx.ledger, MemoryLedger)
        self.ledger = self.ctx.ledger
        self.keeper = Keeper(self.ctx, self.desk)


@pytest.fixture
async def books() -> Books:
    return Books()


async def test_leases_follow_what_is_in_flight(books: Books) -> None:
    """Under the attempt's epoch and the submission's credit; a task that moves takes its lease along."""
    head = books.submit(0, parts=2)
    books.beat()
    books.take_turn()
    await books.keeper.look()
    assert await books.ledger.leases() == {"d": 2}
    assert leases_of(books.desk)["0:0:1"] == Lease("0:0:1", "d", attempt(1), head.hold)
    assert (await books.ledger.use())["standard"].jobs == 1
    books.finish(books.task(part=0))
    books.beat("e")
    books.die("d")
    books.take_turn()
    await books.keeper.look()
    assert await books.ledger.leases() == {"e": 1}
    books.finish(books.task(part=1))
    await books.keeper.look()
    assert await books.ledger.leases() == {}


async def test_an_emptied_ledger_is_filled_again(books: Books) -> None:
    """At the next look; what ends afterwards is there to be ended."""
    books.submit(0)
    books.beat()
    books.take_turn()
    await books.keeper.look()
    books.ledger.flush()
    unknown = LEDGER_UNKNOWN._value.get()
    with capture_logs() as events:
        await books.keeper.look()
        assert await books.ledger.leases() == {"d": 1}
        books.finish(books.task())
        await books.keeper.look()
    assert await books.ledger.leases() == {}
    assert [event["event"] for event in events if event["log_level"] != "info"] == ["ledger_emptied"]
    assert LEDGER_UNKNOWN._value.get() == unknown


async def test_what_is_ended_and_was_not_there_is_an_error(books: Books) -> None:
    """Nobody else ends leases: it is counted and logged."""
    books.submit(0)
    books.beat()
    books.take_turn()
    await books.keeper.look()
    await books.ledger.end_leases([("0:0:0", attempt(1))])
    books.finish(books.task())
    unknown = LEDGER_UNKNOWN._value.get()
    with capture_logs() as events:
        await books.keeper.look()
    assert [event["event"] for event in events if event["log_level"] == "error"] == ["unknown_leases_ended"]
    assert LEDGER_UNKNOWN._value.get() == unknown + 1


async def test_a_later_scheduler_wins(books: Books) -> None:
    """Its leases and windows are not overwritten."""
    books.submit(0)
    books.beat()
    await books.ledger.lease([Lease("0:0:0", "e", attempt(1, term=TERM + 1))], 60.0)
    await books.ledger.put_windows("d", TERM + 1, {"": 5.0})
    await books.keeper.look()
    books.take_turn()
    with capture_logs() as events:
        await books.keeper.look()
    assert [event["event"] for event in events if event["log_level"] == "warning"] == ["leases_refused"]
    assert await books.ledger.leases() == {"e": 1}
    assert await books.ledger.windows() == {"d": {"": 5.0}}


async def test_while_it_is_away_nothing_is_lost(books: Books) -> None:
    """Then everything is written again, since nobody knows what it has; credits of answered jobs are given back."""
    head = books.submit(0)
    books.submit(1)
    books.beat()
    books.take_turn()
    await books.keeper.look()
    books.ledger.away = True
    books.finish(books.task(0))
    books.receive(head)
    await books.keeper.look()
    assert books.desk.answered_holds == [head.hold]
    assert await windows_known(books.ctx) == {}
    books.ledger.away = False
    await books.keeper.look()
    assert await books.ledger.leases() == {"d": 1}
    assert (await books.ledger.use())["standard"].jobs == 1
    assert books.desk.answered_holds == []


async def test_windows_are_written_down_and_known_again(books: Books) -> None:
    """A scheduler that starts begins with them."""
    books.beat()
    await books.keeper.look()
    device = books.desk.fleet.get("d")
    assert device is not None
    assert await windows_known(books.ctx) == {"d": device.windows()}
