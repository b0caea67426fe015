"""What the scheduler remembers beyond live jobs: bound keys, cancels, deaths."""

from __future__ import annotations

import pytest

from llmos.schemas.epochs import EPOCHS, Deaths
from llmos.schemas.ids import job_id
from llmos.schemas.limits import TIMEOUT_SECONDS
from llmos.services.scheduler.bindings import Bindings
from llmos.services.scheduler.cancels import Cancels
from llmos.services.scheduler.deaths import EPOCHS as EPOCHS_PLACE
from llmos.services.scheduler.deaths import DeathLedger, is_death_key
from llmos.services.scheduler.jobs import Jobs, LiveJob
from tests.kit.bench import NOW, head, origin
from tests.unit.services.scheduler.making import job_of

WINDOW = 100.0
K, L, M = (job_id("demo", key) for key in "klm")


class Keys:
    """Bindings, met and closed at times that count from the window's length of nothing."""

    def __init__(self, limit: int = 10) -> None:
        self.bindings = Bindings(WINDOW, limit)

    def meet(self, s: int, at: float, key: bytes = K, digest: bytes = b"d") -> tuple[str, int] | None:
        """What a submission meets: (kind, s of the earlier)."""
        met = self.bindings.meet(key, s, origin(s), digest, at)
        return (met[0], met[1].s) if met else None

    def close(self, s: int, at: float, key: bytes = K, digest: bytes = b"d", *, binds: bool = True) -> None:
        """Its receipt."""
        self.bindings.receipt(key, s, origin(s), digest, binds, at)


def test_a_live_job_binds_its_key() -> None:
    """The same content gets a pointer, other content a conflict, however long the job lives; other keys are free."""
    keys = Keys()
    assert keys.meet(1, 0.0) is None
    assert keys.meet(2, 5.0) == ("pointer", 1)
    assert keys.meet(3, 6.0, digest=b"other") == ("conflict", 1)
    assert keys.meet(4, 99 * WINDOW) == ("pointer", 1)
    assert keys.meet(5, 5.0, key=L) is None


@pytest.mark.parametrize(
    ("at", "met"),
    [(10.0, ("pointer", 1)), (10.0 + WINDOW, ("pointer", 1)), (10.1 + WINDOW, None), (9 * WINDOW, None)],
)
def test_a_closed_job_binds_its_key_for_the_window(at: float, met: tuple[str, int] | None) -> None:
    """From its receipt on, by the times of the log; afterwards the next submission binds the key anew."""
    keys = Keys()
    keys.meet(1, 0.0)
    keys.close(1, 10.0)
    assert keys.meet(7, at) == met
    assert keys.meet(8, at) == (met or ("pointer", 7))


def test_what_was_refused_binds_nothing() -> None:
    """A job that was accepted and refused after all frees its key at once."""
    keys = Keys()
    keys.meet(1, 0.0)
    keys.close(1, 1.0, binds=False)
    assert keys.meet(2, 2.0, digest=b"other") is None


def test_pointers_and_conflicts_change_nothing() -> None:
    """Their receipts neither close the first job's binding nor bind the key."""
    keys = Keys()
    keys.meet(1, 0.0)
    keys.meet(2, 1.0)
    keys.close(2, 2.0, binds=False)
    assert keys.meet(3, 99 * WINDOW) == ("pointer", 1)


def test_receipts_read_at_start_bind_keys() -> None:
    """A new scheduler knows a closed job by its receipt alone; a submission before it (a replayed start) is not pointed forward."""
    keys = Keys()
    keys.close(5, 10.0, digest=b"d")
    assert keys.meet(4, 11.0) is None
    assert keys.meet(6, 11.0) == ("pointer", 5)
    assert keys.meet(7, 11.0, digest=b"other") == ("conflict", 5)


def test_the_latest_receipt_of_a_key_counts() -> None:
    """Partitions hold a key's receipts in any order at start: an older one does not take the key back."""
    keys = Keys()
    keys.close(5, 500.0)
    keys.close(1, 10.0)
    assert keys.meet(6, 550.0) == ("pointer", 5)


@pytest.mark.parametrize(("limit", "met"), [(3, ("pointer", 1)), (2, None)])
def test_beyond_the_limit_the_oldest_key_is_forgotten(limit: int, met: tuple[str, int] | None) -> None:
    """By the order of closing; the younger ones stay."""
    keys = Keys(limit)
    for s, key in ((1, K), (2, L), (3, M)):
        keys.close(s, float(s), key)
    assert keys.meet(9, 5.0, K) == met
    assert keys.meet(10, 5.0, L) == ("pointer", 2)


def test_long_closed_keys_make_room_by_themselves() -> None:
    """What no partition can still ask for is not kept, however few there are."""
    keys = Keys(limit=1000)
    for s in range(500):
        keys.close(s, s * WINDOW, job_id("demo", str(s)))
    assert len(keys.bindings._closed) <= 3


@pytest.mark.parametrize(
    ("cancelled", "submitted", "tenant", "hit"),
    [
        ([("demo", 10.0)], 9.0, "demo", True),
        ([("demo", 10.0)], 10.0, "demo", True),
        ([("demo", 10.0)], 10.1, "demo", False),
        ([("acme", 10.0)], 9.0, "demo", False),
        ([("demo", 10.0), ("demo", 20.0)], 15.0, "demo", True),
        ([("demo", 20.0), ("demo", 10.0)], 15.0, "demo", True),
        ([("acme", 99.0), ("demo", 10.0)], 9.0, "demo", True),
        ([("demo", 10.0), ("acme", 99.0)], 9.0, "demo", True),
        ([], 0.0, "demo", False),
    ],
)
def test_cancels(cancelled: list[tuple[str, float]], submitted: float, tenant: str, hit: bool) -> None:
    """A cancel hits its own tenant's submissions made no later; the latest counts, and strangers take nobody's away."""
    cancels = Cancels(10)
    for name, at in cancelled:
        cancels.remember(name, head("k").job_id, at, NOW)
    assert cancels.hit(head("k", tenant=tenant, submitted_at=submitted)) is hit
    assert not cancels.hit(head("other", submitted_at=submitted))


@pytest.mark.parametrize(("limit", "later", "hit"), [(2, 0.0, True), (1, 0.0, False), (2, TIMEOUT_SECONDS + 1, False)])
def test_cancels_are_kept_as_long_as_a_job_may_live(limit: int, later: float, hit: bool) -> None:
    """At most so many, and none that is older than the longest time-out."""
    cancels = Cancels(limit)
    cancels.remember("demo", head("k").job_id, NOW, NOW)
    cancels.remember("demo", head("l").job_id, NOW, NOW + later)
    assert cancels.hit(head("k", submitted_at=NOW - 1)) is hit
    assert cancels.hit(head("l", submitted_at=NOW - 1))


def live(s: int, parts: int = 1) -> LiveJob:
    """A job whose tasks are at work."""
    job = LiveJob(0, s, head(), NOW)
    Jobs().add(job, job_of(head(), parts).parts)
    return job


def written(ledger: DeathLedger) -> list[tuple[str, int | None]]:
    """(key, deaths) of what goes to `epochs`; None is a tombstone."""
    outs = ledger.outbox.take().get(EPOCHS_PLACE, [])
    return [((out.key or b"").decode(), EPOCHS.decode(out.value).deaths if out.value else None) for out in outs]


def test_deaths_are_counted_per_task_and_written_down() -> None:
    """Each part has its own count; every change goes to `epochs`."""
    ledger, job = DeathLedger(), live(3, parts=2)
    assert [ledger.died(job.tasks[0]), ledger.died(job.tasks[0]), ledger.died(job.tasks[1])] == [1, 2, 1]
    assert written(ledger) == [("deaths:0:3:0", 1), ("deaths:0:3:0", 2), ("deaths:0:3:1", 1)]
    assert (ledger.of((0, 3, 0)), ledger.of((0, 4, 0)), ledger.names()) == (2, 0, {(0, 3)})


def test_counts_outlive_the_scheduler_and_end_with_the_job() -> None:
    """They are restored from `epochs`, go on from there, and are tombstoned with their job."""
    ledger, job = DeathLedger(), live(3, parts=2)
    ledger.restore("deaths:0:3:0", Deaths(partition=0, s=3, part=0, deaths=2))
    ledger.restore("deaths:0:3:1", Deaths(partition=0, s=3, part=1, deaths=1))
    ledger.restore("deaths:0:3:1", None)
    assert ledger.died(job.tasks[0]) == 3
    ledger.ended(job)
    assert written(ledger) == [("deaths:0:3:0", 3), ("deaths:0:3:0", None)]
    ledger.ended(job)
    assert written(ledger) == []


def test_counts_of_jobs_answered_meanwhile_are_swept() -> None:
    """At start, those without a live job are tombstoned; the others stay."""
    ledger = DeathLedger()
    for s in (3, 4):
        ledger.restore(f"deaths:0:{s}:0", Deaths(partition=0, s=s, part=0, deaths=1))
    ledger.sweep({(0, 3)})
    assert (written(ledger), ledger.names()) == ([("deaths:0:3:0", None)], {(0, 4)})


@pytest.mark.parametrize(
    ("key", "is_one"), [(b"deaths:0:3:0", True), (b"term", False), (b"layout", False), (None, False)]
)
def test_death_keys(key: bytes | None, is_one: bool) -> None:
    """Terms and the layout share the topic."""
    assert is_death_key(key) is is_one
