"""The broker of one simulated system: its state, and the way in for clients."""

from __future__ import annotations

from llmos.infra.log.memory.client import MemoryLog
from llmos.infra.log.memory.state import BrokerState


class MemoryBroker(BrokerState):
    """The log of one simulated system; never fails by itself, its clients do."""

    def connect(self, name: str) -> MemoryLog:
        """A client's connection; a service's new life is a new connection."""
        return MemoryLog(self, name)
