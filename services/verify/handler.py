"""Settles records of `admitted`: a sealed job, a refusal passed on, or a dead letter; replays vanish."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import structlog

from llmos.infra.crypto.channels import digest_key
from llmos.infra.log.port import Out, Place, Record
from llmos.infra.runtime.context import Context
from llmos.infra.stages.dead_letters import dead_letter
from llmos.infra.stages.noting import note
from llmos.infra.stages.one_in_one_out import DeadLettered, Emitted, Repeated, Settlement
from llmos.infra.stages.origins import Origins
from llmos.infra.stages.tenants import TenantTable
from llmos.pipelines.kinds.parts import seal_job
from llmos.schemas import topics
from llmos.schemas.admitted import ADMITTED, Admitted, Refusal
from llmos.schemas.base import encode
from llmos.schemas.errors import (
    EnvelopeRejected,
    LlmosError,
    ModelGone,
    ModelUnavailable,
    RecordError,
    RefusedError,
    Unexpected,
    UnknownTenant,
)
from llmos.schemas.job import Head, error_info
from llmos.services.verify.checking import Directory, check

log = structlog.get_logger()

THREAD_BYTES = 16 * 1024
"""Payloads above this are checked in a thread: counting the tokens of a megabyte would hold up the loop."""


class VerifyHandler:
    """Verify's decisions, for the one-in-one-out stage."""

    def __init__(self, ctx: Context, tenants: TenantTable, models: Directory) -> None:
        self._ctx = ctx
        self._tenants = tenants
        self._models = models

    async def settle(self, place: Place, records: Sequence[Record], origins: Origins) -> Sequence[Settlement]:
        """One settlement per record."""
        return [await self._settle(place, record, origins) for record in records]

    async def may_resume(self, places: Sequence[Place]) -> bool:
        """Verify never waits."""
        return True

    async def _settle(self, place: Place, record: Record, origins: Origins) -> Settlement:
        began = self._ctx.clock.now()
        try:
            message: Admitted | Refusal = ADMITTED.decode(record.value)
        except RecordError as problem:
            note("verify", "dead", seconds=0.0, code=problem.code)
            return DeadLettered(dead_letter(self._ctx, record, problem))
        head = message.head
        if not origins.accept(head.origin):
            note("verify", "repeated", job=head.job_id, tenant=head.tenant, seconds=0.0)
            return Repeated()
        outcome, value = "refused", record.value or b""
        if isinstance(message, Admitted):
            outcome, value = await self._seal(message)
        note("verify", outcome, job=head.job_id, tenant=head.tenant, seconds=self._ctx.clock.now() - began)
        return Emitted(Place(topics.SEALED, place.partition), Out(head.job_id, value))

    async def _seal(self, message: Admitted) -> tuple[str, bytes]:
        try:
            if len(message.payload) > THREAD_BYTES:
                return "sealed", await asyncio.to_thread(self._sealed, message)
            return "sealed", self._sealed(message)
        except (RefusedError, ModelGone, ModelUnavailable, UnknownTenant, EnvelopeRejected) as problem:
            return "refused", encode(_refusal(message, problem))
        except MemoryError:
            raise  # it passes: the next life has room again
        except Exception as problem:
            # A fault of ours on one record must not end the process again and again, with everything behind it waiting.
            log.exception("record_unexpected", job=message.head.job_id.hex())
            error = Unexpected(problem=f"{type(problem).__name__}: {problem}"[:500])
            return "refused", encode(_refusal(message, error))

    def _sealed(self, message: Admitted) -> bytes:
        tenant = self._tenants.named(message.head.tenant)
        if tenant is None:
            raise UnknownTenant(tenant=message.head.tenant)
        secret = self._tenants.secret(tenant)
        checked = check(
            message,
            tenant,
            secret,
            self._models,
            self._ctx.settings.verify,
            self._ctx.clock.now(),
        )
        key = digest_key(secret, checked.head.job_id)
        return seal_job(self._ctx.keyring, checked.head, checked.parts, key)


def _refusal(message: Admitted, problem: LlmosError) -> Refusal:
    head = message.head
    if problem.code == "reply_topic_forbidden":
        head = _without_reply(head)
    return Refusal(head=head, error=error_info(problem), stage="verify")


def _without_reply(head: Head) -> Head:
    return msgspec.structs.replace(head, reply_to=None)
