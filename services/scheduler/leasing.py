"""What is leased to devices, and what of that the ledger does not know yet. Pure.

The scheduler decides by its own memory; the ledger is written beside the loop, so that a slow Redis never holds up a turn.
A task that came and went between two looks is never written at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from llmos.infra.ledger.port import Lease
from llmos.services.scheduler.desk import Desk

Leases = Mapping[str, Lease]
"""By task."""


class Changes(NamedTuple):
    """From one look to the next."""

    taken: list[Lease]
    ended: list[tuple[str, int]]


def leases_of(desk: Desk) -> dict[str, Lease]:
    """What is in flight on devices, by task."""
    found = {}
    for device in desk.fleet:
        for name, task in device.in_flight.items():
            text = "{}:{}:{}".format(*name)
            found[text] = Lease(text, device.name, task.epoch, task.job.head.hold)
    return found


def changes(written: Leases, live: Leases) -> Changes:
    """What has to be written so that the ledger, which has `written`, has `live`."""
    taken = [lease for task, lease in live.items() if written.get(task) != lease]
    return Changes(taken, [(task, lease.epoch) for task, lease in written.items() if task not in live])
