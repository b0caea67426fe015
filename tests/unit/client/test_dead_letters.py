"""Dead letters reach who waits for an answer; jobs that nothing knows are told from those on their way."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from llmos.client import Client, DeadLettered, JobRef, NoSuchJob, Submission
from llmos.client.matching import KEEP_DEAD, Board
from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Log, Out, Place
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.control import CONTROL, Query, Reply
from llmos.schemas.dead import DeadLetter
from llmos.schemas.job import ErrorInfo, Origin
from llmos.schemas.tasks import EchoOutput

PATIENCE = 20.0


def letter(origin: Origin) -> DeadLetter:
    """As ingest writes it."""
    error = ErrorInfo(code="unknown_tenant", message="nobody")
    return DeadLetter(origin=origin, stage="ingest", error=error, at=1.0, value=b"sealed")


async def write(log: Log, *values: bytes) -> None:
    """Writes records to `dead`."""
    await log.emit(Place(topics.DEAD, 0), [Out(None, value) for value in values])


async def test_a_dead_letter_ends_the_waiting_of_its_submission_alone(client: Client, script: Any, log: Log) -> None:
    """Who waits for it hears code and reason, now and later, in a stream too; others go on; rubbish is passed over."""
    dead, lives = [await client.submit("echo", {"text": "x"}) for _ in range(2)]
    waiting = [asyncio.create_task(client.result(s, PATIENCE)) for s in (dead, lives)]
    await asyncio.sleep(0)
    await write(log, b"\xc1", encode(letter(dead.origin)))
    with pytest.raises(DeadLettered, match=r"ingest.*unknown_tenant: nobody") as caught:
        await waiting[0]
    assert (caught.value.letter.error.code, caught.value.letter.value) == ("unknown_tenant", b"")
    with pytest.raises(DeadLettered):
        await client.result(dead, PATIENCE)
    with pytest.raises(DeadLettered):
        async for _ in client.stream(dead, PATIENCE):
            pass
    answer = await script.answer(lives, EchoOutput(text="x"))
    assert await waiting[1] == answer


async def test_a_dead_letter_before_the_acknowledgement_counts(log: Log) -> None:
    """It may be read while the request's own offset is not known yet."""

    read = asyncio.Event()

    class Noting(Board):
        def bury(self, origin: Origin, why: DeadLettered) -> None:
            super().bury(origin, why)
            read.set()

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(log, name)

        async def emit(self, place: Place, records: Any) -> int:
            offset = await log.emit(place, records)
            await write(log, encode(letter(Origin(*place, offset))))
            await read.wait()
            return offset

    async with Client.over(Slow()) as client:  # type: ignore[arg-type]
        client._board = client._results._board = Noting()
        async with asyncio.timeout(PATIENCE):
            submission = await client.submit("echo", {"text": "x"})
        with pytest.raises(DeadLettered):
            await client.result(submission, PATIENCE)
        assert client._board.statistics().owed == 0


def test_dead_letters_are_kept_within_a_bound() -> None:
    """A flood of other clients' dead letters does not fill the memory."""
    board = Board()
    origins = [Origin("requests", 0, offset) for offset in range(KEEP_DEAD + 1)]
    for origin in origins:
        board.bury(origin, DeadLettered(letter(origin)))
    assert board.buried(origins[0]) is None
    assert board.buried(origins[1]) is not None
    assert board.buried(origins[-1]) is not None


async def scheduler(log: Log, live: list[Origin], **fields: Any) -> None:
    """Answers queries for a job until cancelled."""
    reader = log.reader()
    reader.assign({Place(topics.CONTROL, 0): 0})
    body = msgspec.Raw(msgspec.msgpack.encode({"job_id": "", "submissions": [{"origin": origin} for origin in live]}))
    while True:
        for records in (await reader.read(1.0)).values():
            for query in [CONTROL.decode(record.value) for record in records]:
                if isinstance(query, Query):
                    reply = Reply(id=query.id, **(fields or {"body": body}))
                    await log.emit(Place(query.reply_to, 0), [Out(None, encode(reply))])


@pytest.fixture
async def submission(client: Client) -> Submission:
    """A request in the log that nobody has read yet."""
    return await client.submit("echo", {"text": "x"})


@pytest.mark.parametrize(
    ("name", "live", "known"),
    [
        ("submission", False, True),
        ("reference", False, True),
        ("job id", False, False),
        ("job id", True, True),
        ("other job at its origin", False, False),
        ("offset beyond the end", False, False),
        ("no requests topic", False, False),
        ("no such partition", False, False),
    ],
)
async def test_a_job_is_known_by_scheduler_or_request(
    broker: MemoryBroker, log: Log, submission: Submission, name: str, live: bool, known: bool
) -> None:
    """A request that waits in the log is on its way; without its origin only the scheduler can say so."""
    origin = submission.origin
    named = {
        "submission": submission,
        "reference": str(submission),
        "job id": submission.job_id,
        "other job at its origin": JobRef(bytes(16), origin),
        "offset beyond the end": JobRef(submission.job_id, Origin(origin.topic, origin.partition, origin.offset + 1)),
        "no requests topic": JobRef(submission.job_id, Origin("sealed", 0, 0)),
        "no such partition": JobRef(submission.job_id, Origin(origin.topic, 99, 0)),
    }[name]
    replying = asyncio.create_task(scheduler(log, [origin] if live else []))
    try:
        async with Client.over(broker.connect("other")) as other:
            if known:
                assert await other.look(named) is None
            else:
                with pytest.raises(NoSuchJob, match="no such job"):
                    await other.look(named)
    finally:
        replying.cancel()
        await asyncio.wait([replying])


async def test_an_answer_that_is_there_is_known_without_asking(client: Client, script: Any, log: Log) -> None:
    """No scheduler is needed for what has ended, and one that cannot say it (its reply is too large) denies nothing."""
    submission = await client.submit("echo", {"text": "x"})
    answer = await script.answer(submission, EchoOutput(text="x"))
    assert await client.look(submission.job_id) == answer
    replying = asyncio.create_task(scheduler(log, [], error=ErrorInfo(code="too_large", message="the reply")))
    try:
        assert await client.look(bytes(16)) is None
    finally:
        replying.cancel()
        await asyncio.wait([replying])
