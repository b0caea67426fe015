"""Settles records of `admitted`: a sealed job, a refusal passed on, or a dead letter; replays vanish."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import structlog

from llmos.infra.crypto.channels import digest_key
from llmos.infra.crypto.secrets import fingerprint
from llmos.infra.log.port import Out, Place, Record
from llmos.infra.runtime.context import Context
from llmos.infra.stages.dead_letters import dead_letter
from llmos.infra.stages.noting import note
from llmos.infra.stages.one_in_one_out import DeadLettered, Emitted, Repeated, Settlement
from llmos.infra.stages.origins import Origins
from llmos.infra.stages.rereading import SecondLooks
from llmos.infra.stages.tenants import TenantTable
from llmos.infra.telemetry.faults import fault_of
from llmos.infra.telemetry.metrics import WITHOUT_TENANT_KEY
from llmos.pipelines.kinds.parts import PartSeals
from llmos.schemas import topics
from llmos.schemas.admitted import ADMITTED, Admitted, Refusal
from llmos.schemas.base import encode
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import (
    Ambiguous,
    EnvelopeRejected,
    LlmosError,
    ModelGone,
    ModelUnavailable,
    OperatorError,
    PayloadDamaged,
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
        self.seals = PartSeals(ctx.keyring)
        self._second_looks = SecondLooks(ctx.log, ctx.clock)
        self._keyless: set[str] = set()
        """Tenants without a key of their own that were told of."""

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
            outcome, value = await self._seal(message, record)
        note("verify", outcome, job=head.job_id, tenant=head.tenant, seconds=self._ctx.clock.now() - began)
        return Emitted(Place(topics.SEALED, place.partition), Out(head.job_id, value))

    async def _seal(self, message: Admitted, record: Record) -> tuple[str, bytes]:
        try:
            return "sealed", await self._sealed_or_read_again(message, record)
        except (RefusedError, ModelGone, ModelUnavailable, UnknownTenant, EnvelopeRejected) as problem:
            return "refused", encode(_refusal(message, problem))
        except (MemoryError, OperatorError, Ambiguous):
            raise  # the first passes: the next life has room again; the others are nothing about this record
        except Exception as problem:  # noqa: BLE001  told without its text, which may quote the payload
            # A fault of ours on one record must not end the process again and again, with everything behind it waiting.
            fault = fault_of(problem)
            log.error("record_unexpected", job=message.head.job_id.hex(), problem=fault.problem, frames=fault.frames)
            return "refused", encode(_refusal(message, Unexpected(problem=fault.problem[:500])))

    async def _sealed_or_read_again(self, message: Admitted, record: Record) -> bytes:
        """A damaged payload is looked at once more where it lies; one that does not open is not: it was forged."""
        try:
            return await self._sealed_beside(message)
        except PayloadDamaged:
            again = await self._read_again(record)
            if again is None or again.head != message.head:
                raise
            return await self._sealed_beside(again)

    async def _read_again(self, record: Record) -> Admitted | None:
        """The message where it lies in the log, as often as `SecondLooks` allows it."""
        found = await self._second_looks.look(record)
        try:
            message = None if found is None else ADMITTED.decode(found.value)
        except RecordError:
            return None
        return message if isinstance(message, Admitted) else None

    async def _sealed_beside(self, message: Admitted) -> bytes:
        if len(message.payload) > THREAD_BYTES:
            return await asyncio.to_thread(self._sealed, message)
        return self._sealed(message)

    def _sealed(self, message: Admitted) -> bytes:
        ctx, head = self._ctx, message.head
        tenant = self._tenants.named(head.tenant)
        if tenant is None:
            raise UnknownTenant(tenant=head.tenant)
        secrets = self._secrets(tenant, message)
        checked = check(message, tenant, secrets, ctx.keyring, self._models, ctx.settings.verify, ctx.clock.now())
        self._tell_of_missing_key(tenant.name)
        return self.seals.seal(checked.head, checked.parts, digest_key(secrets[0], head.job_id), ctx.clock.now())

    def _secrets(self, tenant: Tenant, message: Admitted) -> list[bytes]:
        """Those of the tenant, first the one under which the client signed: the digests of the job are made with it, so
        that a client which has not heard of a rotation finds them right.

        A tenant without a secret has digests, too, under one that only the system can make.
        """
        # Ingest judges whether a secret held when the log took the request; here it is only found again.
        known = self._tenants.secrets(tenant, 0.0)
        if not known:
            return [self._ctx.keyring.mac("system", b"llmos-no-secret-1\0" + tenant.name.encode())]
        if len(known) == 1:
            return [*known]
        used = next((secret for secret in known if fingerprint(secret) == message.signed_with), known[0])
        held = self._tenants.secrets(tenant, message.head.admitted_at)
        return [used, *(secret for secret in held if secret != used)]

    def _tell_of_missing_key(self, tenant: str) -> None:
        """Without a key of its own a tenant's jobs are sealed for the workers' pool alone: erasing it needs that key."""
        if self._ctx.keyring.holds("tenant", tenant):
            self._keyless.discard(tenant)
            return
        WITHOUT_TENANT_KEY.inc()
        if tenant not in self._keyless:
            self._keyless.add(tenant)
            log.warning("tenant_without_key", tenant=tenant)


def _refusal(message: Admitted, problem: LlmosError) -> Refusal:
    head = message.head
    if problem.code == "reply_topic_forbidden":
        head = _without_reply(head)
    return Refusal(head=head, error=error_info(problem), stage="verify")


def _without_reply(head: Head) -> Head:
    return msgspec.structs.replace(head, reply_to=None)
