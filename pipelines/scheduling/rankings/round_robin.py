"""Round-robin: the next device in turn, whatever is known of it; a baseline."""

from __future__ import annotations

from collections.abc import Sequence

from llmos.pipelines.scheduling.snapshot import Load


def next_in_turn(devices: Sequence[Load], all_devices: Sequence[str], turn: int) -> tuple[int, int]:
    """The place of the first of `devices` at or after place `turn` in `all_devices`, and the turn behind it."""
    places = {name: place for place, name in enumerate(all_devices)}
    count = len(all_devices)
    taken = min(range(len(devices)), key=lambda i: (places[devices[i].device] - turn) % count)
    return taken, (places[devices[taken].device] + 1) % count
