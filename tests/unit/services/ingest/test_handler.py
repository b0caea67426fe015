"""The handler: one settlement per record, in order, as far as the lane's credits reach."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llmos.infra.crypto.blobs import open_blob
from llmos.infra.log.port import Place, Record
from llmos.infra.runtime.context import Context
from llmos.infra.stages.one_in_one_out import DeadLettered, Emitted
from llmos.infra.stages.origins import Origins
from llmos.schemas.admitted import ADMITTED, Admitted, Refusal
from llmos.schemas.catalog import Quotas
from llmos.schemas.dead import DEAD, DeadContents, DeadLetter
from llmos.schemas.ids import job_id, partition_of
from llmos.schemas.job import Origin
from llmos.services.ingest.authenticating import Tenants
from llmos.services.ingest.credits import Credits
from llmos.services.ingest.handler import IngestHandler
from tests.kit.bench import KEYS, PARTITIONS, SECRET, HandClock, configured, context, record, tenant

PLACE = Place("requests", 1)
FEW = {"jobs": 1, "bytes": 1000}
SETTINGS = configured(ingest={"standard": {"jobs": 2, "bytes": 1000}, "batch": FEW, "overflow": FEW})
WRONG = {"priority": 99}
RUBBISH = b"\xc1"
THEM = {
    "demo": tenant(),
    "strict": tenant("strict", mac="required"),
    "capped": tenant("capped", mac="required", quotas=Quotas(jobs=1)),
}


@pytest.fixture
async def ctx() -> Context:
    return context(HandClock(), SETTINGS, service="ingest")


@pytest.fixture
def handler(ctx: Context) -> IngestHandler:
    return IngestHandler(ctx, Tenants(THEM.get, lambda *_: (SECRET,)), Credits(ctx), PARTITIONS)


def records(*bodies: dict[str, Any] | bytes, topic: str = "requests") -> list[Record]:
    """Records in order; a dict is a request with these fields."""
    found = []
    for offset, body in enumerate(bodies):
        value = body
        if isinstance(value, dict):
            request = {"type": "request/1", "request_id": f"r{offset}", "tenant": "demo", "kind": "echo", "input": "x"}
            value = msgspec.msgpack.encode(request | value)
        found.append(record(value, topic, 1, offset))
    return found


def kinds(settled: Any) -> str:
    """A letter per settlement: admitted, refused, dead."""
    letters = ""
    for settlement in settled:
        if isinstance(settlement, DeadLettered):
            letters += "d"
        else:
            assert isinstance(settlement, Emitted)
            letters += "a" if isinstance(ADMITTED.decode(settlement.out.value), Admitted) else "r"
    return letters


@pytest.mark.parametrize(
    ("bodies", "settled"),
    [
        pytest.param([], "", id="nothing"),
        pytest.param([{}, WRONG, RUBBISH], "ard", id="one of each"),
        pytest.param([{}, {}, {}], "aaa", id="all credits"),
        pytest.param([{}, {}, {}, {}, {}], "aaa", id="stops before the first without one"),
        pytest.param([{}, {}, {}, WRONG, RUBBISH, {}, WRONG], "aaard", id="what needs no credit goes until then"),
        pytest.param([WRONG] * 5 + [RUBBISH] * 5, "rrrrrddddd", id="refusals and dead letters need none"),
    ],
)
async def test_settles_until_credits_end(handler: IngestHandler, bodies: list[Any], settled: str) -> None:
    """Everything before the first submission without a credit, nothing behind it: the order is kept."""
    assert kinds(await handler.settle(PLACE, records(*bodies), Origins())) == settled


async def test_the_rest_goes_when_credits_come_back(handler: IngestHandler, ctx: Context) -> None:
    """Asked again, a paused lane takes up where it stopped; the hysteresis asks for free credits first."""
    some = records({}, {}, {}, {}, {})
    first = await handler.settle(PLACE, some, Origins())
    assert len(first) == 3
    assert not await handler.may_resume([PLACE])
    assert await handler.may_resume([PLACE, Place("requests.batch", 0)]), "one lane with credits is enough to try"
    heads = [ADMITTED.decode(settlement.out.value).head for settlement in first if isinstance(settlement, Emitted)]
    await ctx.ledger.release([head.hold for head in heads])
    assert await handler.may_resume([PLACE])
    assert kinds(await handler.settle(PLACE, some[3:], Origins())) == "aa"


async def test_one_lane_does_not_pause_another(handler: IngestHandler) -> None:
    """While `batch` waits, `requests` goes on with its own credits."""
    assert (
        kinds(await handler.settle(Place("requests.batch", 1), records({}, {}, {}, topic="requests.batch"), Origins()))
        == "aa"
    )
    assert kinds(await handler.settle(PLACE, records({}, {}), Origins())) == "aa"


async def test_a_job_goes_to_the_partition_of_its_id(handler: IngestHandler) -> None:
    """Submissions of one key meet in one partition of `admitted`, keyed by the job id."""
    settled = await handler.settle(PLACE, records({"idempotency_key": "k"}, {"idempotency_key": "k"}), Origins())
    id_ = job_id("demo", "k")
    for offset, settlement in enumerate(settled):
        assert isinstance(settlement, Emitted)
        assert settlement.place == Place("admitted", partition_of(id_, PARTITIONS))
        assert settlement.out.key == id_
        message: Admitted | Refusal = ADMITTED.decode(settlement.out.value)
        assert message.head.origin == Origin("requests", 1, offset)


async def test_a_dead_letter_holds_the_record_sealed(handler: IngestHandler) -> None:
    """Its origin and reason are readable, its bytes only with the system key."""
    (settlement,) = await handler.settle(PLACE, [record(b"\xc1 private", offset=7, partition=1)], Origins())
    assert isinstance(settlement, DeadLettered)
    assert settlement.out.key == b"requests:1:7"
    letter: DeadLetter = DEAD.decode(settlement.out.value)
    assert (letter.origin, letter.stage, letter.error.code) == (Origin("requests", 1, 7), "ingest", "malformed")
    assert (letter.key, letter.headers, letter.size) == (b"", [], 9)
    assert b"private" not in (settlement.out.value or b"")
    opened = open_blob(KEYS, letter.key_id, letter.origin_key, letter.value)
    contents = msgspec.msgpack.decode(opened, type=DeadContents)
    assert (contents.key, contents.value) == (b"key", b"\xc1 private")


async def test_bytes_are_credits_too(handler: IngestHandler) -> None:
    """The bytes of a lane run out before its jobs do."""
    large = {"input": "x" * 900}
    assert kinds(await handler.settle(PLACE, records(large, large, large), Origins())) == "aa"
