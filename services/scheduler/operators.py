"""Operators' commands in the order in which they came: carried out, told to workers and to the catalog, replied to."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog

from llmos.infra.log.port import Record
from llmos.infra.stages.follower import Table
from llmos.schemas.control import Drain, ModelCommand, Reply
from llmos.schemas.errors import LlmosError
from llmos.schemas.job import error_info
from llmos.services.scheduler.commands import carry_out
from llmos.services.scheduler.desk import Desk

log = structlog.get_logger()

REMEMBERED = 10_000
"""Commands of which the replies are remembered at most."""
WAITING = 1000
"""Commands that may wait for the fleet to be known; more are dropped, and their senders send again."""


class Operators:
    """Takes commands; `carry_out` is called by each turn."""

    def __init__(self, desk: Desk, catalog: Table) -> None:
        self._desk = desk
        self._catalog = catalog
        self._waiting: deque[ModelCommand | Drain] = deque(maxlen=WAITING)
        self._taken: OrderedDict[bytes, Reply | None] = OrderedDict()
        """By the MAC, which no two commands share: what was replied, once it was."""

    def take(self, command: ModelCommand | Drain) -> None:
        """A command was read. One that was carried out before is not carried out again: its reply goes out once more."""
        if self.past(command) or self._taken[command.mac] is not None:
            self._waiting.append(command)

    def past(self, command: ModelCommand | Drain) -> bool:
        """Notes a command as one that was read; whether it is the first time."""
        if command.mac in self._taken:
            return False
        self._taken[command.mac] = None
        while len(self._taken) > REMEMBERED:
            self._taken.popitem(last=False)
        return True

    def carry_out(self, now: float) -> list[tuple[str, Reply]]:
        """Does what was asked for; gives the replies, by topic, which may go out once the turn's effects are sent.

        After a start it waits until the fleet is known, so that no device counts as unknown that is only unheard of.
        """
        replies: list[tuple[str, Reply]] = []
        while self._waiting and now >= self._desk.settled_at:
            command = self._waiting.popleft()
            reply = self._taken.get(command.mac)
            if reply is None:
                reply = self._taken[command.mac] = self._carry_out(command, now)
            if command.reply_to is not None and command.id:
                replies.append((command.reply_to, reply))
        return replies

    def _carry_out(self, command: ModelCommand | Drain, now: float) -> Reply:
        what = command.what if isinstance(command, ModelCommand) else "drain"
        try:
            body = self._model(command, now) if isinstance(command, ModelCommand) else self._drain(command)
        except LlmosError as problem:
            log.warning("command_refused", what=what, id=command.id, error=str(problem))
            return Reply(id=command.id or what, error=error_info(problem))
        log.info("command_carried_out", what=what, id=command.id, device=command.device)
        return Reply(id=command.id or what, body=msgspec.Raw(msgspec.msgpack.encode(body)))

    def _drain(self, command: Drain) -> dict[str, Any]:
        # One without an id is the scheduler's own word, or that of somebody who does not wait to hear of a mistake.
        in_flight = self._desk.drain(command, restored=not command.id)
        return {"what": "drain", "device": command.device, "draining": not command.undo, "in_flight": in_flight}

    def _model(self, command: ModelCommand, now: float) -> Mapping[str, Any]:
        devices = {device.name: device.last.models for device in self._desk.fleet}
        carried = carry_out(command, self._catalog.rows, devices, now)
        for key, row in carried.records:
            out = self._desk.effects.catalog(key, row)
            # The next command, and the next decision, see it at once; the log brings it again in its order.
            self._catalog.take(Record(self._catalog.place, -1, now, out.key, out.value, ()))
        for order in carried.orders:
            self._desk.effects.control(order.device or order.identity or order.what, order)
        return carried.body
