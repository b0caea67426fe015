"""What a tenant may ask for: its lanes and kinds, where its answers may go, and to whose key they are sealed. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from llmos.infra.crypto.hpke import check_public
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import InvalidRequest, NotAllowed, PlaintextForbidden, RefusedError, ReplyTopicForbidden
from llmos.schemas.job import Lane
from llmos.schemas.requests import Request


def may_use(tenant: Tenant, lane: Lane, kind: str) -> RefusedError | None:
    """Why it may not use this lane or kind; None: it may."""
    if tenant.lanes and lane not in tenant.lanes:
        return NotAllowed(tenant=tenant.name, what="lane", name=lane)
    if tenant.kinds and kind not in tenant.kinds:
        return NotAllowed(tenant=tenant.name, what="kind", name=kind)
    return None


def may_reply_to(tenant: Tenant, topic: str, system_prefixes: Sequence[str]) -> bool:
    """Whether its answers may go to this topic: one of its own, and none of the system's."""
    return topic.startswith(tenant.prefixes) and topic.startswith(tuple(system_prefixes))


def is_forbidden(request: Request, tenant: Tenant, lane: Lane, system_prefixes: Sequence[str]) -> RefusedError | None:
    """Why the request is not allowed to its tenant; None: it is."""
    problem = may_use(tenant, lane, request.kind)
    if problem is not None:
        return problem
    if request.reply_to is not None and not may_reply_to(tenant, request.reply_to, system_prefixes):
        return ReplyTopicForbidden(topic=request.reply_to, prefixes=", ".join(tenant.prefixes))
    if not request.sealed and tenant.plaintext == "forbid":
        return PlaintextForbidden(tenant=tenant.name)
    return None


def reply_key_of(request: Request, tenant: Tenant) -> bytes:
    """The public key to which answer and events are sealed: the request's, else the tenant's where the request was sealed or
    nothing may be clear. Empty: the answer is clear.

    Raises:
        InvalidRequest: it is no key, or there is none and the answer may not be clear.
    """
    clear = not request.sealed and tenant.plaintext == "allow"
    key = request.reply_key or (b"" if clear else tenant.reply_key)
    if key:
        try:
            check_public(key)
        except ValueError as problem:
            raise InvalidRequest(where="reply_key", problem=str(problem)) from None
    elif tenant.plaintext == "forbid":
        # What was sealed by choice, by a tenant that may send in the clear, may be answered so.
        raise InvalidRequest(
            where="reply_key",
            problem="the request names no key and the tenant has none, and its answer may not be clear",
        )
    return key
