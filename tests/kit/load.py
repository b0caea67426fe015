"""A steady load by a stranger: requests made with aiokafka and msgpack alone, and a judge of what came of them.

    async with Load(stack.settings.kafka.bootstrap) as load:
        await load.more(20)
        ...  # kill something
    await load.settled()

Three tenants, three lanes, three kinds; what the broker acknowledged is remembered by its origin.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgpack
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from llmos.schemas.topics import lane_of
from tests.kit.asker import Asker
from tests.kit.counter import Origin, Reader, origin_of, tally

TENANTS = ("demo", "acme", "globex")
LANES = ("requests", "requests.interactive", "requests.batch")
GENERATE, EMBED = "shakespeare-decoder", "minilm-l6-v2"
PROMPTS = ("ROMEO:\n", "To be, or not", "My lord,\n", "KING HENRY:\n", "What say you")
SENTENCES = (
    "Leave this place.",
    "The sea is calm tonight.",
    "A horse, my kingdom for a horse!",
    "Two and two are four.",
)
TOKENS = 8
SETTLE_SECONDS = 90.0
_CLOSE_VECTORS = 0.999


class Wanted(NamedTuple):
    """A request that was acknowledged."""

    kind: str
    text: str


class Load:
    """Sends a request every so often, whatever happens to the system, until it is left."""

    def __init__(self, bootstrap: str, per_second: float = 25.0, askers: Mapping[str, Asker] | None = None) -> None:
        """The tenants of `askers` seal their requests, and read what was sealed for them; the others do neither."""
        self._pause = 1.0 / per_second
        self._askers = askers or {}
        self._producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
        self._results = Reader(bootstrap, "results")
        self._usage = Reader(bootstrap, "usage")
        self._sending: set[asyncio.Task[None]] = set()
        self._news = asyncio.Condition()
        self._loop_task: asyncio.Task[None] | None = None
        self._count = 0
        self.acknowledged: dict[Origin, Wanted] = {}

    async def __aenter__(self) -> Self:
        await self._producer.start()
        self._loop_task = asyncio.create_task(self._run(), name="load")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop_task is not None
        self._loop_task.cancel()
        await asyncio.wait([self._loop_task])
        if self._sending:
            await asyncio.wait(self._sending)
        await self._producer.stop()

    async def more(self, count: int, timeout: float = 90.0) -> None:
        """Returns when so many more requests were acknowledged."""
        wanted = len(self.acknowledged) + count
        async with asyncio.timeout(timeout), self._news:
            await self._news.wait_for(lambda: len(self.acknowledged) >= wanted)

    async def answered(self, timeout: float = SETTLE_SECONDS) -> None:
        """Returns when all that is acknowledged by now has its answer."""
        await self._results.until(list(self.acknowledged), timeout)

    async def settled(self, timeout: float = SETTLE_SECONDS) -> None:
        """Waits for the end of it all, and holds that each request has one answer, one receipt and the right output."""
        await self._results.until(self.acknowledged, timeout)
        await self._usage.until(self.acknowledged, timeout)
        for reader in (self._results, self._usage):
            found = tally(self.acknowledged, reader.messages)
            assert found.clean, found
        wrong = [
            problem
            for answer in self._results.messages
            if (wanted := self.acknowledged.get(origin_of(answer))) and (problem := self.judged(wanted, answer))
        ]
        assert not wrong, wrong[:5]

    @property
    def answers(self) -> list[dict[str, Any]]:
        """All that was read from `results`, of whatever submission."""
        return self._results.messages

    @property
    def receipts(self) -> list[dict[str, Any]]:
        """All that was read from `usage`."""
        return self._usage.messages

    def judged(self, wanted: Wanted, answer: Mapping[str, Any]) -> str:
        """What is wrong with an answer, opened where it is for one of the askers."""
        asker = self._askers.get(answer["tenant"])
        if asker is None or answer["status"] != "completed":
            return judge(wanted, answer)
        opened = asker.opened(answer)
        items = [dict(item) | {"output": output} for item, output in zip(answer["items"], opened, strict=True)]
        return judge(wanted, dict(answer) | {"items": items})

    async def _run(self) -> None:
        while True:
            task = asyncio.create_task(self._send(self._count))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
            self._count += 1
            await asyncio.sleep(self._pause)  # the load's own pace; nobody waits for it

    async def _send(self, i: int) -> None:
        wanted = wanted_at(i)
        topic = LANES[i % len(LANES)]
        value = self._value(wanted, TENANTS[i // 3 % len(TENANTS)], topic)
        try:
            sent = await self._producer.send_and_wait(topic, value)
        except KafkaError:
            return  # never acknowledged: whether it is answered is not promised
        async with self._news:
            self.acknowledged[topic, sent.partition, sent.offset] = wanted
            self._news.notify_all()

    def _value(self, wanted: Wanted, tenant: str, topic: str) -> bytes:
        made = request(wanted, tenant)
        asker = self._askers.get(tenant)
        if asker is None:
            return bytes(msgpack.packb(made))
        return asker.request(wanted.kind, made["input"], lane_of(topic), model=made["model"])


def wanted_at(i: int) -> Wanted:
    """Of ten requests six echo, three embed and one generates."""
    place = i % 10
    if place < 6:
        return Wanted("echo", f"{i}: {SENTENCES[i % len(SENTENCES)]}")
    if place < 9:
        return Wanted("embed", SENTENCES[i % len(SENTENCES)])
    return Wanted("generate", PROMPTS[i // 10 % len(PROMPTS)])


def request(wanted: Wanted, tenant: str, **more: Any) -> dict[str, Any]:
    """The request as it goes on the wire; `more` are further fields."""
    made: dict[str, Any] = {"type": "request/1", "request_id": uuid.uuid4().hex, "tenant": tenant, "kind": wanted.kind}
    if wanted.kind == "generate":
        made |= {"model": GENERATE, "input": {"prompt": wanted.text, "max_tokens": TOKENS}}
    else:
        made |= {"model": EMBED if wanted.kind == "embed" else "", "input": {"text": wanted.text}}
    return made | more


_known: dict[Wanted, Any] = {}
"""The first output of each embed and generate request: they are deterministic, so all later ones are like it."""


def judge(wanted: Wanted, answer: Mapping[str, Any]) -> str:
    """What is wrong with an answer; empty when nothing is."""
    if answer["status"] != "completed":
        return f"{wanted} ended as {answer['status']}: {answer.get('error')}"
    (item,) = answer["items"]
    output = msgpack.unpackb(item["output"])
    if wanted.kind == "echo":
        return "" if output == {"text": wanted.text} else f"{wanted} was echoed as {output}"
    first = _known.setdefault(wanted, output)
    if wanted.kind == "generate":
        right = output == first and 0 < output["tokens"] <= TOKENS
        return "" if right else f"{wanted} gave {output} and before {first}"
    vector = output["embedding"]
    others = [known["embedding"] for other, known in _known.items() if other.kind == "embed" and other != wanted]
    right = cosine(vector, first["embedding"]) > _CLOSE_VECTORS and all(
        cosine(vector, o) < _CLOSE_VECTORS for o in others
    )
    return "" if right else f"{wanted} has another vector than before, or that of another text"


def cosine(a: list[float], b: list[float]) -> float:
    """a·b / (|a| |b|)."""
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
