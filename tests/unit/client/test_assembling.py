"""The reader's rules: highest epoch, repeats, gaps, moves, states, the final."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.client import Answer, Event, Final, Moved, StateChanged, TokenText
from llmos.client.assembling import Assembler
from llmos.schemas.job import Item, Origin
from llmos.schemas.stream import State, Tokens

ORIGIN = Origin("requests", 0, 0)


def tokens(epoch: int, sequence: int, text: str, first: int | None = None, **more: Any) -> Tokens:
    fields: dict[str, Any] = {"first_token": sequence if first is None else first, **more}
    return Tokens(
        job_id=bytes(16), request_id="r", origin=ORIGIN, partition=0, s=7, epoch=epoch, source="w",
        sequence=sequence, text=text, **fields,
    )  # fmt: skip


def state(name: Any, epoch: int = 0, sequence: int = 0, source: str = "scheduler", **more: Any) -> State:
    return State(
        job_id=bytes(16), request_id="r", origin=ORIGIN, state=name, epoch=epoch, sequence=sequence, source=source,
        **more,
    )  # fmt: skip


def answer(epochs: list[int], count: int = 1) -> Answer:
    return Answer(
        job_id=bytes(16), tenant="demo", request_id="r", origin=ORIGIN, partition=0, s=7, status="completed",
        items=[Item(output_index=i) for i in range(count)], epochs=epochs,
    )  # fmt: skip


def play(events: list[Tokens]) -> tuple[Assembler, list[Event]]:
    assembler = Assembler()
    return assembler, [shown for event in events for shown in assembler.tokens(event)]


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ([tokens(1, 0, "a"), tokens(1, 1, "b"), tokens(1, 2, "c")], "abc"),
        # repeats
        ([tokens(1, 0, "a"), tokens(1, 0, "a"), tokens(1, 1, "b"), tokens(1, 0, "a"), tokens(1, 1, "b")], "ab"),
        # a gap: nothing behind it can be shown
        ([tokens(1, 0, "a"), tokens(1, 2, "c"), tokens(1, 3, "d")], "a"),
        # the head is missing
        ([tokens(1, 3, "d")], ""),
        # a new attempt from the start, and the old one's late events
        ([tokens(1, 0, "a"), tokens(1, 1, "b"), tokens(2, 0, "A"), tokens(1, 2, "c"), tokens(2, 1, "B")], "AB"),
        # a new attempt that goes on from a token
        ([tokens(1, 0, "a"), tokens(1, 1, "b"), tokens(2, 0, "B", first=1, resume_at=1)], "aB"),
        # the cut falls into an event of two tokens: it goes as a whole
        ([tokens(1, 0, "ab", tokens=2), tokens(2, 0, "B", first=1, resume_at=1)], "B"),
        # a gap is over with the next attempt
        ([tokens(1, 0, "a"), tokens(1, 2, "c"), tokens(2, 0, "A")], "A"),
    ],
)  # fmt: skip
def test_what_is_shown(events: list[Tokens], text: str) -> None:
    """The text of the highest epoch, without repeats and gaps, cut where a move says."""
    assembler, _ = play(events)
    assert assembler.text() == text


def test_what_a_reader_who_follows_the_events_shows_is_the_text() -> None:
    """Appending each text and replacing all at a move gives what the assembler has."""
    assembler, events = play(
        [tokens(1, 0, "a"), tokens(1, 1, "b"), tokens(2, 0, "B", first=1, resume_at=1), tokens(2, 1, "C", first=2)]
    )
    shown = ""
    for event in events:
        shown = event.text if isinstance(event, Moved) else shown + event.text  # type: ignore[union-attr]
    assert shown == assembler.text() == "aBC"
    assert Moved(output_index=0, epoch=2, resume_at=1, text="a") in events


def test_outputs_are_independent() -> None:
    """A move of one output does not touch another."""
    assembler, events = play([tokens(1, 0, "a"), tokens(1, 0, "x", output_index=1), tokens(2, 0, "X", output_index=1)])
    assert (assembler.text(0), assembler.text(1)) == ("a", "X")
    assert [event for event in events if isinstance(event, Moved)] == [Moved(1, 2, 0, "")]


def test_events_without_text_are_counted_and_not_shown() -> None:
    """A token that ends within a character has no text yet; the sequence goes on."""
    _, events = play([tokens(1, 0, ""), tokens(1, 1, "é"), tokens(1, 2, "", finish="stop")])
    assert events == [TokenText("é", 0, 1, 1, 1, ""), TokenText("", 0, 1, 2, 1, "stop")]


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        ([state("waiting"), state("running", 5, 0, "w")], ["waiting", "running"]),
        ([state("waiting"), state("waiting")], ["waiting"]),
        ([state("running", 5, 1, "w"), state("loading", 5, 0, "w")], ["running"]),
        ([state("running", 6, 0, "w"), state("running", 5, 9, "old")], ["running"]),
        ([state("loading", 5, 0, "w", done=1, of=2), state("loading", 5, 1, "w", done=2, of=2)], ["loading"] * 2),
        ([state("moved", 5, 3), state("running", 5, 0, "w")], ["moved", "running"]),
    ],
)
def test_states_never_go_back(states: list[State], shown: list[str]) -> None:
    """An older epoch, an older sequence of the same source and repeats are not shown."""
    assembler = Assembler()
    events = [event for one in states for event in assembler.state(one)]
    assert [event.state for event in events if isinstance(event, StateChanged)] == shown


@pytest.mark.parametrize(
    ("events", "epochs", "text", "replaced"),
    [
        ([tokens(1, 0, "a", finish="stop")], [1], "a", {}),
        # another epoch counts than the one shown
        ([tokens(1, 0, "a", finish="stop")], [2], "a", {0: "a"}),
        # the end is missing
        ([tokens(1, 0, "a")], [1], "ab", {0: "ab"}),
        # nothing was heard
        ([], [1], "ab", {0: "ab"}),
    ],
)
def test_the_final_replaces_what_is_not_its_own(
    events: list[Tokens], epochs: list[int], text: str, replaced: dict[int, str]
) -> None:
    """The final's text is shown where its epoch is not the one shown, or where something is missing."""
    assembler, _ = play(events)
    final = assembler.final(answer(epochs), {0: text})
    assert final == Final(answer(epochs), replaced)


@pytest.mark.parametrize(
    ("events", "epochs", "count", "complete"),
    [
        ([tokens(1, 0, "a", finish="stop")], [1], 1, True),
        ([tokens(1, 0, "a")], [1], 1, False),
        ([tokens(1, 0, "a", finish="stop")], [2], 1, False),
        ([tokens(1, 0, "a", finish="stop")], [1], 2, False),
        ([], [1], 1, False),
    ],
)
def test_whether_the_stream_can_add_anything(
    events: list[Tokens], epochs: list[int], count: int, complete: bool
) -> None:
    """The rest of the stream is read only where some output is not finished."""
    assembler, _ = play(events)
    assert assembler.complete(answer(epochs, count)) is complete
