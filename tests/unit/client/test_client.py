"""The client over a log in memory; the rest of the system is a script."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import msgspec
import pytest

from llmos.client import (
    CannotOpen,
    Client,
    CommandRefused,
    EchoInput,
    JobFailed,
    JobRef,
    NoAnswer,
    NoReply,
    NoSuchJob,
    QueryRefused,
    Submission,
    Task,
)
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.macs import check_mac
from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Log, Out, Place
from llmos.infra.settings import Settings
from llmos.schemas import ids, topics
from llmos.schemas.base import encode
from llmos.schemas.control import CONTROL, Cancel, Query, Reply, signed_control
from llmos.schemas.errors import Ambiguous, BadSetting, InvalidRequest, OperatorError, OperatorOnly
from llmos.schemas.job import ErrorInfo, Item, Origin
from llmos.schemas.tasks import EchoOutput

PATIENCE = 20.0
NOTHING_LIVE = msgspec.Raw(msgspec.msgpack.encode({"submissions": []}))


async def test_the_origin_is_where_the_request_lies(client: Client, script: Any) -> None:
    """A submission names the very record that was written, and the partition that its answer will be in."""
    submission = await client.submit("echo", EchoInput(text="hello"), lane="interactive", priority=7)
    ((origin, request),) = (await script.requests()).items()
    assert submission.origin == origin
    assert origin.topic == "requests.interactive"
    assert (request.priority, request.request_id, request.tenant) == (7, submission.request_id, "demo")
    assert submission.job_id == ids.job_id("demo", submission.request_id)
    assert submission.partition == ids.partition_of(submission.job_id, 4)


async def test_many_submissions_are_spread_and_in_order(client: Client, script: Any) -> None:
    """Partitions take turns; submission i is task i."""
    submissions = await client.submit_many(Task("echo", {"text": str(i)}) for i in range(20))
    requests = await script.requests()
    texts = [msgspec.msgpack.decode(requests[s.origin].payload)["text"] for s in submissions]
    assert texts == [str(i) for i in range(20)]
    assert Counter(s.origin.partition for s in submissions) == dict.fromkeys(range(4), 5)


async def test_nothing_is_sent_when_one_of_many_is_invalid(client: Client, script: Any) -> None:
    """A chunk is checked as a whole before any of it is sent."""
    with pytest.raises(InvalidRequest):
        await client.submit_many([Task("echo", {"text": "x"}), Task("echo", {})])
    assert await script.requests() == {}


async def test_answers_reach_who_waits_by_origin(client: Client, script: Any) -> None:
    """Answers come in any order; each waiter gets its own, those to others go to nobody."""
    submissions = await client.submit_many(Task("echo", {"text": str(i)}, request_id="same") for i in range(6))
    waiting = [asyncio.create_task(client.result(s, PATIENCE)) for s in submissions]
    for submission in reversed(submissions):
        await script.answer(submission, EchoOutput(text=f"{submission.origin}"))
    for submission, answer in zip(submissions, await asyncio.gather(*waiting), strict=True):
        assert answer.origin == submission.origin
        assert client.outputs(answer) == [EchoOutput(text=f"{submission.origin}")]


async def test_an_answer_may_be_asked_for_again_and_late(client: Client, script: Any) -> None:
    """An answer that came before anybody waited is there, as often as it is asked for."""
    first, second = await client.submit_many([Task("echo", {"text": "x"})] * 2)
    await script.answer(first, EchoOutput(text="1"))
    await script.answer(second, EchoOutput(text="2"))
    assert await client.result(second, PATIENCE) == await client.result(second, PATIENCE)
    assert await client.result(first, PATIENCE) == await client.peek(first)


async def test_others_find_the_answer_by_job_id_and_by_origin(
    client: Client, script: Any, broker: MemoryBroker
) -> None:
    """A client that did not submit reads it from the job's partition, before it came or after."""
    submission = await client.submit("echo", {"text": "x"})
    async with Client.over(broker.connect("other")) as other:
        waiting = asyncio.create_task(other.result(str(submission), PATIENCE))
        answer = await script.answer(submission, EchoOutput(text="x"))
        assert await waiting == answer
        for name in (submission.job_id, submission.job_id.hex(), JobRef(submission.job_id), submission, answer):
            assert await other.result(name, PATIENCE) == answer


async def test_another_tenant_finds_nothing(client: Client, script: Any, broker: MemoryBroker) -> None:
    """Who guesses a job id, or a whole reference, does not even learn that the job is there."""
    submission = await client.submit("echo", {"text": "x"})
    async with Client.over(broker.connect("other"), tenant="acme") as other:
        scheduler = asyncio.create_task(reply(script.log, 1, body=NOTHING_LIVE))
        with pytest.raises(NoSuchJob):  # while it is on its way
            await other.look(str(submission))
        await scheduler
        await script.answer(submission, EchoOutput(text="x"))
        assert await other.peek(str(submission)) is None
        assert await other.peek(submission.job_id) is None


async def test_an_answer_that_names_another_request_is_none(client: Client, script: Any) -> None:
    """Somebody may put an answer to another of the tenant's submissions at the place where mine is awaited."""
    mine, other = await client.submit_many([Task("echo", {"text": "x"})] * 2)
    for forged in ({"request_id": other.request_id}, {"request_id": other.request_id, "job_id": other.job_id}):
        await script.answer(mine, EchoOutput(text="forged"), **forged)
        await script.answer(mine, EchoOutput(text="forged"), job_id=other.job_id)
        await script.answer(mine, EchoOutput(text="forged"), tenant="acme")
    assert await client.peek(mine) is None
    answer = await script.answer(mine, EchoOutput(text="x"))
    assert await client.result(mine, PATIENCE) == answer


async def test_a_job_id_alone_means_the_result_and_not_a_later_refusal(client: Client, script: Any) -> None:
    """Of several submissions of one job the one that bound it counts."""
    one, two = await client.submit_many([Task("echo", {"text": "x"}, idempotency_key="k")] * 2)
    answer = await script.answer(one, EchoOutput(text="x"))
    await script.answer(two, status="refused", error=ErrorInfo(code="idempotency_conflict", message="no"))
    assert await client.result(one.job_id, PATIENCE) == answer


async def test_a_pointer_is_followed_to_an_answer_that_is_there(client: Client, script: Any) -> None:
    """A repeated key gets the first submission's answer."""
    one, two = await client.submit_many([Task("echo", {"text": "x"}, idempotency_key="k")] * 2)
    answer = await script.answer(one, EchoOutput(text="x"))
    pointer = await script.answer(two, status="pointer", original=one.origin, original_s=1)
    assert await client.result(two, PATIENCE) == answer
    assert await client.peek(two) == pointer


async def test_a_pointer_is_followed_to_an_answer_that_is_still_to_come(
    client: Client, script: Any, broker: MemoryBroker
) -> None:
    """Also where the first submission was another client's and runs yet."""
    async with Client.over(broker.connect("other")) as other:
        one = await other.submit("echo", {"text": "x"}, idempotency_key="k")
        two = await client.submit("echo", {"text": "x"}, idempotency_key="k")
        await script.answer(two, status="pointer", original=one.origin, original_s=1)
        waiting = asyncio.create_task(client.result(two, PATIENCE))
        answer = await script.answer(one, EchoOutput(text="x"))
        assert await waiting == answer


@pytest.mark.parametrize("to_itself", [True, False])
async def test_pointers_are_followed_once(client: Client, script: Any, to_itself: bool) -> None:
    """A pointer that names itself, or another pointer, is none of ours: it must not hold up the client for ever."""
    one, two = await client.submit_many([Task("echo", {"text": "x"}, idempotency_key="k")] * 2)
    other = two if to_itself else one
    await script.answer(one, status="pointer", original=two.origin, original_s=1)
    await script.answer(two, status="pointer", original=other.origin, original_s=1)
    with pytest.raises(CannotOpen, match="stands for another"):
        await client.result(two, PATIENCE)
    with pytest.raises(CannotOpen, match="stands for another"):
        _ = [event async for event in client.stream(two, PATIENCE)]


async def test_waiting_ends_with_the_time_out_and_the_job_goes_on(client: Client, script: Any) -> None:
    """Giving up names the job; asking again later succeeds."""
    submission = await client.submit("echo", {"text": "x"})
    for job in (submission, submission.job_id):
        with pytest.raises(NoAnswer, match=submission.job_id.hex()):
            await client.result(job, 0.01)
    assert await client.peek(submission) is None
    answer = await script.answer(submission, EchoOutput(text="x"))
    assert await client.result(submission, PATIENCE) == answer


async def test_check_raises_what_is_no_result(client: Client, script: Any) -> None:
    """With `check` a refusal is an exception that carries the answer; without, it is an answer."""
    submission = await client.submit("echo", {"text": "x"})
    answer = await script.answer(submission, status="refused", error=ErrorInfo(code="unknown_model", message="no m"))
    assert await client.result(submission, PATIENCE) == answer
    with pytest.raises(JobFailed, match="refused: no m") as caught:
        await client.result(submission, PATIENCE, check=True)
    assert caught.value.answer == answer


async def test_a_refusal_says_when_to_try_again(client: Client, script: Any) -> None:
    """The seconds are in the message, and for programs in `retry_after`; a message that says them itself is left alone."""
    for said, expected in (("full", "full; try again in 2.5 s"), ("try again in 2.5 s", "try again in 2.5 s")):
        submission = await client.submit("echo", {"text": "x"})
        error = ErrorInfo(code="quota_exceeded", message=said, retryable=True, retry_after=2.5)
        await script.answer(submission, status="refused", error=error)
        with pytest.raises(JobFailed, match=f"refused: {expected}$") as caught:
            await client.result(submission, PATIENCE, check=True)
        assert caught.value.retry_after == 2.5


async def test_an_item_that_failed_is_its_error(client: Client, script: Any) -> None:
    """The other items of a list have their outputs, in the order of the input."""
    submission = await client.submit("echo", {"text": ["a", "b"]})
    bad = ErrorInfo(code="engine_failed", message="no")
    good = Item(output_index=0, output=msgspec.msgpack.encode(EchoOutput(text="a")))
    answer = await script.answer(submission, items=[Item(output_index=1, error=bad), good])
    assert client.outputs(answer) == [EchoOutput(text="a"), bad]


async def test_records_that_cannot_be_read_do_not_stop_the_reader(client: Client, script: Any, log: Log) -> None:
    """A newer version's answer is passed over, in the shared reader and in a search."""
    submission = await client.submit("echo", {"text": "x"})
    place = Place(topics.RESULTS, submission.partition)
    newer = {"type": "answer/2", "job_id": submission.job_id, "origin": msgspec.to_builtins(submission.origin)}
    for value in (b"\xc1", msgspec.msgpack.encode(newer), b""):
        await log.emit(place, [Out(None, value)])
    answer = await script.answer(submission, EchoOutput(text="x"))
    assert await client.result(submission, PATIENCE) == answer
    assert await client.result(submission.job_id, PATIENCE) == answer


async def test_an_unknown_fate_is_told(broker: MemoryBroker, client: Client, log: Log) -> None:
    """When the log does not say whether it has the request, the caller hears so, and nothing is owed."""

    class Unsure:
        def __getattr__(self, name: str) -> Any:
            return getattr(log, name)

        async def emit(self, place: Place, records: Any) -> int:
            raise Ambiguous(operation="emitting", problem="no answer")

    async with Client.over(Unsure()) as unsure:  # type: ignore[arg-type]
        with pytest.raises(Ambiguous):
            await unsure.submit("echo", {"text": "x"})
        assert unsure._board.statistics() == (0, 0, 0, 0)


async def test_what_ends_the_reader_ends_the_waiting(client: Client, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that fails does not leave its waiters to their time-outs."""
    failure = OperatorError(problem="records were lost")
    failing = asyncio.Event()

    class Reader:
        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        async def read(self, timeout: float) -> Any:
            if not timeout:
                return {}
            await failing.wait()
            raise failure

    reader = log.reader
    monkeypatch.setattr(log, "reader", lambda: Reader(reader()))
    submission = await client.submit("echo", {"text": "x"})
    waiting = asyncio.create_task(client.result(submission, PATIENCE))
    await asyncio.sleep(0)
    failing.set()
    with pytest.raises(OperatorError, match="records were lost"):
        await waiting
    with pytest.raises(OperatorError, match="records were lost"):
        await client.result(submission, PATIENCE)


async def test_closing_tells_who_still_waits(log: Log) -> None:
    """A waiter of another task hears that the client was closed; its task is not cancelled."""
    async with Client.over(log) as client:
        submission = await client.submit("echo", {"text": "x"})
        waiting = [
            asyncio.create_task(client.result(submission, PATIENCE)),
            asyncio.create_task(client.query("status", timeout=PATIENCE)),
        ]
        await controls(log, 1)
    for task in waiting:
        with pytest.raises(OperatorError, match="closed"):
            await task


async def controls(log: Log, count: int) -> list[Any]:
    """The first messages on `control`."""
    reader = log.reader()
    reader.assign({Place(topics.CONTROL, 0): 0})
    found: list[Any] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < count:
            for records in (await reader.read(1.0)).values():
                found += [CONTROL.decode(record.value) for record in records]
    await reader.close()
    return found


async def test_a_cancel_names_job_tenant_and_time_and_is_signed(log: Log) -> None:
    """It hits what was submitted until now, and only who knows the secret can send it."""
    async with Client.over(log, tenant="acme", secret=b"s" * 32, now=lambda: 1234.5) as client:
        submission = await client.submit("echo", {"text": "x"})
        await client.cancel(submission)
    (cancel,) = await controls(log, 1)
    assert isinstance(cancel, Cancel)
    assert (cancel.tenant, cancel.job_id, cancel.at) == ("acme", submission.job_id, 1234.5)
    assert check_mac(b"s" * 32, signed_control(cancel), cancel.mac)


async def reply(log: Log, count: int, **fields: Any) -> list[Query]:
    """Plays the scheduler for so many queries."""
    queries = await controls(log, count)
    for query in reversed(queries):
        body = msgspec.Raw(msgspec.msgpack.encode({"what": getattr(query, "what", "drain")}))
        message = Reply(id=query.id, **(fields or {"body": body}))
        await log.emit(Place(query.reply_to, 0), [Out(None, encode(message))])
    return queries


async def test_replies_reach_who_asked(client: Client, log: Log) -> None:
    """Two queries at once share a topic and get their own replies, in whatever order these come."""
    scheduler = asyncio.create_task(reply(log, 2))
    bodies = await asyncio.gather(client.query("status", timeout=PATIENCE), client.query("models", timeout=PATIENCE))
    assert bodies == [{"what": "status"}, {"what": "models"}]
    one, two = await scheduler
    assert one.reply_to == two.reply_to == "reply.demo.queries"


async def test_a_refused_query_and_a_silent_scheduler_are_errors(client: Client, log: Log) -> None:
    """The reply's error is told; no reply is told after the time-out."""
    with pytest.raises(NoReply, match="status"):
        await client.query("status", timeout=0.01)
    asking = asyncio.create_task(client.query("job", job=bytes(16), timeout=PATIENCE))
    await reply(log, 2, error=ErrorInfo(code="invalid_request", message="whose?"))
    with pytest.raises(QueryRefused, match="invalid_request: whose"):
        await asking


async def obey(log: Log, count: int, **fields: Any) -> list[Any]:
    """Plays the scheduler for so many commands."""
    commands = await controls(log, count)
    for command in commands:
        body = msgspec.Raw(msgspec.msgpack.encode({"devices": ["a"]}))
        await log.emit(
            Place(command.reply_to, 0), [Out(None, encode(Reply(id=command.id, **(fields or {"body": body}))))]
        )
    return commands


async def test_commands_and_drains_are_replied_to(log: Log) -> None:
    """Each has its own id and time, and the reply to it is what the caller gets."""
    async with Client.over(log, now=lambda: 77.0) as client:
        scheduler = asyncio.create_task(obey(log, 3))
        replies = await asyncio.gather(
            client.command("alias", "tiny", alias="best", timeout=PATIENCE),
            client.command("load", "tiny", device="n.cpu0", timeout=PATIENCE),
            client.drain("n.cpu0", undo=True, timeout=PATIENCE),
        )
        assert replies == [{"devices": ["a"]}] * 3
        alias, load, drain = sorted(await scheduler, key=lambda command: getattr(command, "what", "~"))
    assert (alias.what, alias.model, alias.alias, alias.at) == ("alias", "tiny", "best", 77.0)
    assert (load.what, load.model, load.device) == ("load", "tiny", "n.cpu0")
    assert (drain.device, drain.undo, drain.at) == ("n.cpu0", True, 77.0)
    assert len({alias.id, load.id, drain.id}) == 3


async def test_operators_sign_with_their_key_and_hear_on_their_own_topic(log: Log) -> None:
    """Commands and what is every tenant's go under the operators' key; what is a tenant's own goes under its secret."""
    keys = Keyring.memory()
    async with Client.over(log, secret=b"s" * 32, operator=keys) as client:
        scheduler = asyncio.create_task(reply(log, 4))
        await asyncio.gather(
            client.query("devices", timeout=PATIENCE),
            client.query("jobs", timeout=PATIENCE),
            client.query("jobs", timeout=PATIENCE, as_operator=True),
            client.drain("n.cpu0", timeout=PATIENCE),
        )
        messages = await scheduler
    for message in messages:
        tenant = getattr(message, "tenant", None)
        data = signed_control(message)
        assert check_mac(b"s" * 32, data, message.mac) == (tenant == "demo")
        assert keys.check_mac("operator", data, message.mac) == (tenant is None)
        assert message.reply_to == ("reply.demo.queries" if tenant else "reply.operator.queries")
    assert [getattr(m, "tenant", None) for m in messages].count("demo") == 1


async def test_who_is_no_operator_cannot_ask_as_one(client: Client) -> None:
    """It is told at once, before anything is sent."""
    with pytest.raises(OperatorOnly, match="status"):
        await client.query("status", as_operator=True)


async def test_a_refused_command_carries_the_error(client: Client, log: Log) -> None:
    """Its code tells a program what to do; a silent scheduler and a wrong field are told, too."""
    with pytest.raises(NoReply, match="verify"):
        await client.command("verify", timeout=0.01)
    with pytest.raises(InvalidRequest, match="drain"):
        await client.drain("no device", timeout=PATIENCE)
    asking = asyncio.create_task(client.command("pin", "x", timeout=PATIENCE))
    await obey(log, 2, error=ErrorInfo(code="unknown_model", message="no x"))
    with pytest.raises(CommandRefused, match="unknown_model: no x") as caught:
        await asking
    assert caught.value.error.code == "unknown_model"


async def test_a_client_without_a_log_says_what_to_do(configured: Settings) -> None:
    """No address and no connection are told with their remedy."""
    with pytest.raises(BadSetting, match="llmos up"):
        async with Client(configured):
            pass
    with pytest.raises(OperatorError, match="async with"):
        await Client(bootstrap="localhost:1").result(bytes(16))
    with pytest.raises(OperatorError, match="async with"):
        await Client(bootstrap="localhost:1").submit("echo", {"text": "x"})


async def test_a_log_without_topics_says_what_to_do(broker: MemoryBroker) -> None:
    """A broker that llmos never met is told so."""
    async with Client.over(broker.connect("empty")) as client:
        with pytest.raises(OperatorError, match="llmos up"):
            await client.submit("echo", {"text": "x"})


def test_a_submission_survives_as_text() -> None:
    """What submit prints is enough to find the answer elsewhere."""
    origin = Origin("requests", 1, 2)
    submission = Submission(job_id=bytes(16), request_id="r", origin=origin, tenant="demo", partition=0)
    assert str(submission) == f"{'00' * 16}@requests:1:2"
