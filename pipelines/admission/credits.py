"""The credits of lanes: whether one more submission fits, and when a paused lane goes on. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from llmos.infra.ledger.port import LaneUse, Limit, Limits
from llmos.schemas.job import Lane


def fits(use: Mapping[Lane, LaneUse], lane: Lane, size: int, limits: Limits) -> bool:
    """Whether one more submission fits into its lane's own credits or, beyond them, into the shared overflow.

    An empty lane takes anything, so that nothing waits for ever.
    """
    own = use.get(lane, LaneUse(0, 0))
    if own.jobs == 0:
        return True
    limit = limits.lanes[lane]
    if own.jobs + 1 <= limit.jobs and own.bytes + size <= limit.bytes:
        return True
    over = _beyond({**use, lane: LaneUse(own.jobs + 1, own.bytes + size)}, limits)
    return over.jobs <= limits.overflow.jobs and over.bytes <= limits.overflow.bytes


def may_resume(use: Mapping[Lane, LaneUse], lane: Lane, limits: Limits, fraction: float) -> bool:
    """Hysteresis: a paused lane goes on when `fraction` of its own credits, or of the overflow, is free again, or when it
    holds nothing."""
    own = use.get(lane, LaneUse(0, 0))
    if own.jobs == 0 or _is_free(own, limits.lanes[lane], fraction):
        return True
    over = _beyond(use, limits)
    return _is_free(over, limits.overflow, fraction)


def _beyond(use: Mapping[Lane, LaneUse], limits: Limits) -> LaneUse:
    """What the lanes hold of the overflow."""
    jobs = sum(max(held.jobs - limits.lanes[name].jobs, 0) for name, held in use.items())
    size = sum(max(held.bytes - limits.lanes[name].bytes, 0) for name, held in use.items())
    return LaneUse(jobs, size)


def _is_free(held: LaneUse, limit: Limit, fraction: float) -> bool:
    return held.jobs <= limit.jobs - max(1.0, limit.jobs * fraction) and held.bytes <= limit.bytes * (1.0 - fraction)
