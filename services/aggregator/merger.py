"""Makes answers of outcomes: the first outcome of each part wins, the first complete answer of each s, nothing twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import structlog

from llmos.infra.crypto.receipts import Notary
from llmos.infra.log.port import Out, Place, Record, Refusal
from llmos.infra.runtime.context import Context
from llmos.infra.stages.answered import Answered
from llmos.infra.stages.dead_letters import dead_letter
from llmos.infra.stages.noting import note
from llmos.infra.stages.reply_topics import ReplyTopics
from llmos.infra.stages.transactional import Ready
from llmos.infra.telemetry.metrics import ANSWER_SECONDS, ANSWERS, FIRST_TOKEN_SECONDS, counter, histogram
from llmos.schemas import topics
from llmos.schemas.errors import Malformed, RecordError
from llmos.schemas.job import Head
from llmos.schemas.partials import PARTIALS, LowWatermark, Outcome
from llmos.schemas.results import USAGE, Receipt
from llmos.services.aggregator.answering import Made, answer_outcomes, answer_verdict
from llmos.services.aggregator.credits import Credits

log = structlog.get_logger()


@dataclass(slots=True)
class _Pending:
    """A job some of whose parts are still out."""

    first_offset: int
    outcomes: dict[int, Outcome] = field(default_factory=dict)


class Merger:
    """The aggregator's decisions, for the transactional stage."""

    def __init__(self, ctx: Context, credits: Credits) -> None:
        self._ctx = ctx
        self._credits = credits
        self._notary = Notary(ctx.keyring)
        self._reply_topics = ReplyTopics(ctx)
        self._pending: dict[Place, dict[int, _Pending]] = {}
        self._made: dict[Place, set[int]] = {}
        """Answers on their way: made, not yet committed."""

    async def feed(self, place: Place, records: Sequence[Record], answered: Answered) -> list[Ready]:
        """The answers that `records` complete."""
        ready: list[Ready] = []
        pending = self._pending.setdefault(place, {})
        made = self._made.setdefault(place, set())
        for record in records:
            try:
                message = PARTIALS.decode(record.value)
            except RecordError as problem:
                await self._dead(record, problem)
                continue
            if isinstance(message, LowWatermark):
                answered.raise_low(message.low)
                for s in [s for s in pending if s < message.low]:
                    del pending[s]
                continue
            s = message.task.s if isinstance(message, Outcome) else message.s
            if s in answered or s in made:
                pending.pop(s, None)
                continue
            now = self._ctx.clock.now()
            if isinstance(message, Outcome):
                if message.task.partition != place.partition or message.task.part >= message.head.parts:
                    await self._dead(record, Malformed(problem="an outcome of another partition or of no part"))
                    continue
                answer = self._outcome(pending, record, message, now)
            else:
                answer = answer_verdict(place.partition, message, now, _done(pending.get(s)))
            if answer is not None:
                pending.pop(s, None)
                made.add(s)
                ready.append(await self._ready(place, message.head, answer))
        return ready

    def held_from(self, place: Place) -> int | None:
        """The offset of the first outcome of a job whose other parts are still out."""
        return min((job.first_offset for job in self._pending.get(place, {}).values()), default=None)

    def without_copy(self, ready: Ready, refusal: Refusal) -> Ready:
        """The same answer, its receipt (signed anew) saying why there is no copy."""
        if refusal.whole and ready.copy is not None:
            self._reply_topics.refused(ready.copy[0].topic)
        receipt: Receipt = USAGE.decode(ready.receipt.value)
        changed = msgspec.structs.replace(receipt, reply_failed=refusal.reason[:512])
        return Ready(
            ready.place, ready.s, ready.result, ready.receipt._replace(value=self._notary.signed(changed)), None
        )

    async def answered(self, written: Sequence[Ready]) -> None:
        """These are committed: counts them and gives their credits back."""
        now = self._ctx.clock.now()
        holds = []
        tokens: Counter[str] = Counter()
        for ready in written:
            self._made[ready.place].discard(ready.s)
            receipt: Receipt = USAGE.decode(ready.receipt.value)
            holds.append(receipt.hold)
            tokens[receipt.tenant] += receipt.usage.tokens_in + receipt.usage.tokens_out
            _measure(receipt, now)
            note(
                "aggregator",
                receipt.status,
                job=receipt.job_id,
                tenant=receipt.tenant,
                seconds=now - receipt.stages.answered_at,
                code=receipt.code,
            )
        self._credits.give_back(holds, +tokens)

    def _outcome(self, pending: dict[int, _Pending], record: Record, outcome: Outcome, now: float) -> Made | None:
        task = outcome.task
        job = pending.setdefault(task.s, _Pending(record.offset))
        job.outcomes.setdefault(task.part, outcome)
        if len(job.outcomes) < outcome.head.parts:
            return None
        return answer_outcomes(task.partition, task.s, outcome.head, _done(job), now)

    async def _ready(self, place: Place, head: Head, made: Made) -> Ready:
        receipt = made.receipt
        copy: tuple[Place, Out] | None = None
        out = Out(head.job_id, made.value)
        allowed = tuple(self._ctx.settings.verify.reply_prefixes)
        if head.reply_to is not None and head.reply_to.startswith(allowed):
            target = await self._reply_topics.place(head)
            if target is None:
                receipt = msgspec.structs.replace(
                    receipt, reply_failed=f"topic {head.reply_to} is missing, or refused a moment ago"
                )
            else:
                copy = (target, out)
        return Ready(place, made.answer.s, out, Out(head.job_id, self._notary.signed(receipt)), copy)

    async def _dead(self, record: Record, problem: RecordError) -> None:
        note("aggregator", "dead", seconds=0.0, code=problem.code)
        await self._ctx.log.emit(Place(topics.DEAD, 0), [dead_letter(self._ctx, record, problem)])


def _done(job: _Pending | None) -> list[Outcome]:
    """The outcomes so far, in the order of parts."""
    return [job.outcomes[part] for part in sorted(job.outcomes)] if job is not None else []


def _measure(receipt: Receipt, now: float) -> None:
    counter(ANSWERS, receipt.status).inc()
    stages = receipt.stages
    histogram(ANSWER_SECONDS, receipt.lane).observe(max(now - stages.admitted_at, 0.0))
    if stages.first_output_at:
        histogram(FIRST_TOKEN_SECONDS, receipt.lane).observe(max(stages.first_output_at - stages.admitted_at, 0.0))
