"""What a worker is told by `control` and `catalog`: tasks to stop, models to load, pins, its own end.

Only the scheduler gives orders, signed under its key `control`; each is carried out once, however often somebody puts a copy
of it there. Of a drain the scheduler takes care: it sends no more work.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeGuard

import structlog

from llmos.infra.crypto.keyring import SystemKeys
from llmos.infra.log.port import Record
from llmos.infra.stages.control_macs import FRESH_SECONDS, by_scheduler, is_fresh, refused
from llmos.infra.stages.follower import Table
from llmos.schemas import topics
from llmos.schemas.catalog import CATALOG, Pin
from llmos.schemas.control import CONTROL, CancelTask, Fence, ModelOrder
from llmos.schemas.errors import Fenced, RecordError
from llmos.services.worker.equipment import Engine
from llmos.services.worker.intake import Intake
from llmos.services.worker.runners.events import Pins

log = structlog.get_logger()

Order = CancelTask | ModelOrder | Fence

REMEMBERED = 10_000
"""Orders that are remembered at most, and as many cancels."""


class _CarriedOut:
    """The signatures of orders that were carried out, for as long as a copy could pass for fresh."""

    def __init__(self) -> None:
        self._at: OrderedDict[bytes, float] = OrderedDict()
        """When the log took each (Unix seconds); the oldest first."""

    def is_new(self, signature: bytes, appended_at: float) -> bool:
        """Notes an order; whether it is the first time."""
        known = self._at
        while known and next(iter(known.values())) < appended_at - 2 * FRESH_SECONDS:
            known.popitem(last=False)
        if signature in known:
            return False
        known[signature] = appended_at
        if len(known) > REMEMBERED:
            known.popitem(last=False)
        return True


class Orders:
    """Orders to one life of one device."""

    def __init__(
        self,
        device: str,
        incarnation: int,
        intake: Intake,
        engine: Engine,
        *,
        keys: SystemKeys,
        verify: Callable[[ModelOrder], None],
    ) -> None:
        """`verify` carries out an order to verify."""
        self._device = device
        self._incarnation = incarnation
        self._intake = intake
        self._engine = engine
        self._keys = keys
        self._verify = verify
        self._pinned: frozenset[str] = frozenset()
        # Each for itself: cancels are many, and must not push the others out.
        self._cancelled, self._carried_out = _CarriedOut(), _CarriedOut()
        self.catalog = Table(topics.CATALOG, CATALOG, self._changed)
        """To be followed from its beginning."""

    def control(self, record: Record) -> None:
        """A record of `control`. Raises `Fenced` where it is this life's end."""
        try:
            message = CONTROL.decode(record.value)
        except RecordError as problem:
            log.warning("record_unreadable", topic=topics.CONTROL, offset=record.offset, error=str(problem))
            return
        if not self._is_for_us(message):
            return
        if not by_scheduler(self._keys, message):
            refused("worker", message, "forged", offset=record.offset)
        elif not is_fresh(message, record.timestamp):
            refused("worker", message, "stale", offset=record.offset)
        elif not self._is_new(message, record):
            refused("worker", message, "repeated", offset=record.offset)
        elif isinstance(message, CancelTask):
            self._intake.cancel(message)
        elif isinstance(message, Fence):
            log.error("fenced", device=self._device, incarnation=self._incarnation, reason=message.reason)
            raise Fenced(what=f"device {self._device}")
        else:
            self._order(message)

    def _is_for_us(self, message: object) -> TypeGuard[Order]:
        if isinstance(message, Fence):
            return (message.device, message.incarnation) == (self._device, self._incarnation)
        if isinstance(message, ModelOrder):
            return message.device in ("", self._device)
        return isinstance(message, CancelTask)

    def _is_new(self, message: Order, record: Record) -> bool:
        known = self._cancelled if isinstance(message, CancelTask) else self._carried_out
        return known.is_new(message.mac, record.timestamp)

    def _order(self, order: ModelOrder) -> None:
        log.info("model_order", what=order.what, model=order.identity, device=self._device)
        if order.what == "verify":
            self._verify(order)
        else:
            self._engine.order(order)

    def _changed(self, key: str, row: Any | None) -> None:
        if not key.startswith("pin:"):
            return
        rows = self.catalog.rows.values()
        pinned = frozenset(row.identity for row in rows if isinstance(row, Pin) and row.device in ("", self._device))
        if pinned != self._pinned:
            self._pinned = pinned
            self._engine.order(Pins(pinned))
