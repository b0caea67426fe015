"""Round-robin: the next device in turn, whatever is known of it; the baseline."""

from __future__ import annotations

from collections.abc import Sequence

from llmos.pipelines.scheduling.snapshot import DeviceView


def next_in_turn(devices: Sequence[DeviceView], all_devices: Sequence[str], turn: int) -> tuple[DeviceView, int]:
    """The first of `devices` at or after place `turn` in `all_devices`, and the place behind it."""
    places = {name: place for place, name in enumerate(all_devices)}
    count = len(all_devices)
    taken = min(devices, key=lambda device: (places[device.device] - turn) % count)
    return taken, (places[taken.device] + 1) % count
