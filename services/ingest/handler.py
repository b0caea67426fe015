"""Settles records of the requests topics: admitted, refused or dead; stops where the lane's credits end."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from llmos.infra.ledger.port import Hold
from llmos.infra.log.port import Out, Place, Record
from llmos.infra.runtime.context import Context
from llmos.infra.stages.dead_letters import dead_letter
from llmos.infra.stages.noting import note
from llmos.infra.stages.one_in_one_out import DeadLettered, Emitted, Settlement
from llmos.infra.stages.origins import Origins
from llmos.schemas import topics
from llmos.schemas.admitted import Admitted, Refusal
from llmos.schemas.base import encode
from llmos.schemas.errors import RecordError
from llmos.schemas.ids import partition_of
from llmos.schemas.topics import lane_of
from llmos.services.ingest.credits import Credits
from llmos.services.ingest.reading import Rules, Tenants, read_request

log = structlog.get_logger()


class IngestHandler:
    """Ingest's decisions, for the one-in-one-out stage."""

    def __init__(self, ctx: Context, tenants: Tenants, credits: Credits, partitions: int) -> None:
        self._ctx = ctx
        self._tenants = tenants
        self._credits = credits
        self._partitions = partitions
        self._rules = Rules(ctx.settings.ingest.clock_skew_seconds, ctx.settings.verify.reply_prefixes)

    async def settle(self, place: Place, records: Sequence[Record], origins: Origins) -> Sequence[Settlement]:
        """One settlement per record, as far as the credits of the place's lane reach."""
        now = self._ctx.clock.now()
        messages = [self._read(record, now) for record in records]
        granted = await self._grant(messages)
        settled: list[Settlement] = []
        for record, message in zip(records[:granted], messages, strict=False):
            settled.append(self._settlement(record, message, now))
        return settled

    async def may_resume(self, places: Sequence[Place]) -> bool:
        """Whether one of the lanes of these paused places has credits again."""
        return await self._credits.may_resume({lane_of(place.topic) for place in places})

    def _read(self, record: Record, now: float) -> Admitted | Refusal | RecordError:
        try:
            return read_request(record, self._tenants, now, self._rules)
        except RecordError as problem:
            return problem
        except MemoryError:
            raise  # it passes: the next life has room again
        except Exception as problem:
            # A fault of ours on one record must not end the process again and again, with everything behind it waiting.
            log.exception("record_unexpected", topic=record.place.topic, offset=record.offset)
            return RecordError(problem=f"llmos itself failed on it ({type(problem).__name__}: {problem})"[:500])

    async def _grant(self, messages: Sequence[Admitted | Refusal | RecordError]) -> int:
        """How many messages from the front may go: all before the first submission without a credit."""
        wanting = [i for i, message in enumerate(messages) if isinstance(message, Admitted)]
        holds = [_hold(message) for message in messages if isinstance(message, Admitted)]
        count = await self._credits.take(holds)
        return len(messages) if count == len(holds) else wanting[count]

    def _settlement(self, record: Record, message: Admitted | Refusal | RecordError, now: float) -> Settlement:
        seconds = self._ctx.clock.now() - now
        if isinstance(message, RecordError):
            note("ingest", "dead", seconds=seconds, code=message.code)
            return DeadLettered(dead_letter(self._ctx, record, message))
        head = message.head
        outcome = "admitted" if isinstance(message, Admitted) else "refused"
        note("ingest", outcome, job=head.job_id, tenant=head.tenant, seconds=seconds)
        target = Place(topics.ADMITTED, partition_of(head.job_id, self._partitions))
        return Emitted(target, Out(head.job_id, encode(message)))


def _hold(message: Admitted) -> Hold:
    head = message.head
    return Hold(head.hold, head.lane, head.size, head.tenant)
