"""Streams on a terminal: one output grows, the others wait; moves and finals replace."""

from __future__ import annotations

import msgspec
import pytest

from llmos.cli.session import Session
from llmos.cli.showing import StreamPrinter, answer_object, event_object
from llmos.client import Answer, Event, Final, Moved, StateChanged, TokenText
from llmos.schemas.job import ErrorInfo, Item, Origin
from llmos.schemas.tasks import EmbedOutput, GenerateOutput


def text(text_: str, index: int = 0, finish: str = "") -> TokenText:
    return TokenText(text_, index, 1, 0, 1, finish)


def final(replaced: dict[int, str] | None = None, status: str = "completed", count: int = 1) -> Final:
    output = msgspec.msgpack.encode(GenerateOutput(text="t", finish="stop", tokens=1))
    answer = Answer(
        job_id=bytes(16), tenant="demo", request_id="r", origin=Origin("requests", 0, 1), partition=0, s=0,
        status=status, kind="generate",  # type: ignore[arg-type]
        items=[Item(output_index=i, output=output) for i in range(count)] if status == "completed" else [],
        error=None if status == "completed" else ErrorInfo(code="failed", message="no"),
    )  # fmt: skip
    return Final(answer, replaced or {})


@pytest.mark.parametrize(
    ("outputs", "events", "shown"),
    [
        (1, [text("a"), text("b", finish="stop"), final()], "ab\n"),
        (1, [final({0: "whole"})], "whole\n"),
        # the end of the stream was missed: the whole text follows
        (1, [text("a"), final({0: "ab"})], "a\nab\n"),
        # a move ends the line and shows what remains
        (1, [text("a"), text("b"), Moved(0, 2, 1, "a"), text("B", finish="stop"), final()], "ab\naB\n"),
        # two outputs: the second waits for the end of the first
        (2, [text("a"), text("x", 1), text("b", finish="stop"), text("y", 1, "stop"), final(count=2)],
         "[0] ab\n[1] xy\n"),
        # the second ends first
        (2, [text("a"), text("x", 1, "stop"), text("b", finish="stop"), final(count=2)], "[0] ab\n[1] x\n"),
        # a move of an output that is not shown yet
        (2, [text("a"), text("x", 1), Moved(1, 2, 0, ""), text("X", 1, "stop"), text("b", finish="stop"),
             final(count=2)], "[0] ab\n[1] X\n"),
        # nothing was streamed of a list
        (2, [final({0: "a", 1: "b"}, count=2)], "[0] a\n[1] b\n"),
        # no result, no text
        (1, [text("a"), final(status="failed")], "a\n"),
    ],
)  # fmt: skip
def test_what_stands_on_the_terminal(
    outputs: int, events: list[Event], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every output has its own line, and the last line of an output is the answer's text."""
    printer = StreamPrinter(Session(), outputs=outputs)
    for event in events:
        printer.show(event)
    assert capsys.readouterr().out == shown


def test_states_go_beside_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe gets the text alone."""
    printer = StreamPrinter(Session())
    printer.show(StateChanged("loading", "node-0.cpu0", "", 0.0, 50, 200))
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.strip() == "loading on node-0.cpu0 25% of 200 bytes"


def test_json_holds_everything() -> None:
    """Ids are text, outputs decoded, errors of items in their place."""
    good = Item(output_index=1, output=msgspec.msgpack.encode(EmbedOutput(embedding=[0.5])))
    bad = Item(output_index=0, error=ErrorInfo(code="engine_failed", message="no"))
    answer = Answer(
        job_id=bytes(16), tenant="demo", request_id="r", origin=Origin("requests", 0, 1), partition=0, s=0,
        status="completed", kind="embed", items=[good, bad],
    )  # fmt: skip
    found = msgspec.json.decode(msgspec.json.encode(answer_object(answer)))
    assert found["reference"] == f"{'00' * 16}@requests:0:1"
    assert found["outputs"][1] == {"embedding": [0.5]}
    assert found["outputs"][0]["error"]["code"] == "engine_failed"
    assert event_object(Moved(0, 2, 1, "a")) == {
        "event": "moved", "output_index": 0, "epoch": 2, "resume_at": 1, "text": "a",
    }  # fmt: skip
