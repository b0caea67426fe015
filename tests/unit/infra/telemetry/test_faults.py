"""Faults are told by type and place, never by what they quote."""

from __future__ import annotations

from llmos.infra.telemetry.faults import FRAMES, fault_of


def deep(levels: int) -> None:
    if levels:
        deep(levels - 1)
    raise KeyError("somebody's secret")


def test_a_fault_says_where_and_not_what() -> None:
    """The text of the exception may be somebody's payload."""
    try:
        deep(0)
    except KeyError as problem:
        fault = fault_of(problem)
    assert fault.problem.startswith("KeyError at test_faults.py:")
    assert fault.problem.endswith(" deep")
    assert len(fault.frames) == 2
    assert "secret" not in repr(fault)


def test_of_a_deep_fault_the_inner_end_is_told() -> None:
    """A recursion without end must not fill the log."""
    try:
        deep(500)
    except KeyError as problem:
        fault = fault_of(problem)
    assert len(fault.frames) == FRAMES


def test_a_fault_that_was_never_raised_has_a_type() -> None:
    """Nothing else is known of it."""
    assert fault_of(ValueError("secret")) == ("ValueError", [])
