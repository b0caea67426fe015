"""The merger: first outcome per part, first complete answer per s, nothing twice, commits held back."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import msgspec
import pytest

from llmos.infra.crypto.receipts import check_answer, check_receipt, item_digests
from llmos.infra.ledger.memory import MemoryLedger
from llmos.infra.ledger.port import Hold
from llmos.infra.log.port import Place, Refusal, TopicSpec
from llmos.infra.runtime.context import Context
from llmos.infra.stages.answered import Answered, Marks
from llmos.infra.stages.reply_topics import MISSING_SECONDS
from llmos.infra.stages.transactional import Ready
from llmos.schemas.base import Message, encode
from llmos.schemas.dead import DEAD
from llmos.schemas.ids import partition_of
from llmos.schemas.job import Usage
from llmos.schemas.partials import LowWatermark, Spent, Verdict
from llmos.schemas.results import RESULTS, USAGE, Answer, Receipt
from llmos.services.aggregator.credits import Credits
from llmos.services.aggregator.merger import Merger
from llmos.services.ingest.credits import limits_of
from tests.kit.bench import KEYS, SECRET, HandClock, configured, context, head, record
from tests.kit.ledger_kit import take
from tests.kit.log_bench import everything
from tests.unit.services.aggregator.making import BAD, outcome

PLACE = Place("partials", 1)
DEAD_PLACE = Place("dead", 0)
ONE = head("one")
TWO = head("two", 1, parts=2, items=2)
PUBLIC = {entry.id: entry.public for entry in KEYS.entries if entry.purpose == "receipt"}


class Fed:
    """A merger and what it is fed."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        assert isinstance(ctx.clock, HandClock)
        self.clock = ctx.clock
        self.credits = Credits(ctx)
        self.merger = Merger(ctx, self.credits)
        self.answered = Answered(Marks())
        self._offset = 0

    async def feed(self, *messages: Message | bytes, written: bool = True) -> list[Ready]:
        """The answers that these records complete; `written`: they are committed at once."""
        records = []
        for message in messages:
            value = message if isinstance(message, bytes) else encode(message)
            records.append(record(value, "partials", 1, self._offset))
            self._offset += 1
        ready = await self.merger.feed(PLACE, records, self.answered)
        if written:
            await self.write(ready)
        return ready

    async def write(self, ready: list[Ready]) -> None:
        """The transaction is committed."""
        for i, answer in enumerate(ready):
            self.answered.note(answer.s, 100 + i)
        await self.merger.answered(ready)

    async def dead(self) -> list[str]:
        """Codes of the dead letters."""
        return [DEAD.decode(letter.value).error.code for letter in await everything(self.ctx.log, DEAD_PLACE)]


@pytest.fixture
async def fed() -> Fed:
    ctx = context(HandClock(), configured(), service="aggregator")
    await ctx.log.ensure([TopicSpec("reply.here", 3, 3600.0, False, 1_000_000)])
    return Fed(ctx)


def answers(ready: list[Ready]) -> list[tuple[int, str, str]]:
    """(s, status, outputs joined) of each."""
    found = []
    for entry in ready:
        answer: Answer = RESULTS.decode(entry.result.value)
        receipt: Receipt = USAGE.decode(entry.receipt.value)
        assert (answer.s, answer.status) == (entry.s, receipt.status) == (receipt.s, receipt.status)
        assert entry.result.key == entry.receipt.key == answer.job_id
        assert check_receipt(entry.receipt.value, PUBLIC), "receipts of outcomes and of verdicts are signed"
        found.append((answer.s, answer.status, b"".join(item.output for item in answer.items).decode()))
    return found


def verdict(s: int, kind: Any = "cancelled", head_: Any = ONE) -> Verdict:
    return Verdict(s=s, head=head_, verdict=kind, error=BAD)


@pytest.mark.parametrize(
    ("messages", "made"),
    [
        pytest.param([outcome(ONE)], [(5, "completed", "a")], id="one part"),
        pytest.param([outcome(TWO)], [], id="half a job"),
        pytest.param(
            [outcome(TWO, part=1, items="b"), outcome(TWO, part=0)], [(5, "completed", "ab")], id="parts in order"
        ),
        pytest.param(
            [outcome(TWO), outcome(TWO, items="z", attempt=2), outcome(TWO, part=1, items="b")],
            [(5, "completed", "ab")], id="the first outcome of a part wins",
        ),
        pytest.param([outcome(ONE), outcome(ONE, items="z", attempt=2)], [(5, "completed", "a")], id="and of a job"),
        pytest.param([verdict(5), outcome(ONE)], [(5, "cancelled", "")], id="a verdict before the outcome"),
        pytest.param([outcome(ONE), verdict(5)], [(5, "completed", "a")], id="the outcome before the verdict"),
        pytest.param(
            [outcome(TWO), verdict(5, "expired", TWO), outcome(TWO, part=1)], [(5, "expired", "")],
            id="a verdict ends half a job",
        ),
        pytest.param([verdict(5), verdict(5, "expired")], [(5, "cancelled", "")], id="one verdict"),
        pytest.param(
            [outcome(ONE, s=5), outcome(ONE, s=6, items="b")], [(5, "completed", "a"), (6, "completed", "b")],
            id="each submission of a key has its own answer",
        ),
        pytest.param([outcome(ONE, items="!")], [(5, "failed", "")], id="an outcome that failed"),
        pytest.param([LowWatermark(low=6), outcome(ONE), verdict(5)], [], id="below L everything is answered"),
        pytest.param([LowWatermark(low=5), outcome(ONE)], [(5, "completed", "a")], id="not at L"),
    ],
)  # fmt: skip
async def test_the_first_complete_outcome_is_answered(
    fed: Fed, messages: list[Message], made: list[tuple[int, str, str]]
) -> None:
    """In one read or record by record, the answers are the same."""
    assert answers(await fed.feed(*messages)) == made
    again = Fed(fed.ctx)
    assert answers([entry for message in messages for entry in await again.feed(message)]) == made


async def test_an_answer_on_its_way_is_not_made_again(fed: Fed) -> None:
    """Between making and committing an answer, a second outcome makes none."""
    ready = await fed.feed(outcome(ONE), written=False)
    assert len(ready) == 1
    assert await fed.feed(outcome(ONE, items="z"), verdict(5), written=False) == []
    await fed.write(ready)
    assert await fed.feed(outcome(ONE, items="z")) == []


async def test_what_was_answered_before_the_start_stays_answered(fed: Fed) -> None:
    """Receipts that were read at start count as answers."""
    fed.answered.note(5, 0)
    assert answers(await fed.feed(outcome(ONE), outcome(ONE, s=6))) == [(6, "completed", "a")]


async def test_commits_are_held_back_by_half_jobs(fed: Fed) -> None:
    """The offset of the first outcome of the oldest job whose parts are still out, whichever job ends first."""
    assert fed.merger.held_from(PLACE) is None
    await fed.feed(outcome(ONE, s=1))
    assert fed.merger.held_from(PLACE) is None
    await fed.feed(outcome(TWO, s=2), outcome(TWO, s=3, part=1), outcome(TWO, s=2))
    assert fed.merger.held_from(PLACE) == 1
    await fed.feed(outcome(TWO, s=2, part=1))
    assert fed.merger.held_from(PLACE) == 2
    assert fed.merger.held_from(Place("partials", 0)) is None
    await fed.feed(verdict(3, head_=TWO))
    assert fed.merger.held_from(PLACE) is None


async def test_low_lets_go_of_half_jobs(fed: Fed) -> None:
    """A half job below L was answered by somebody: it no longer holds commits back, and one at L still does."""
    await fed.feed(outcome(TWO, s=2), outcome(TWO, s=3))
    await fed.feed(LowWatermark(low=3))
    assert fed.merger.held_from(PLACE) == 1
    assert 2 in fed.answered


async def test_a_receipt_read_late_lets_go_of_half_jobs(fed: Fed) -> None:
    """When the rest of an answered job comes, what was kept of it goes."""
    await fed.feed(outcome(TWO, s=2))
    fed.answered.note(2, 9)
    assert await fed.feed(outcome(TWO, s=2, part=1)) == []
    assert fed.merger.held_from(PLACE) is None


@pytest.mark.parametrize(
    "value",
    [
        b"\xc1",
        b"",
        encode(outcome(TWO, part=2)),
        encode(msgspec.structs.replace(outcome(ONE), task=type(outcome(ONE).task)(0, 5, 0, 1))),
    ],
    ids=["rubbish", "empty", "no part of the job", "another partition"],
)
async def test_what_answers_nothing_is_dead(fed: Fed, value: bytes) -> None:
    """Dead letters do not stop those behind them, and hold nothing back."""
    assert answers(await fed.feed(value, outcome(ONE))) == [(5, "completed", "a")]
    assert await fed.dead() == ["malformed"]
    assert fed.merger.held_from(PLACE) is None


async def test_credits_come_back_when_the_answer_is_written(fed: Fed) -> None:
    """Not before the commit, and the right one."""
    ledger = fed.ctx.ledger
    holds = [Hold(h.hold, h.lane, 1, h.tenant) for h in (ONE, TWO)]
    await take(ledger, holds, limits_of(fed.ctx.settings.ingest), 1000.0)
    ready = await fed.feed(outcome(ONE), written=False)
    assert (await ledger.use())["standard"].jobs == 2
    await fed.write(ready)
    giving_back = asyncio.create_task(fed.credits.run())
    async with asyncio.timeout(10):
        while (await ledger.use())["standard"].jobs != 1:  # noqa: ASYNC110  a ledger tells nobody of its changes
            await asyncio.sleep(0)
    giving_back.cancel()
    await ledger.release([TWO.hold])
    assert (await ledger.use())["standard"].jobs == 0


async def test_a_verdict_charges_what_was_done_before_it(fed: Fed) -> None:
    """Half a job that ends without the other half, whose attempt the scheduler has heard of."""
    charged: Counter[str] = Counter()
    fed.credits.give_back = lambda holds, tokens: charged.update(tokens)  # type: ignore[method-assign]
    spent = [Spent(part=1, epoch=1, devices=["d"], usage=Usage(tokens_in=10, tokens_out=20, device_seconds=1.0))]
    ended = msgspec.structs.replace(verdict(5, "expired", TWO), spent=spent)
    (ready,) = await fed.feed(outcome(TWO), outcome(TWO, items="z", attempt=2), ended)
    receipt: Receipt = USAGE.decode(ready.receipt.value)
    assert receipt.usage == Usage(tokens_in=12, tokens_out=23, device_seconds=1.5)
    assert (receipt.part_count, receipt.attempts, receipt.devices) == (1, 2, ["d", "node-0.cpu0"])
    assert charged == {"demo": 35}


async def test_an_answer_needs_no_ledger(fed: Fed) -> None:
    """While the ledger is away answers are written all the same."""
    assert isinstance(fed.ctx.ledger, MemoryLedger)
    fed.ctx.ledger.away = True
    assert answers(await fed.feed(outcome(ONE))) == [(5, "completed", "a")]


async def test_a_copy_goes_to_the_reply_topic(fed: Fed) -> None:
    """The same bytes, in the partition of the job id there."""
    asked = head("one", reply_to="reply.here")
    (ready,) = await fed.feed(outcome(asked))
    assert ready.copy == (Place("reply.here", partition_of(asked.job_id, 3)), ready.result)
    assert USAGE.decode(ready.receipt.value).reply_failed == ""


async def test_no_copy_goes_to_a_topic_of_the_system(fed: Fed) -> None:
    """Whatever an earlier stage let pass: outside of the allowed prefixes nothing is written for a client."""
    (ready,) = await fed.feed(outcome(head("one", reply_to="results")))
    assert ready.copy is None


async def test_a_missing_reply_topic_costs_only_the_copy(fed: Fed) -> None:
    """The answer is made without it, and the receipt says so."""
    (ready,) = await fed.feed(outcome(head("one", reply_to="reply.gone")))
    assert ready.copy is None
    assert check_receipt(ready.receipt.value, PUBLIC)
    assert USAGE.decode(ready.receipt.value).reply_failed == "topic reply.gone is missing, or refused a moment ago"
    assert answers([ready]) == [(5, "completed", "a")]


async def test_a_reply_topic_that_refuses_costs_only_the_copy(fed: Fed) -> None:
    """The answer stays as it was; the receipt says why, however long the reason is."""
    (ready,) = await fed.feed(outcome(head("one", reply_to="reply.here")), written=False)
    bare = fed.merger.without_copy(ready, Refusal("too large " * 1000, whole=False))
    assert (bare.copy, bare.result, bare.s, bare.place) == (None, ready.result, ready.s, ready.place)
    receipt: Receipt = USAGE.decode(bare.receipt.value)
    assert receipt.reply_failed.startswith("too large")
    assert len(receipt.reply_failed) == 512
    before: Receipt = USAGE.decode(ready.receipt.value)
    assert msgspec.structs.replace(receipt, reply_failed="", signature=before.signature) == before
    assert check_receipt(bare.receipt.value, PUBLIC)
    assert bare.receipt.key == ready.receipt.key


async def test_a_topic_made_later_is_found(fed: Fed) -> None:
    """That a topic was missing is soon forgotten: its owner may make it at any time."""
    (ready,) = await fed.feed(outcome(head("one", reply_to="reply.new")))
    assert ready.copy is None
    await fed.ctx.log.ensure([TopicSpec("reply.new", 1, 3600.0, False, 1_000_000)])
    fed.clock.at += MISSING_SECONDS
    (ready,) = await fed.feed(outcome(head("one", reply_to="reply.new"), s=6))
    assert ready.copy is not None
    assert ready.copy[0] == Place("reply.new", 0)


async def test_what_is_on_partials_is_signed_without_being_proved() -> None:
    """Whoever may write there has a receipt signed that says what he likes, of a job that never was, too. That the output is
    the system's it does not say to who has the tenant's secret: the digest is not the one that it makes."""
    fed = Fed(context(HandClock(), configured()))
    invented = outcome(head("never"), usage=Usage(tokens_out=10**9))
    (ready,) = await fed.feed(invented)
    assert check_receipt(ready.receipt.value, PUBLIC)
    receipt = USAGE.decode(ready.receipt.value)
    assert receipt.usage.tokens_out == 10**9
    assert not check_answer(receipt, item_digests(SECRET, receipt.job_id, [(0, invented.items[0].output, "")]))
