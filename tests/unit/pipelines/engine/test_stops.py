"""Stop strings end a text exactly where they begin, however the text is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.pipelines.engine.stops import StopFilter


@pytest.mark.parametrize(
    ("stops", "pieces", "told", "hit"),
    [
        ([], ["a", "b"], ["a", "b"], False),
        (["END"], ["one E", "ND two"], ["one ", ""], True),
        (["END"], ["one E", "N", "two"], ["one ", "", "ENtwo"], False),
        (["END"], ["one EN"], ["one "], False),
        (["ab", "abc"], ["xabc"], ["x"], True),
        (["abcd", "bc"], ["xabc", "d"], ["xa", ""], True),
        (["aa"], ["a", "b", "a", "a", "z"], ["", "ab", "", "", ""], True),
        (["\n\n"], ["x\n", "\ny"], ["x", ""], True),
    ],
)
def test_pieces(stops: list[str], pieces: list[str], told: list[str], hit: bool) -> None:
    """What may yet be a stop string is held back, the stop string and what follows are cut off."""
    stop = StopFilter(stops)
    assert [stop.feed(piece) for piece in pieces] == told
    assert stop.hit is hit


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_the_cut_does_not_depend_on_the_pieces(text: str, stops: list[str], data: st.DataObject) -> None:
    """Any way to cut a text into pieces gives the same output as letter by letter; without a stop string all of it."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole, letters = StopFilter(stops), StopFilter(stops)
    joined = "".join(whole.feed(piece) for piece in pieces) + whole.flush()
    assert joined == "".join(letters.feed(letter) for letter in text) + letters.flush()
    assert whole.hit == letters.hit == any(stop in text for stop in stops)
    assert not any(stop in joined for stop in stops)
    assert text.startswith(joined)
    assert whole.hit or joined == text
