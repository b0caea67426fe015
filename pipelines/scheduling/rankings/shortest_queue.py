"""Join the shortest queue: the device with the fewest tasks for each of its slots; a baseline."""

from __future__ import annotations

from collections.abc import Sequence

from llmos.pipelines.scheduling.snapshot import Load


def queue_of(device: Load) -> float:
    """Tasks in flight for each slot."""
    return device.total_in_flight / max(device.slots, 1)


def shortest(devices: Sequence[Load]) -> int:
    """The place of the device with the shortest queue; of equals the first."""
    return min(range(len(devices)), key=lambda i: queue_of(devices[i]))
