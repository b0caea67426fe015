"""The state machines: closed, all of it reachable, with the ends that answers know."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from llmos.schemas.partials import VerdictKind
from llmos.schemas.results import Status
from llmos.schemas.states import (
    FINAL_JOB_STATES,
    JOB,
    RESIDENCY,
    TASK,
    JobState,
    ResidencyState,
    TaskState,
    may_follow,
    mermaid,
)

MACHINES: dict[str, tuple[Any, Any, str, set[str]]] = {
    "job": (JOB, JobState, "admitted", {"completed", "failed", "cancelled", "expired", "refused", "pointer"}),
    "task": (TASK, TaskState, "waiting", {"ended"}),
    "residency": (RESIDENCY, ResidencyState, "absent", set()),
}


def reachable(table: dict[str, tuple[str, ...]], start: str) -> set[str]:
    """Every state that can come at or after `start`."""
    found, waiting = {start}, [start]
    while waiting:
        new = set(table[waiting.pop()]) - found
        found |= new
        waiting += new
    return found


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_is_closed_and_reachable(name: str) -> None:
    """Every successor is a state, every state can be reached, none follows itself, and the ends are the known ones."""
    table, states, start, ends = MACHINES[name]
    assert set(table) == set(get_args(states)) == reachable(table, start)
    assert {state for state, following in table.items() if not following} == ends
    for state, following in table.items():
        assert state not in following
        assert len(set(following)) == len(following)
        assert not ends or reachable(table, state) & ends


def test_the_ends_of_a_job_are_the_statuses_of_answers() -> None:
    """What a client hears last is what its answer says, and every verdict is an end."""
    assert set(get_args(Status)) == FINAL_JOB_STATES
    assert set(get_args(VerdictKind)) == FINAL_JOB_STATES - {"completed"}


@pytest.mark.parametrize(
    ("machine", "before", "after", "allowed"),
    [
        ("job", "waiting", "loading", True),
        ("job", "running", "moved", True),
        ("job", "running", "waiting", False),
        ("job", "completed", "running", False),
        ("job", "refused", "waiting", False),
        ("task", "done", "retrying", True),
        ("task", "ended", "dispatched", False),
        ("task", "waiting", "done", False),
        ("residency", "absent", "loading", True),
        ("residency", "loading", "absent", True),
        ("residency", "absent", "resident", False),
        ("residency", "resident", "absent", False),
    ],
)
def test_what_may_follow_what(machine: str, before: str, after: str, allowed: bool) -> None:
    """A change of state that the table does not have is none."""
    assert may_follow(MACHINES[machine][0], before, after) is allowed


def test_the_drawing_has_every_arrow_and_no_other() -> None:
    """What the docs show is the table."""
    assert mermaid("of two", {"a": ("b", "a"), "b": ()}).splitlines() == [
        "```mermaid",
        "stateDiagram-v2",
        "    %% of two",
        "    [*] --> a",
        "    a --> b",
        "    a --> a",
        "    b --> [*]",
        "```",
    ]
