"""What a worker is told by `control` and `catalog`: tasks to stop, models to load, pins, a drain, its own end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from llmos.infra.log.port import Record
from llmos.infra.stages.follower import Table
from llmos.schemas import topics
from llmos.schemas.catalog import CATALOG, Pin
from llmos.schemas.control import CONTROL, CancelTask, Drain, Fence, ModelOrder
from llmos.schemas.errors import Fenced, RecordError
from llmos.services.worker.equipment import Engine
from llmos.services.worker.intake import Intake
from llmos.services.worker.runners.events import Pins

log = structlog.get_logger()


class Orders:
    """Orders to one life of one device."""

    def __init__(
        self,
        device: str,
        incarnation: int,
        intake: Intake,
        engine: Engine,
        *,
        verify: Callable[[ModelOrder], None],
        drains: Callable[[bool], None],
    ) -> None:
        """`verify` carries out an order to verify; `drains` is told whether the device drains."""
        self._device = device
        self._incarnation = incarnation
        self._intake = intake
        self._engine = engine
        self._verify = verify
        self._drains = drains
        self._pinned: frozenset[str] = frozenset()
        self.catalog = Table(topics.CATALOG, CATALOG, self._changed)
        """To be followed from its beginning."""

    def control(self, record: Record) -> None:
        """A record of `control`. Raises `Fenced` where it is this life's end."""
        try:
            message = CONTROL.decode(record.value)
        except RecordError as problem:
            log.warning("record_unreadable", topic=topics.CONTROL, offset=record.offset, error=str(problem))
            return
        if isinstance(message, CancelTask):
            self._intake.cancel(message)
        elif isinstance(message, Fence):
            if (message.device, message.incarnation) == (self._device, self._incarnation):
                log.error("fenced", device=self._device, incarnation=self._incarnation, reason=message.reason)
                raise Fenced(what=f"device {self._device}")
        elif isinstance(message, Drain):
            if message.device == self._device:
                log.info("drain", device=self._device, undo=message.undo)
                self._drains(not message.undo)
        elif isinstance(message, ModelOrder) and message.device in ("", self._device):
            self._order(message)

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
