"""Which submissions are answered, and from which receipt on a successor must read to know the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.infra.stages.answered import Answered, Marks
from llmos.schemas.errors import CommitMissing


@pytest.mark.parametrize(
    ("text", "marks"),
    [("", Marks(0, 0)), ("L=3 V=4", Marks(3, 4)), (Marks(2**60, 7).dump(), Marks(2**60, 7))],
)
def test_marks_travel_as_metadata(text: str, marks: Marks) -> None:
    """What was dumped is loaded; no text is the beginning."""
    assert Marks.load(text) == marks


@pytest.mark.parametrize("text", ["L=3", "L=3 V=x", "L=1 V=2 W=3", "gaFhAQ==", " "])
def test_foreign_metadata_is_an_error(text: str) -> None:
    """Metadata of another hand is never taken for the beginning: everything would be answered again."""
    with pytest.raises(CommitMissing):
        Marks.load(text)


@st.composite
def stories(draw: st.DrawFn) -> list[tuple[str, int]]:
    """Receipts of distinct submissions in any order, and words of L that are true: all below is answered by then."""
    order = draw(st.permutations(range(draw(st.integers(0, 12)))))
    story: list[tuple[str, int]] = []
    seen: set[int] = set()
    for s in order:
        story.append(("receipt", s))
        seen.add(s)
        if draw(st.booleans()):
            true = next(i for i in range(len(order) + 1) if i not in seen)
            story.append(("low", draw(st.integers(0, true))))
    return story


@given(stories(), st.integers(0, 3))
def test_a_successor_knows_the_same(story: list[tuple[str, int]], gap: int) -> None:
    """At every moment: reading the receipts from V on gives back exactly what was known; V is the highest such offset."""
    answered = Answered(Marks())
    receipts: dict[int, int] = {}
    low = end = 0
    for what, s in story:
        if what == "receipt":
            end += gap + 1
            receipts[end] = s
            answered.note(s, end)
        else:
            answered.raise_low(s)
            low = max(low, s)
        known = set(receipts.values()) | set(range(low))
        marks = Marks.load(answered.marks().dump())
        assert {s for s in range(15) if s in answered} == known
        assert marks.low == low
        open_ = [offset for offset, of in receipts.items() if of >= low]
        assert marks.usage_from == min(open_, default=end + 1 if receipts else 0)
        successor = Answered(marks)
        for offset, of in receipts.items():
            if offset >= marks.usage_from:
                successor.note(of, offset)
        assert {s for s in range(15) if s in successor} == known
        assert successor.marks() == marks


def test_a_second_receipt_moves_nothing() -> None:
    """V stays at the first receipt of an s: reading from there finds it, whatever came again later."""
    answered = Answered(Marks())
    answered.note(4, 10)
    answered.note(4, 20)
    assert answered.marks() == Marks(0, 10)
    answered.raise_low(5)
    assert answered.marks() == Marks(5, 21)


def test_receipts_below_l_hold_nothing_back() -> None:
    """They are read again from V on, and a successor need not read them a third time."""
    answered = Answered(Marks(5, 9))
    answered.note(3, 10)
    assert answered.marks() == Marks(5, 11)


def test_an_older_word_of_l_changes_nothing() -> None:
    """A scheduler that was replaced may say a lower L."""
    answered = Answered(Marks(8, 3))
    answered.raise_low(5)
    assert answered.low == 8
    assert 7 in answered
    assert 8 not in answered
