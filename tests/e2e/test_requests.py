"""What becomes of every sort of request on a whole system: dead letters, refusals, pointers, expiry, cancels, `reply_to`."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgpack
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer

from llmos.client import Client, StateChanged, Submission
from llmos.infra.crypto.blobs import open_blob
from llmos.infra.crypto.keyfile import load_keyring
from llmos.schemas.limits import OUTPUT_TOKENS, PAYLOAD_BYTES, REQUEST_BYTES
from tests.kit.counter import Origin, Reader, origin_of
from tests.kit.live import SECONDS, clean_environment, make_topic, origin, until
from tests.kit.load import EMBED, GENERATE, PROMPTS
from tests.stack import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

WORKER = "worker-node-0.cpu0"
LONG = {"prompt": list(PROMPTS) * 60, "max_tokens": 200}
"""Minutes of work."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """One system with one worker for all tests."""
    with clean_environment():
        directory = tmp_path_factory.mktemp("requests")
        async with Stack.start(directory, node={"cpu_devices": 1}, embedded={"kafka_heap": "256m"}) as stack:
            yield stack


@pytest_asyncio.fixture(loop_scope="module")
async def client(stack: Stack) -> AsyncIterator[Client]:
    """The demo tenant's client."""
    async with Client(stack.settings) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def wire(stack: Stack) -> AsyncIterator[Wire]:
    """A stranger's producer."""
    producer = AIOKafkaProducer(bootstrap_servers=stack.settings.kafka.bootstrap, max_request_size=2 * REQUEST_BYTES)
    await producer.start()
    try:
        yield Wire(producer)
    finally:
        await producer.stop()


class Wire:
    """Sends what no client of ours would."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer

    async def send(self, value: bytes, topic: str = "requests") -> Origin:
        """One record, as it is."""
        sent = await self._producer.send_and_wait(topic, value)
        return topic, sent.partition, sent.offset

    async def ask(self, **fields: Any) -> Origin:
        """One echo request, with other fields than usual; None leaves a field out."""
        return await self.send(packed(**fields))


def packed(**fields: Any) -> bytes:
    """An echo request with other fields than usual; None leaves a field out."""
    usual = {
        "type": "request/1",
        "request_id": uuid.uuid4().hex,
        "tenant": "demo",
        "kind": "echo",
        "input": {"text": "hello"},
    }
    return msgpack.packb({name: value for name, value in (usual | fields).items() if value is not None})


def reader(stack: Stack, topic: str) -> Reader:
    """The independent reader of a topic."""
    return Reader(stack.settings.kafka.bootstrap, topic)


NOISE = random.Random(20240229).randbytes(512)

POISON: tuple[tuple[str, bytes, str, str], ...] = (
    ("requests", NOISE, "malformed", "ingest"),
    ("requests.batch", b"", "malformed", "ingest"),
    ("requests.interactive", packed(type="request/99"), "unknown_version", "ingest"),
    ("requests", packed(request_id=None), "malformed", "ingest"),
    ("requests", packed(input={"text": "x" * REQUEST_BYTES}), "oversized", "ingest"),
    ("requests", packed(tenant="nobody"), "unknown_tenant", "ingest"),
    ("requests", packed(mac=b"f" * 32), "forged", "ingest"),
    ("admitted", NOISE, "malformed", "verify"),
    ("sealed", NOISE, "malformed", "scheduler"),
    ("work.node-0.cpu0", NOISE, "malformed", "worker"),
    ("partials", NOISE, "malformed", "aggregator"),
)
"""Topic, record, code, stage."""


async def test_what_cannot_be_used_is_a_dead_letter(stack: Stack, client: Client, wire: Wire) -> None:
    """Every stage puts poison aside with its reason, origin and bytes, answers nobody, and stays up."""
    services = [*await stack.names()]
    before = [await stack.pid(name) for name in services]
    sent = {await wire.send(value, topic): (value, code, stage) for topic, value, code, stage in POISON}
    dead, keyring = reader(stack, "dead"), await asyncio.to_thread(load_keyring, stack.settings.keyring)
    await dead.until(sent, SECONDS)
    for place, (value, code, stage) in sent.items():
        (letter,) = dead.of(place)
        assert (letter["stage"], letter["error"]["code"]) == (stage, code)
        name = "{}:{}:{}".format(*place).encode()
        key, inside, headers = msgpack.unpackb(open_blob(keyring, letter["key_id"], name, letter["value"]))
        assert (key, inside, headers) == (None, value, [])
    submission = await client.submit("echo", {"text": "still there"})
    answer = await client.result(submission, SECONDS)
    assert [output.text for output in client.outputs(answer)] == ["still there"]
    results = reader(stack, "results")
    await results.until([origin(submission)], SECONDS)
    assert not {origin_of(answer) for answer in results.messages} & set(sent)
    assert [await stack.pid(name) for name in services] == before


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"kind": "dance"}, "unknown_kind"),
    ({"kind": "generate", "model": "no-such-model", "input": {"prompt": "x"}}, "unknown_model"),
    ({"kind": "embed", "model": GENERATE, "input": {"text": "x"}}, "wrong_model"),
    ({"kind": "generate", "model": GENERATE, "input": {"prompt": "word " * 400}}, "too_long"),
    ({"kind": "generate", "model": GENERATE, "input": {"prompt": "x", "max_tokens": 1000}}, "too_long"),
    ({"kind": "generate", "model": GENERATE, "input": {"prompt": "x", "max_tokens": 0}}, "invalid_request"),
    (
        {"kind": "generate", "model": GENERATE, "input": {"prompt": "x", "max_tokens": OUTPUT_TOKENS + 1}},
        "invalid_request",
    ),
    ({"input": {"words": "hello"}}, "invalid_request"),
    ({"input": None}, "invalid_request"),
    ({"priority": 12}, "invalid_request"),
    ({"timeout": -1.0}, "invalid_request"),
    ({"timeout": 1e6}, "invalid_request"),
    ({"input": {"text": "x" * (PAYLOAD_BYTES + 10)}}, "too_large"),
    ({"input": None, "payload": msgpack.packb({"text": "x"}), "crc32c": 1}, "payload_damaged"),
    ({"reply_to": "results"}, "reply_topic_forbidden"),
)
"""Fields of a request, and the code of its refusal."""


async def test_what_is_readable_and_wrong_is_refused_with_its_reason(stack: Stack, wire: Wire) -> None:
    """Each gets one answer that says what to change, and one receipt; nothing binds a key."""
    sent = [(await wire.ask(**fields), code) for fields, code in REFUSED]
    for topic in ("results", "usage"):
        found = reader(stack, topic)
        await found.until([place for place, _ in sent], SECONDS)
        for place, code in sent:
            (message,) = found.of(place)
            said = message["code"] if topic == "usage" else message["error"]["code"]
            assert (message["status"], said) == ("refused", code)
            assert not message.get("binds")
            assert topic == "usage" or message["error"]["message"]


async def test_a_repeated_key_meets_its_first_job(stack: Stack, client: Client) -> None:
    """The same content again gets a pointer, also when all come at once; other content a conflict, which binds nothing."""
    key = uuid.uuid4().hex

    async def ask(text: str) -> Submission:
        return await client.submit("echo", {"text": text}, idempotency_key=key)

    same = await asyncio.gather(*(ask("first") for _ in range(5)))
    other, again = await ask("second"), await ask("first")
    places = [origin(submission) for submission in (*same, again)]
    results = reader(stack, "results")
    await results.until([*places, origin(other)], SECONDS)
    answers = [answer for place in places for answer in results.of(place)]
    assert sorted(answer["status"] for answer in answers) == ["completed", *["pointer"] * 5]
    (first,) = [answer for answer in answers if answer["status"] == "completed"]
    assert {tuple(answer["original"]) for answer in answers if answer is not first} == {origin_of(first)}
    (conflict,) = results.of(origin(other))
    assert (conflict["status"], conflict["error"]["code"]) == ("refused", "idempotency_conflict")
    assert (await client.result(again, SECONDS)).origin == (await client.result(same[0], SECONDS)).origin


async def test_a_job_expires_while_it_runs(stack: Stack, client: Client) -> None:
    """The time-out ends a job that is at work, with its reason, and its device works for others again."""
    submission = await client.submit("generate", LONG, model=GENERATE, timeout=1.5)
    answer = await client.result(submission, SECONDS)
    assert answer.error is not None
    assert (answer.status, answer.error.code, answer.error.retryable) == ("expired", "expired", True)
    await nothing_runs(stack, client, submission)


async def test_a_running_job_is_cancelled(stack: Stack, client: Client) -> None:
    """A cancel ends a job that is at work, frees its device, and leaves a later submission under its key alone."""
    key = uuid.uuid4().hex
    submission = await client.submit("generate", LONG, model=GENERATE, idempotency_key=key, events="states")
    async with aclosing(client.stream(submission, SECONDS)) as events:
        async for event in events:
            if isinstance(event, StateChanged) and event.state == "running":
                break
    await client.cancel(submission)
    answer = await client.result(submission, SECONDS)
    assert answer.error is not None
    assert (answer.status, answer.error.code) == ("cancelled", "cancelled")
    await nothing_runs(stack, client, submission)


async def nothing_runs(stack: Stack, client: Client, ended: Submission) -> None:
    """The worker has stopped the job's tasks in mid-work, none is dispatched, and an encoder's work gets through."""

    async def stopped() -> int:
        records = [json.loads(line) for line in (await stack.logs(WORKER)).splitlines() if '"record"' in line]
        return sum((r["outcome"], r.get("job")) == ("stopped", ended.job_id.hex()) for r in records)

    await until(stopped, lambda count: count > 0)
    await until(lambda: client.query("status", timeout=SECONDS), lambda report: not report.get("dispatched"))
    submission = await client.submit("embed", {"text": "next, please"}, model=EMBED, timeout=SECONDS)
    assert (await client.result(submission, SECONDS)).status == "completed"


async def test_a_reply_topic_gets_events_and_answer(stack: Stack, wire: Wire) -> None:
    """A topic of the asker's own hears the states, the tokens and the answer, and `stream` hears nothing of the job."""
    topic = f"reply.demo.{uuid.uuid4().hex}"
    await make_topic(stack.settings.kafka.bootstrap, topic)
    asked = {"prompt": "ROMEO:\n", "max_tokens": 12}
    place = await wire.ask(kind="generate", model=GENERATE, input=asked, events="tokens", reply_to=topic)
    answer = await reader(stack, "results").one(place, SECONDS)
    receipt = await reader(stack, "usage").one(place, SECONDS)
    assert "reply_failed" not in receipt
    replies, stream = reader(stack, topic), reader(stack, "stream")
    await replies.advance()
    await stream.advance()
    by_type: dict[str, list[dict[str, Any]]] = {}
    for message in replies.messages:
        assert origin_of(message) == place
        by_type.setdefault(message["type"], []).append(message)
    assert by_type["answer/1"] == [answer]
    assert "running" in {state["state"] for state in by_type["state/1"]}
    said = "".join(tokens.get("text", "") for tokens in by_type["tokens/1"])
    assert said == msgpack.unpackb(answer["items"][0]["output"])["text"] != ""
    assert not stream.of(place)


async def test_a_missing_reply_topic_costs_the_copy_only(stack: Stack, wire: Wire) -> None:
    """The answer is on `results`, its receipt says why there is no copy, and the next in line is not held up."""
    place = await wire.ask(reply_to="reply.demo.never-made")
    answer = await reader(stack, "results").one(place, SECONDS)
    assert answer["status"] == "completed"
    receipt = await reader(stack, "usage").one(place, SECONDS)
    assert "reply.demo.never-made" in receipt["reply_failed"]


async def test_a_reply_topic_that_takes_no_answer_costs_the_copy_only(stack: Stack, wire: Wire) -> None:
    """The topic's owner allows small records only: the transaction is made again without the copy, for all others too."""
    topic = f"reply.demo.{uuid.uuid4().hex}"
    await make_topic(stack.settings.kafka.bootstrap, topic, {"max.message.bytes": "2000"})
    large = await wire.ask(input={"text": "x" * 4000}, reply_to=topic, events="none")
    small = await wire.ask(reply_to=topic, events="none")
    results, usage, replies = reader(stack, "results"), reader(stack, "usage"), reader(stack, topic)
    for found in (results, usage):
        await found.until([large, small], SECONDS)
        assert [len(found.of(place)) for place in (large, small)] == [1, 1]
    assert [answer["status"] for place in (large, small) for answer in results.of(place)] == ["completed"] * 2
    assert usage.of(large)[0]["reply_failed"]
    assert "reply_failed" not in usage.of(small)[0]
    await replies.advance()
    assert replies.messages == results.of(small)
