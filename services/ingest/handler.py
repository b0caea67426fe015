"""Settles records of the requests topics: admitted, refused or dead; stops where the lane's credits end.

A record is read, proved, found fresh, allowed and whole (`reading`). Then its nonce is asked, its tenant's quota and the lane's
credits, all in one step (`credits`).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import structlog

from llmos.infra.ledger.port import Asked, Copied, Hold, OverQuota
from llmos.infra.log.port import Out, Place, Record
from llmos.infra.runtime.context import Context
from llmos.infra.stages.dead_letters import dead_letter
from llmos.infra.stages.noting import note
from llmos.infra.stages.one_in_one_out import DeadLettered, Emitted, Settlement
from llmos.infra.stages.origins import Origins
from llmos.infra.stages.replays import replay_of
from llmos.infra.stages.rereading import SecondLooks
from llmos.infra.telemetry.faults import fault_of
from llmos.infra.telemetry.metrics import REFUSALS, counter
from llmos.pipelines.admission.quotas import refusal
from llmos.schemas import topics
from llmos.schemas.admitted import Admitted, Refusal
from llmos.schemas.base import encode
from llmos.schemas.catalog import Quotas
from llmos.schemas.errors import Ambiguous, Corrupt, OperatorError, RecordError, Replayed
from llmos.schemas.ids import partition_of
from llmos.schemas.job import error_info
from llmos.schemas.topics import lane_of
from llmos.services.ingest.authenticating import Tenants
from llmos.services.ingest.credits import Credits
from llmos.services.ingest.reading import Reading, Rules, read_request

log = structlog.get_logger()

Message = Admitted | Refusal | RecordError


class IngestHandler:
    """Ingest's decisions, for the one-in-one-out stage."""

    def __init__(self, ctx: Context, tenants: Tenants, credits: Credits, partitions: int) -> None:
        self._ctx = ctx
        self._tenants = tenants
        self._credits = credits
        self._second_looks = SecondLooks(ctx.log, ctx.clock)
        self._partitions = partitions
        settings = ctx.settings
        self._rules = Rules(
            clock_skew_seconds=settings.ingest.clock_skew_seconds,
            reply_prefixes=settings.verify.reply_prefixes,
            freshness_seconds=settings.ingest.freshness_seconds,
            replay_of=lambda record: replay_of(ctx.keyring, record),
        )

    async def settle(self, place: Place, records: Sequence[Record], origins: Origins) -> Sequence[Settlement]:
        """One settlement per record, as far as the credits of the place's lane reach."""
        now = self._ctx.clock.now()
        read = [await self._read_whole(record, now) for record in records]
        messages = await self._admitted(records, read, now)
        return [
            self._settlement(record, message, now)
            for record, message in zip(records[: len(messages)], messages, strict=True)
        ]

    async def may_resume(self, places: Sequence[Place]) -> bool:
        """Whether one of the lanes of these paused places has credits again."""
        return await self._credits.may_resume({lane_of(place.topic) for place in places})

    async def _read_whole(self, record: Record, now: float) -> Reading | RecordError:
        """What a record says; a damaged one is looked at once more where it lies, a forged one is not."""
        reading = self._read(record, now)
        if isinstance(reading, Corrupt) and (again := await self._second_looks.look(record)) is not None:
            reading = self._read(again, now)
        return reading

    def _read(self, record: Record, now: float) -> Reading | RecordError:
        try:
            return read_request(record, self._tenants, now, self._rules)
        except RecordError as problem:
            return problem
        except (MemoryError, OperatorError, Ambiguous):
            raise  # the first passes: the next life has room again; the others are nothing about this record
        except Exception as problem:  # noqa: BLE001  told without its text, which may quote the payload
            # A fault of ours on one record must not end the process again and again, with everything behind it waiting.
            fault = fault_of(problem)
            log.error(
                "record_unexpected",
                topic=record.place.topic,
                offset=record.offset,
                problem=fault.problem,
                frames=fault.frames,
            )
            return RecordError(problem=f"llmos itself failed on it ({fault.problem})"[:500])

    async def _admitted(
        self, records: Sequence[Record], read: Sequence[Reading | RecordError], now: float
    ) -> list[Message]:
        """What becomes of the records from the front up to the first without a credit: that is dead that was taken before, from
        another place of the log, and what is beyond its tenant's quota is a refusal now."""
        wanting: list[int] = []
        asked: list[Asked] = []
        for i, reading in enumerate(read):
            if isinstance(reading, Reading) and (reading.once or isinstance(reading.message, Admitted)):
                wanting.append(i)
                asked.append(_asked(reading, records[i]))
        quotas = self._quotas({one.tenant for one in asked})
        lag = now - min((record.timestamp for record in records), default=now)
        outcomes = await self._credits.take(asked, quotas, lag)
        end = wanting[len(outcomes)] if len(outcomes) < len(wanting) else len(read)
        messages = [reading.message if isinstance(reading, Reading) else reading for reading in read[:end]]
        for i, one, outcome in zip(wanting, asked, outcomes, strict=False):
            if isinstance(outcome, Copied):
                messages[i] = Replayed(first=outcome.first)
            elif isinstance(outcome, OverQuota) and one.hold is not None:
                messages[i] = _beyond(messages[i], one.hold, outcome, quotas[one.tenant])
        return messages

    def _quotas(self, names: set[str]) -> dict[str, Quotas]:
        """Of those tenants that have any."""
        found = {name: tenant.quotas for name in names if (tenant := self._tenants.named(name)) is not None}
        return {name: quotas for name, quotas in found.items() if quotas != Quotas()}

    def _settlement(self, record: Record, message: Message, now: float) -> Settlement:
        seconds = self._ctx.clock.now() - now
        if isinstance(message, RecordError):
            note("ingest", "dead", seconds=seconds, code=message.code)
            return DeadLettered(dead_letter(self._ctx, record, message))
        head, outcome, code = message.head, "admitted", ""
        if isinstance(message, Refusal):
            outcome, code = "refused", message.error.code
            counter(REFUSALS, "ingest", code).inc()
        note("ingest", outcome, job=head.job_id, tenant=head.tenant, seconds=seconds, code=code)
        target = Place(topics.ADMITTED, partition_of(head.job_id, self._partitions))
        return Emitted(target, Out(head.job_id, encode(message)))


def _asked(reading: Reading, record: Record) -> Asked:
    message, head = reading.message, reading.message.head
    hold = Hold(head.hold, head.lane, head.size, head.tenant) if isinstance(message, Admitted) else None
    if not reading.once:
        return Asked(head.tenant, hold)
    topic, partition = record.place
    return Asked(head.tenant, hold, reading.once, f"{topic}:{partition}:{record.offset}")


def _beyond(message: Message, hold: Hold, over: OverQuota, quotas: Quotas) -> Message:
    assert isinstance(message, Admitted), "nothing else wants a credit"
    error = error_info(refusal(hold, over, quotas))
    return Refusal(head=msgspec.structs.replace(message.head, reply_key=b""), error=error, stage="ingest")
