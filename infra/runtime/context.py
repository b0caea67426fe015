"""What a running service is given: its settings, the log, the ledger, keys, clock, health and the signal to drain."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from llmos.infra.crypto.keyring import SystemKeys
from llmos.infra.ledger.port import Ledger
from llmos.infra.log.port import Clock, Log
from llmos.infra.settings import Settings


class Health(Protocol):
    """Where a service says that it gets on; the endpoints look here."""

    def progress(self, loop: str) -> None:
        """This loop took a turn now; a loop that was named once and stops for long makes the service not live."""

    def ready(self, what: str = "") -> None:
        """Start-up is over; the service takes work."""


@dataclass(frozen=True, slots=True)
class Context:
    """Everything a service touches outside of itself. `stop` is set when it should drain and return."""

    service: str
    settings: Settings
    log: Log
    ledger: Ledger
    keyring: SystemKeys
    clock: Clock
    health: Health
    stop: asyncio.Event
