"""No starvation: a task that waited long enough for its level is overdue, and one choice in `AGED_EVERY` is an overdue one.

A task of level l (0 is the most urgent, 29 the least) is overdue once it waited (l + 1) · `ageing_seconds`. While urgent work
comes without end, overdue tasks get at least every `AGED_EVERY`-th choice, tenants by their shares and each tenant's oldest
first. So a task whose own tenant has a tasks before it, among t tenants with overdue work, is chosen at the latest as
choice number `AGED_EVERY` · t · (a + 1) after it became overdue, whatever comes behind it; and the urgent keep all choices
but those. Pure.
"""

from __future__ import annotations

from llmos.pipelines.scheduling.order import Key

AGED_EVERY = 4


def overdue_at(key: Key, ageing_seconds: float) -> float:
    """When the task becomes overdue (Unix seconds)."""
    return key.arrival + (key.level + 1) * ageing_seconds


def overdue_is_next(since_aged: int) -> bool:
    """Whether the next choice is an overdue task's, `since_aged` choices after the last one that was."""
    return since_aged >= AGED_EVERY - 1
