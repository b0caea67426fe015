"""Says once that Kafka is away, instead of a line of the Kafka library for every try."""

from __future__ import annotations

import logging
from collections.abc import Callable


class Outage(logging.Handler):
    """Hears of failed connections; says so once in the life of this process's connection."""

    def __init__(self, address: str, say: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._address = address
        self._say = say
        self._said = False

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging`."""
        if not self._said and record.name == "aiokafka":  # its client; the others tell of what follows from that
            self._said = True
            self._say(f"Kafka at {self._address} is away; waiting")


def hear(address: str, say: Callable[[str], None]) -> None:
    """From now on the Kafka library's lines are one sentence; what really ends is raised."""
    library = logging.getLogger("aiokafka")
    for handler in [handler for handler in library.handlers if isinstance(handler, Outage)]:
        library.removeHandler(handler)
    library.addHandler(Outage(address, say))
    library.setLevel(logging.ERROR)
    library.propagate = False
