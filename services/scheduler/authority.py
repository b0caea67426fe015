"""Whose word a message on `control` is, and what that one may have: by the tenants as they are now and the keyring."""

from __future__ import annotations

import structlog

from llmos.infra.log.port import Record
from llmos.infra.runtime.context import Context
from llmos.infra.stages.control_macs import by_operator, by_scheduler, by_tenant, is_fresh, refused
from llmos.infra.stages.tenants import TenantTable
from llmos.schemas.control import Cancel, Drain, Fence, ModelCommand, Query
from llmos.schemas.errors import EnvelopeRejected
from llmos.schemas.topics import OPERATOR_REPLIES

log = structlog.get_logger()

SERVICE = "scheduler"


class Authority:
    """Answers for one scheduler."""

    def __init__(self, ctx: Context, tenants: TenantTable) -> None:
        self._keys = ctx.keyring
        self._prefixes = tuple(ctx.settings.verify.reply_prefixes)
        self._tenants = tenants

    def of_tenant(self, message: Cancel | Query, appended_at: float) -> bool:
        """Whether the tenant that is named said it, by a secret that held when the log took it.

        A tenant that need not sign is believed without a MAC; a wrong one is never believed.
        """
        assert message.tenant is not None, "an operator's query names none"
        tenant = self._tenants.named(message.tenant)
        if tenant is None:
            refused(SERVICE, message, "unknown_tenant")
            return False
        if not message.mac and tenant.mac == "optional":
            return True
        try:
            secrets = self._tenants.secrets(tenant, appended_at)
        except EnvelopeRejected:
            log.error("tenant_secret_unreadable", tenant=tenant.name)
            return False
        if not by_tenant(secrets, message):
            refused(SERVICE, message, "forged", tenant=tenant.name)
            return False
        return True

    def of_operator(self, message: ModelCommand | Drain | Query, record: Record) -> bool:
        """Whether an operator said it, and lately; of a drain also whether a scheduler did, which says them again."""
        said = by_operator(self._keys, message) or (isinstance(message, Drain) and by_scheduler(self._keys, message))
        if not said:
            refused(SERVICE, message, "forged", offset=record.offset)
            return False
        return isinstance(message, Query) or self._fresh(message, record)

    def of_scheduler(self, message: Fence, record: Record) -> bool:
        """Whether this scheduler said it, or one before it."""
        if not by_scheduler(self._keys, message):
            refused(SERVICE, message, "forged", offset=record.offset)
            return False
        return self._fresh(message, record)

    def may_hear(self, topic: str) -> bool:
        """Whether those whose operators' word is not believed are told so there: not where tenants hear their answers."""
        return topic.startswith(OPERATOR_REPLIES)

    def may_reply(self, query: Query) -> bool:
        """Whether the reply may go where the query wants it: a tenant's only to topics of its own."""
        tenant = self._tenants.named(query.tenant) if query.tenant is not None else None
        own = tenant.prefixes if tenant is not None else self._prefixes
        if query.reply_to.startswith(self._prefixes) and query.reply_to.startswith(own):
            return True
        log.warning("reply_forbidden", id=query.id, topic=query.reply_to, tenant=query.tenant)
        return False

    def _fresh(self, message: ModelCommand | Drain | Fence, record: Record) -> bool:
        if is_fresh(message, record.timestamp):
            return True
        refused(SERVICE, message, "stale", offset=record.offset, seconds=round(record.timestamp - message.at))
        return False
