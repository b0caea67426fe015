"""Models that do not fit a device together take turns on it for a while each: loading costs more than waiting a little."""

from __future__ import annotations

from collections.abc import Mapping

from llmos.pipelines.scheduling.decision import Why
from llmos.pipelines.scheduling.order import Key
from llmos.pipelines.scheduling.seats import Seat
from llmos.pipelines.scheduling.snapshot import Waiting


def switch(
    seat: Seat, waiting: Waiting, key: Key, wanted: Mapping[str, int], patience_seconds: float, now: float
) -> Why | None:
    """Needs to have waited `patience_seconds` where the load drives out a model that work as urgent waits for.

    `wanted`: by model, the most urgent level of the tasks that wait for it.
    """
    need = max(waiting.need_bytes, waiting.weight_bytes)
    if seat.resident_bytes + need <= seat.view.budget_bytes or now - key.arrival >= patience_seconds:
        return None
    level = key.level
    if any(wanted.get(model, level + 1) <= level for model in seat.resident):
        return Why("switch", patience_seconds, now - key.arrival)
    return None
