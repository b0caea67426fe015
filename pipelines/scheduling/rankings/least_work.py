"""Least work left: the device whose tasks in flight should take the least of its time; a baseline."""

from __future__ import annotations

from collections.abc import Sequence

from llmos.pipelines.scheduling.snapshot import Load


def least(devices: Sequence[Load]) -> int:
    """The place of the device with the least predicted work in flight; of equals the first."""
    return min(range(len(devices)), key=lambda i: devices[i].expected_seconds)
