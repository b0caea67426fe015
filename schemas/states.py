"""The state machines of job, task and residency as tables; the docs draw them, every change of state consults them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

S = TypeVar("S")

JobState = Literal[
    "admitted",
    "waiting",
    "loading",
    "running",
    "moved",
    "completed",
    "failed",
    "cancelled",
    "expired",
    "refused",
    "pointer",
]

JOB: dict[JobState, tuple[JobState, ...]] = {
    "admitted": ("waiting", "refused", "pointer"),
    "waiting": ("loading", "running", "completed", "failed", "cancelled", "expired", "refused"),
    "loading": ("running", "moved", "completed", "failed", "cancelled", "expired"),
    "running": ("moved", "completed", "failed", "cancelled", "expired"),
    "moved": ("waiting", "loading", "running", "completed", "failed", "cancelled", "expired"),
    "completed": (),
    "failed": (),
    "cancelled": (),
    "expired": (),
    "refused": (),
    "pointer": (),
}
"""A job's states as its client hears them; those without a successor are final."""

TaskState = Literal["waiting", "dispatched", "done", "retrying", "ended"]

TASK: dict[TaskState, tuple[TaskState, ...]] = {
    "waiting": ("dispatched", "ended"),
    "dispatched": ("done", "retrying", "ended"),
    "retrying": ("dispatched", "ended"),
    "done": ("retrying", "ended"),
    "ended": (),
}
"""A task in the scheduler: `done` is what telemetry says, `ended` what the receipt says."""

ResidencyState = Literal["absent", "loading", "resident", "evicting"]

RESIDENCY: dict[ResidencyState, tuple[ResidencyState, ...]] = {
    "absent": ("loading",),
    "loading": ("resident", "absent"),
    "resident": ("evicting",),
    "evicting": ("absent",),
}
"""A model on a device."""

Tier = Literal["disk", "host", "device"]
"""Where a model's bytes are."""

FINAL_JOB_STATES: frozenset[str] = frozenset(state for state, following in JOB.items() if not following)


def may_follow(table: Mapping[S, tuple[S, ...]], before: S, after: S) -> bool:
    """Whether `after` may come directly after `before` in `table`."""
    return after in table[before]


def mermaid(title: str, table: dict[str, tuple[str, ...]]) -> str:
    """`table` as a Mermaid state diagram, for the docs; its first state is where it begins."""
    lines = ["```mermaid", "stateDiagram-v2", f"    %% {title}", f"    [*] --> {next(iter(table))}"]
    for state, following in table.items():
        lines += [f"    {state} --> {after}" for after in following] or [f"    {state} --> [*]"]
    return "\n".join([*lines, "```"])
