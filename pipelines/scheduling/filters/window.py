"""A device takes tasks until its window is full: queues stay short, so that order is decided in the scheduler."""

from __future__ import annotations

from llmos.pipelines.scheduling.decision import Why
from llmos.pipelines.scheduling.snapshot import Load, Rules, Waiting


def window(device: Load, waiting: Waiting, rules: Rules) -> Why | None:
    """Needs one more place in the window of the kind; kinds without a window of their own share one."""
    kind, own, flying = waiting.group.kind, device.window, device.in_flight
    if kind in own:
        limit, used = own[kind], flying.get(kind, 0)
    else:
        limit, used = own.get("", 0), 0
        for name, count in flying.items():
            if name not in own:
                used += count
    return None if used < limit else Why("window", used + 1, limit)
