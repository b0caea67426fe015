"""The answer to a submission and its receipt, made of the outcomes of its parts or of a verdict. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from llmos.infra.crypto.receipts import answer_digest
from llmos.schemas.base import encode
from llmos.schemas.errors import TooLarge
from llmos.schemas.ids import attempt_of
from llmos.schemas.job import Head, Item, Usage, error_info
from llmos.schemas.limits import RECORD_BYTES
from llmos.schemas.partials import Outcome, Verdict
from llmos.schemas.results import Answer, Receipt, Stages

ROOM = RECORD_BYTES - 64 * 1024
"""An encoded answer at most, in bytes: Kafka's own framing needs some of the record."""
_UNBOUND = frozenset({"refused", "pointer"})
"""Ends that bind no idempotency key."""


class Made(NamedTuple):
    """An answer, encoded, and its receipt, not signed yet."""

    answer: Answer
    value: bytes
    receipt: Receipt


def answer_outcomes(partition: int, s: int, head: Head, outcomes: Sequence[Outcome], now: float) -> Made:
    """The answer to a job all of whose parts have an outcome; `outcomes` in the order of parts.

    It is completed unless every item failed: of a list, one bad item fails only itself.
    """
    items: list[Item] = [item for outcome in outcomes for item in outcome.items]
    errors = [item.error for item in items if item.error is not None]
    failed = bool(items) and len(errors) == len(items)
    answer = Answer(
        job_id=head.job_id,
        tenant=head.tenant,
        request_id=head.request_id,
        origin=head.origin,
        partition=partition,
        s=s,
        status="failed" if failed else "completed",
        items=items,
        error=errors[0] if failed else None,
        kind=head.kind,
        model=head.model,
        model_name=head.model_name,
        epochs=[outcome.task.epoch for outcome in outcomes],
        devices=sorted({outcome.device for outcome in outcomes}),
        usage=_summed([outcome.usage for outcome in outcomes]),
        stages=_stages(head, outcomes, now),
    )
    attempts = sum(attempt_of(epoch) for epoch in answer.epochs)
    precision = _precision(outcomes)
    value = encode(answer)
    if len(value) > ROOM:
        error = error_info(TooLarge(what="the answer", size=len(value), limit=ROOM))
        answer = msgspec.structs.replace(answer, status="failed", items=[], error=error)
        value = encode(answer)
    return Made(answer, value, _receipt(answer, head, attempts, precision, len(outcomes)))


def answer_verdict(partition: int, verdict: Verdict, now: float, outcomes: Sequence[Outcome] = ()) -> Made:
    """The answer that the scheduler's verdict gives. `outcomes`: of the parts that were done before it, one each.

    It gives no items, and says all the same what they took: each part counts by its outcome, else by what the scheduler
    has heard of the attempts at it.
    """
    head = verdict.head
    done = {outcome.task.part for outcome in outcomes}
    spent = [entry for entry in verdict.spent if entry.part not in done]
    epochs = [*(outcome.task.epoch for outcome in outcomes), *(entry.epoch for entry in spent)]
    devices = {outcome.device for outcome in outcomes}.union(*(entry.devices for entry in spent))
    answer = Answer(
        job_id=head.job_id,
        tenant=head.tenant,
        request_id=head.request_id,
        origin=head.origin,
        partition=partition,
        s=verdict.s,
        status=verdict.verdict,
        error=verdict.error,
        original=verdict.original,
        original_s=verdict.original_s,
        kind=head.kind,
        model=head.model,
        model_name=head.model_name,
        epochs=[verdict.epoch] if verdict.epoch else [],
        devices=sorted(devices),
        usage=_summed([*(outcome.usage for outcome in outcomes), *(entry.usage for entry in spent)]),
        stages=_stages(head, outcomes, now),
    )
    attempts = sum(attempt_of(epoch) for epoch in epochs)
    return Made(answer, encode(answer), _receipt(answer, head, attempts, _precision(outcomes), len(outcomes)))


def _summed(usages: Sequence[Usage]) -> Usage:
    return Usage(
        tokens_in=sum(usage.tokens_in for usage in usages),
        tokens_out=sum(usage.tokens_out for usage in usages),
        device_seconds=sum(usage.device_seconds for usage in usages),
    )


def _precision(outcomes: Sequence[Outcome]) -> str:
    return ", ".join(sorted({outcome.precision for outcome in outcomes if outcome.precision}))


def _stages(head: Head, outcomes: Sequence[Outcome], now: float) -> Stages:
    times = [outcome.times for outcome in outcomes]

    def first(values: Sequence[float]) -> float:
        return min((value for value in values if value), default=0.0)

    return Stages(
        submitted_at=head.submitted_at,
        admitted_at=head.admitted_at,
        sealed_at=head.sealed_at,
        dispatched_at=first([t.dispatched_at for t in times]),
        started_at=first([t.started_at for t in times]),
        first_output_at=first([t.first_output_at for t in times]),
        finished_at=max((t.finished_at for t in times), default=0.0),
        answered_at=now,
    )


def _receipt(answer: Answer, head: Head, attempts: int, precision: str = "", parts: int = 0) -> Receipt:
    return Receipt(
        job_id=answer.job_id,
        tenant=answer.tenant,
        partition=answer.partition,
        s=answer.s,
        status=answer.status,
        code=answer.error.code if answer.error else "",
        lane=head.lane,
        kind=answer.kind,
        model=answer.model,
        hold=head.hold,
        origin=answer.origin,
        content_digest=head.content_digest,
        output_digest=answer_digest(answer.items),
        binds=answer.status not in _UNBOUND,
        attempts=attempts,
        devices=answer.devices,
        usage=answer.usage,
        stages=answer.stages,
        precision=precision,
        options=head.options,
        part_count=parts,
        item_count=len(answer.items),
    )
