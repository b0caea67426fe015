"""Loopback ports that a child can listen on again after it was restarted."""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_240
_ATTEMPTS = 200


def is_free(port: int) -> bool:
    """Can somebody listen on this port of the loopback address? Connections that linger there do not count."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def free_port(taken: frozenset[int] = frozenset()) -> int:
    """A port nobody listens on, below the range of outgoing connections.

    A port of that range could be taken by any outgoing connection while a dead child is restarted; worse, clients that
    try to reconnect to it would in the end connect to themselves.
    """
    for _ in range(_ATTEMPTS):
        port = random.randrange(_LOWEST, _highest())
        if port not in taken and is_free(port):
            return port
    raise OSError(f"no free port between {_LOWEST} and {_highest()}")


def _highest() -> int:
    low = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32_768
    return low if low > _LOWEST + 1000 else 32_768
