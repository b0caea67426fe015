"""Whose answers are kept, and which of several counts."""

from __future__ import annotations

import pytest

from llmos.client.matching import Board, BoardUse, better
from llmos.schemas.job import Origin
from llmos.schemas.results import Answer

A = Origin("requests", 0, 1)
B = Origin("requests", 1, 1)


def answer(origin: Origin = A, status: str = "completed", request_id: str = "r", s: int = 0) -> Answer:
    return Answer(
        job_id=bytes(16),
        tenant="demo",
        request_id=request_id,
        origin=origin,
        partition=0,
        s=s,
        status=status,  # type: ignore[arg-type]
    )


def test_an_answer_that_comes_before_the_acknowledgement_is_kept() -> None:
    """The request id says that an answer may be ours until the acknowledgement names the origin."""
    board = Board()
    board.sending("r")
    assert board.wants(A, "r", bytes(16))
    board.note(answer(), 10)
    board.sent("r", A, bytes(16))
    assert board.find(A) == answer()
    assert not board.owes(A)


def test_an_early_answer_to_something_else_is_dropped_at_the_acknowledgement() -> None:
    """What came before it with the right request id, and turns out to name another job, was not the answer."""
    board = Board()
    board.sending("r")
    board.note(answer(), 10)
    board.sent("r", A, b"j" * 16)
    assert board.find(A) is None
    assert board.owes(A)
    assert board.statistics().kept_bytes == 0


def test_two_submissions_with_one_request_id_are_told_apart_by_origin() -> None:
    """An answer goes to the submission whose origin it names, also where another has the same request id."""
    board = Board()
    board.sending("r")
    board.sending("r")
    board.sent("r", A, bytes(16))
    board.sent("r", B, bytes(16))
    board.note(answer(B), 1)
    assert board.find(A) is None
    assert board.owes(A)
    assert board.find(B) is not None


@pytest.mark.parametrize(
    ("origin", "request_id", "job_id", "wanted"),
    [
        (A, "r", bytes(16), True),
        (A, "other", bytes(16), False),
        (A, "r", b"o" * 16, False),
        (B, "r", bytes(16), False),
    ],
)
def test_after_the_acknowledgement_the_origin_counts_and_all_else_must_agree(
    origin: Origin, request_id: str, job_id: bytes, wanted: bool
) -> None:
    """Answers to others are not even decoded."""
    board = Board()
    board.sending("r")
    board.sent("r", A, bytes(16))
    assert board.wants(origin, request_id, job_id) is wanted


def test_a_request_of_unknown_fate_is_forgotten() -> None:
    """After a failed send nothing is owed and nothing is held."""
    board = Board()
    board.sending("r")
    board.not_sent("r")
    assert not board.wants(A, "r", bytes(16))
    assert board.statistics() == BoardUse(0, 0, 0, 0)


@pytest.mark.parametrize(("answers", "size", "kept"), [(2, 1_000, [2, 3]), (100, 40, [2, 3]), (100, 1_000, [3])])
def test_the_oldest_answers_make_room(answers: int, size: int, kept: list[int]) -> None:
    """Kept answers are bounded in number and in bytes, but the latest always stays."""
    board = Board(keep_answers=answers, keep_bytes=100 if answers == 100 else 10_000)
    for offset in (1, 2, 3):
        board.note(answer(Origin("requests", 0, offset)), size)
    assert [offset for offset in (1, 2, 3) if board.find(Origin("requests", 0, offset))] == kept
    assert board.statistics().kept_bytes == size * len(kept)


@pytest.mark.parametrize(
    ("before", "new", "chosen"),
    [
        (None, "refused", "new"),
        ("refused", "completed", "new"),
        ("completed", "refused", "before"),
        ("completed", "pointer", "before"),
        ("failed", "completed", "new"),
        ("pointer", "refused", "new"),
        ("completed", "failed", "new"),
    ],
)
def test_of_several_answers_to_a_job_id_results_count_most(before: str | None, new: str, chosen: str) -> None:
    """Refusals and pointers bind nothing, so they never hide a result; else the later one counts."""
    old = answer(A, before, s=1) if before else None
    later = answer(B, new, s=2)
    assert better(old, later) is (later if chosen == "new" else old)
