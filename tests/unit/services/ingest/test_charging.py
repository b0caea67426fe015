"""What costs whom what: forgeries, copies and refusals cost nothing, a flood stops nobody, a crash refuses nobody."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest

from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.macs import mac
from llmos.infra.ledger.memory import MemoryLedger
from llmos.infra.ledger.port import Asked, TenantUse
from llmos.infra.log.port import Out, Place, Record
from llmos.infra.runtime.context import Context
from llmos.infra.stages import rereading
from llmos.infra.stages.one_in_one_out import DeadLettered, Emitted
from llmos.infra.stages.origins import Origins
from llmos.infra.stages.replays import replay_header
from llmos.infra.telemetry.metrics import REFUSALS
from llmos.schemas.admitted import ADMITTED, Admitted, Refusal
from llmos.schemas.base import encode
from llmos.schemas.catalog import Quotas, Tenant
from llmos.schemas.dead import DEAD, DeadLetter
from llmos.schemas.requests import Request, signed_bytes
from llmos.services.ingest import handler as module
from llmos.services.ingest.authenticating import Tenants
from llmos.services.ingest.credits import Credits
from llmos.services.ingest.handler import IngestHandler
from tests.kit.bench import KEYS, NOW, PARTITIONS, SECRET, HandClock, configured, context, record, tenant

PLACE = Place("requests", 1)
SETTINGS = configured(ingest={"standard": {"jobs": 50, "bytes": 10**6}, "overflow": {"jobs": 1, "bytes": 1}})
THEM = {
    "victim": tenant("victim", mac="required", quotas=Quotas(jobs=5, requests_per_second=1.0, burst_seconds=5.0)),
    "loud": tenant("loud", quotas=Quotas(jobs=3, bytes=100)),
    "quiet": tenant("quiet"),
}


@pytest.fixture
async def ctx() -> Context:
    return context(HandClock(), SETTINGS, service="ingest")


def life(ctx: Context, them: dict[str, Tenant] = THEM) -> IngestHandler:
    """One life of ingest: what it has in memory goes with it."""
    return IngestHandler(ctx, Tenants(them.get, lambda *_: (SECRET,)), Credits(ctx), PARTITIONS)


def request(name: str, who: str, **fields: Any) -> Request:
    return Request(request_id=name, tenant=who, kind="echo", payload=b"\xa1x", **fields)


def signed(name: str, who: str = "victim", secret: bytes = SECRET, **fields: Any) -> Request:
    values = {"submitted_at": NOW, "nonce": secrets.token_bytes(16)} | fields
    made = request(name, who, **values)
    return msgspec.structs.replace(made, mac=mac(secret, signed_bytes(made, "standard")))


def laid(requests: Sequence[Request], first: int = 0, partition: int = 1) -> list[Record]:
    """The requests on the log, in order."""
    return [record(encode(r), "requests", partition, first + i) for i, r in enumerate(requests)]


async def codes(handler: IngestHandler, records: Sequence[Record]) -> list[str]:
    """What became of each: "admitted", or the code it was refused or is dead for, the latter in brackets."""
    found = []
    for settlement in await handler.settle(PLACE, records, Origins()):
        if isinstance(settlement, DeadLettered):
            letter: DeadLetter = DEAD.decode(settlement.out.value)
            found.append(f"[{letter.error.code}]")
        else:
            assert isinstance(settlement, Emitted)
            message: Admitted | Refusal = ADMITTED.decode(settlement.out.value)
            found.append("admitted" if isinstance(message, Admitted) else message.error.code)
    return found


async def test_forged_stale_and_copied_requests_cost_their_victim_nothing(ctx: Context) -> None:
    """A thousand of them in its name, and it still has its whole quota; each is dead, and answered by nobody."""
    handler, original = life(ctx), signed("first")
    forged = [signed(f"f{i}", secret=b"x" * 32) for i in range(400)]
    unsigned = [request(f"u{i}", "victim", submitted_at=NOW) for i in range(200)]
    stale = [signed(f"s{i}", submitted_at=NOW - 901) for i in range(200)]
    copies = [original] * 200
    records = laid([original, *forged, *unsigned, *stale, *copies])
    assert Counter(await codes(handler, records)) == {"admitted": 1, "[forged]": 600, "[stale]": 200, "[replayed]": 200}
    assert await ctx.ledger.tenants() == {"victim": TenantUse(1, 2, 1.0)}
    assert await codes(handler, laid([signed(f"r{i}") for i in range(5)], 5000)) == ["admitted"] * 4 + [
        "quota_exceeded"
    ]


async def test_a_copy_of_a_refused_request_is_dead_too(ctx: Context) -> None:
    """It was answered once: sent again when there is room, it would be done behind its tenant's back."""
    handler, late = life(ctx), signed("late")
    assert (await codes(handler, laid([signed(f"r{i}") for i in range(5)] + [late])))[-1] == "quota_exceeded"
    ctx.clock.at += 60.0  # type: ignore[attr-defined]
    assert await codes(handler, laid([late], 90)) == ["[replayed]"]


async def test_a_batch_is_one_call_of_the_ledger(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nonces, quotas and credits together, of whatever needs any; dead records and clear refusals need none."""
    asked: list[list[Asked]] = []
    original = MemoryLedger.admit

    async def admit(self: MemoryLedger, some: Sequence[Asked], *rest: Any) -> Any:
        asked.append(list(some))
        return await original(self, some, *rest)

    monkeypatch.setattr(MemoryLedger, "admit", admit)
    first, wrong = signed("a"), signed("b", reply_to="results")
    records = laid([first, wrong, wrong, request("c", "quiet"), request("d", "quiet", reply_to="results"), first])
    forbidden = "reply_topic_forbidden"
    assert await codes(life(ctx), records) == [
        "admitted", forbidden, "[replayed]", "admitted", forbidden, "[replayed]",
    ]  # fmt: skip
    (some,) = asked
    assert [(one.hold is not None, len(one.nonce)) for one in some] == [
        (True, 16), (False, 16), (False, 16), (True, 0), (True, 16),
    ]  # fmt: skip
    assert await codes(life(ctx), records[4:5]) == [forbidden]
    assert len(asked) == 1


async def test_a_crash_refuses_nobody(ctx: Context) -> None:
    """Nonces and credits were written, the offsets were not committed: the next life reads the same records and goes on."""
    records = laid([signed(f"r{i}") for i in range(4)])
    assert await codes(life(ctx), records) == ["admitted"] * 4
    before = await ctx.ledger.tenants()
    assert await codes(life(ctx), records) == ["admitted"] * 4
    assert await ctx.ledger.tenants() == before, "nothing is charged twice"
    copy = [r._replace(offset=r.offset + 100) for r in records]
    assert await codes(life(ctx), copy) == ["[replayed]"] * 4


async def test_a_flood_stops_nobody_behind_it(ctx: Context) -> None:
    """Ten thousand requests beyond a quota go on as refusals: what others sent behind them in the same partition is admitted
    in the same turn, in order."""
    flood = [request(f"l{i}", "loud") for i in range(10_000)]
    others = [request(f"q{i}", "quiet") for i in range(20)]
    records = laid([*flood[:5_000], *others[:10], *flood[5_000:], *others[10:]])
    found = await codes(life(ctx), records)
    assert len(found) == len(records)
    assert found[:4] == ["admitted"] * 3 + ["quota_exceeded"]
    assert Counter(found) == {"admitted": 3 + 20, "quota_exceeded": 9_997}
    assert found[5_000:5_010] == found[-10:] == ["admitted"] * 10
    assert (await ctx.ledger.use())["standard"].jobs == 23, "who is refused holds no credit"


async def test_a_flood_stops_nobody_without_a_ledger(ctx: Context) -> None:
    """The same while Redis is away, by what this instance has admitted itself."""
    assert isinstance(ctx.ledger, MemoryLedger)
    ctx.ledger.away = True
    records = laid([*(request(f"l{i}", "loud") for i in range(10_000)), request("q", "quiet")])
    found = await codes(life(ctx), records)
    assert Counter(found) == {"admitted": 4, "quota_exceeded": 9_997}
    assert found[-1] == "admitted"


async def test_where_credits_end_everybody_waits(ctx: Context) -> None:
    """A lane that is full is nobody's fault: records wait, refused ones behind it too, and nothing is spent meanwhile."""
    handler = life(ctx)
    records = laid([*(request(f"q{i}", "quiet") for i in range(60)), signed("v")])
    assert await codes(handler, records) == ["admitted"] * 51
    assert (await ctx.ledger.tenants()).get("victim", TenantUse()) == TenantUse()
    messages = await handler.settle(PLACE, records[:51], Origins())
    heads = [ADMITTED.decode(m.out.value).head for m in messages if isinstance(m, Emitted)]
    await ctx.ledger.release([head.hold for head in heads])
    assert await codes(handler, records[51:]) == ["admitted"] * 10


async def test_a_refusal_says_when_to_come_again(ctx: Context) -> None:
    """With the numbers; it names no reply key, since there is nothing to be sealed; it is counted by its code."""
    counted = REFUSALS.labels("ingest", "quota_exceeded")._value.get()
    settled = await life(ctx).settle(PLACE, laid([signed(f"r{i}") for i in range(6)]), Origins())
    assert isinstance(settled[-1], Emitted)
    message = ADMITTED.decode(settled[-1].out.value)
    assert isinstance(message, Refusal)
    assert message.error.message.startswith("Tenant 'victim' has used 5 of 5 jobs in flight")
    assert (message.error.retryable, message.error.retry_after) == (True, 1.0)
    assert message.head.reply_key == b""
    assert REFUSALS.labels("ingest", "quota_exceeded")._value.get() == counted + 1


async def test_tokens_of_answers_count_against_later_requests(ctx: Context) -> None:
    """Charged when they are known; then its requests are refused until they are earned back."""
    them = {"heavy": tenant("heavy", quotas=Quotas(tokens_per_second=10.0))}
    handler = life(ctx, them)
    assert await codes(handler, laid([request("a", "heavy")])) == ["admitted"]
    await ctx.ledger.charge({"heavy": 150})
    assert await codes(handler, laid([request("b", "heavy")], 1)) == ["quota_exceeded"]
    ctx.clock.at += 5.0  # type: ignore[attr-defined]
    assert await codes(handler, laid([request("c", "heavy")], 2)) == ["admitted"]


async def test_what_an_operator_puts_back_is_taken_once_more(ctx: Context) -> None:
    """By his word an old record is as fresh as it was; a copy of it with the same word is dead, and so is a forged word."""
    sent = signed("old", who="late", submitted_at=NOW - 5_000)
    old = record(encode(sent), at=NOW - 5_000)
    handler = life(ctx)
    (dead,) = await handler.settle(PLACE, [old], Origins())
    assert isinstance(dead, DeadLettered)
    letter: DeadLetter = DEAD.decode(dead.out.value)
    assert letter.error.code == "unknown_tenant"
    header = replay_header(KEYS, letter, encode(sent), old.timestamp, NOW)
    handler = life(ctx, {"late": tenant("late", mac="required")})
    again = [record(encode(sent), offset=offset, headers=(header,)) for offset in (7, 8)]
    assert await codes(handler, again) == ["admitted", "[replayed]"]
    assert await codes(life(ctx, {"late": tenant("late")}), again[:1]) == ["admitted"], "its own replay after a crash"
    forged = (header[0], header[1][:-1] + bytes([header[1][-1] ^ 1]))
    assert await codes(handler, [record(encode(sent), offset=9, headers=(forged,))]) == ["[stale]"]


async def test_a_fault_of_ours_quotes_nothing(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes a dead letter of one record; what the exception said stays in this process."""

    def fail(*_: object) -> None:
        raise RuntimeError("the secret prompt")

    monkeypatch.setattr(module, "read_request", fail)
    (settlement,) = await life(ctx).settle(PLACE, laid([signed("a")]), Origins())
    assert isinstance(settlement, DeadLettered)
    letter: DeadLetter = DEAD.decode(settlement.out.value)
    assert "RuntimeError" in letter.error.message
    assert "secret" not in letter.error.message


async def test_what_was_damaged_on_its_way_is_told_from_what_was_forged(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record whose payload does not fit its checksum is read again where it lies, once; one that fits is no such."""
    looks: list[int] = []
    original = rereading.read_again

    async def read_again(log: Any, found: Record) -> Record | None:
        looks.append(found.offset)
        return await original(log, found)

    monkeypatch.setattr(rereading, "read_again", read_again)
    whole = [signed(f"r{i}", crc32c=crc32c(b"\xa1x")) for i in range(2)]
    there = [encode(whole[0]), _flipped(encode(whole[1]))]
    await ctx.log.emit(PLACE, [Out(None, value) for value in there])
    forged = msgspec.structs.replace(whole[0], payload=b"\xa1y", crc32c=crc32c(b"\xa1y"))
    came = [_flipped(encode(whole[0])), there[1], encode(forged)]
    found = []
    for i, value in enumerate(came):
        cast(HandClock, ctx.clock).at += 1.0
        found += await codes(life(ctx), [record(value, "requests", 1, i)])
    assert found == ["admitted", "[corrupt]", "[forged]"]
    assert looks == [0, 1]


def _flipped(value: bytes) -> bytes:
    """One bit of the payload changed."""
    at = value.index(b"\xa1x") + 1
    return value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]


async def test_what_its_quota_refuses_is_charged_nothing_however_often_it_is_read(ctx: Context) -> None:
    """A crash after the answer and before the commit: the same records, the same refusals, in any number of lives."""
    records = laid([signed(f"r{i}") for i in range(8)])
    for _ in range(3):
        assert await codes(life(ctx), records) == ["admitted"] * 5 + ["quota_exceeded"] * 3
        assert await ctx.ledger.tenants() == {"victim": TenantUse(5, 10, 5.0)}


async def test_what_is_read_again_after_its_answer_is_charged_once_more(ctx: Context) -> None:
    """Its hold is gone, so that nothing tells it from one that is new: at most the records since the last commit, a second.
    The same of one that was refused, where there is room by now. Verify knows them by their origin and does nothing; what they
    hold is nobody's live job, and is given back when the scheduler next says what is live."""
    records = laid([signed(f"r{i}") for i in range(6)])
    assert await codes(life(ctx), records) == ["admitted"] * 5 + ["quota_exceeded"]
    messages = [ADMITTED.decode(s.out.value) for s in await life(ctx).settle(PLACE, records[:1], Origins()) if isinstance(s, Emitted)]  # fmt: skip
    await ctx.ledger.release([message.head.hold for message in messages])
    ctx.clock.at += 10.0  # type: ignore[attr-defined]
    assert await ctx.ledger.tenants() == {"victim": TenantUse(4, 8, 0.0)}
    assert await codes(life(ctx), [records[0], records[5]]) == ["admitted", "quota_exceeded"]
    assert await ctx.ledger.tenants() == {"victim": TenantUse(5, 10, 1.0)}
    origins, known = Origins(), [message.head.origin for message in messages]
    assert [origins.accept(origin) for origin in known * 2] == [True, False]
    await ctx.ledger.reconcile([], 60.0, 0.0)
    ctx.clock.at += 1.0  # type: ignore[attr-defined]
    await ctx.ledger.reconcile([], 60.0, 0.0)
    assert (await ctx.ledger.tenants())["victim"].jobs == 0
