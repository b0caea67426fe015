"""Who said it on `control`: operators under one key, tenants under their own secrets, the scheduler by its signature.

Workers and nodes only have the public half of the scheduler's key: one that is taken over gives nobody orders. What is not
under the right key is not carried out; it is logged and counted (`refused`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, TypeVar

import msgspec
import structlog

from llmos.infra.crypto.keyring import SystemKeys
from llmos.infra.crypto.macs import check_mac
from llmos.infra.telemetry.metrics import CONTROL_REFUSED, counter
from llmos.schemas.control import Cancel, Drain, ModelCommand, Operators, Orders, Query, signed_control

log = structlog.get_logger()

FRESH_SECONDS: Final = 900.0
"""A command or an order that says it was given so long before or after the log took it is an old one that was put there
again, or a clock is wrong."""

Why = Literal["forged", "stale", "repeated", "unknown_tenant"]
S = TypeVar("S", bound=Operators | Orders | Query)


def as_operator(keys: SystemKeys, message: S) -> S:
    """The command, or the query without a tenant, under the operators' key. Raises `BadSetting` without that key."""
    return msgspec.structs.replace(message, mac=keys.mac("operator", signed_control(message)))


def as_scheduler(keys: SystemKeys, message: S) -> S:
    """The order, signed under the key `control`. Raises `BadSetting` without that key's private half."""
    _, signature = keys.sign("control", signed_control(message))
    return msgspec.structs.replace(message, mac=signature)


def by_operator(keys: SystemKeys, message: Operators | Query) -> bool:
    """Whether an operator said it."""
    return keys.check_mac("operator", signed_control(message), message.mac)


def by_scheduler(keys: SystemKeys, message: Orders | Drain) -> bool:
    """Whether the scheduler said it: this one, or one before it."""
    return keys.check_signed("control", signed_control(message), message.mac)


def by_tenant(secrets: Iterable[bytes], message: Cancel | Query) -> bool:
    """Whether one who knows one of the tenant's secrets said it."""
    said = signed_control(message)
    return sum(check_mac(secret, said, message.mac) for secret in secrets) > 0


def is_fresh(message: ModelCommand | Drain | Orders, appended_at: float) -> bool:
    """Whether the message's own time is near the one at which the log took it."""
    return abs(appended_at - message.at) <= FRESH_SECONDS


def refused(service: str, message: object, why: Why, **more: object) -> None:
    """Logs and counts a message that is not carried out."""
    counter(CONTROL_REFUSED, service, why).inc()
    log.warning("control_refused", what=type(message).__name__, why=why, **more)
