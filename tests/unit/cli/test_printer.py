"""Streams on a terminal: one output grows, the others wait; moves and finals replace."""

from __future__ import annotations

from io import StringIO
from typing import Any

import msgspec
import pytest
from rich.console import Console

from llmos.cli.printer import StreamPrinter, state_line
from llmos.cli.session import Session
from llmos.cli.showing import answer_object, event_object, show_answer
from llmos.client import Answer, Event, Final, Moved, StateChanged, TokenText
from llmos.schemas.job import ErrorInfo, Item, Origin
from llmos.schemas.tasks import EmbedOutput, GenerateOutput, TokenLogprob, TopToken


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
    assert said.err.strip() == f"loading on node-0.cpu0: {'█' * 6}{'░' * 18} 50 B of 200 B (25%)"


def waiting(**fields: Any) -> StateChanged:
    return StateChanged("waiting", "", "", 0.0, 0, 0, **fields)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (waiting(), "waiting"),
        (
            waiting(rule="window", need=17, have=16),
            "waiting: the devices have as much as they begin soon: 16 tasks, 16 at most",
        ),
        (
            waiting(rule="memory", need=3 * 1024**3, have=1024**3, position=2, predicted_start_at=12.5),
            "waiting as the 2nd in the queue and should begin in 2.5 s: memory: 3.0 GiB are needed, 1.0 GiB can be had",
        ),
        (waiting(position=11, predicted_start_at=9.0), "waiting as the 11th in the queue"),
        (StateChanged("moved", "n.cpu1", "its worker died", 0.0, 0, 0), "moved on n.cpu1: its worker died"),
        (waiting(rule="of tomorrow", need=2, have=1), "waiting: rule of tomorrow: needs 2, has 1"),
    ],
)
def test_what_is_waited_for_is_told_in_words(event: StateChanged, line: str) -> None:
    """The place in the queue, the rule with its figures, when it should begin: a time that has passed is not told."""
    assert state_line(event, 10.0) == line


def test_a_pipe_hears_a_state_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Each step of a load and each change of what is waited for is a line; the passing of time alone is none."""
    printer = StreamPrinter(Session(), now=lambda: 0.0)
    for start in (5.0, 4.0, 3.0):
        printer.show(waiting(rule="window", need=2, have=1, position=2, predicted_start_at=start))
    for done in range(0, 101, 5):
        printer.show(StateChanged("loading", "d", "", 0.0, done, 100))
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("waiting")]) == 1
    assert len([line for line in lines if line.startswith("loading")]) == 11


def test_a_terminal_has_one_line_that_is_rewritten() -> None:
    """And taken away before the text."""
    file = StringIO()
    session = Session(err=Console(file=file, force_terminal=True, width=80), out=Console(file=StringIO()))
    printer = StreamPrinter(session, now=lambda: 0.0)
    for done in (1, 2):
        printer.show(StateChanged("loading", "d", "", 0.0, done, 4))
    printer.show(text("a"))
    said = file.getvalue()
    assert "\n" not in said
    assert said.count("\r\x1b[2Kloading") == 2
    assert said.endswith("\r\x1b[2K")


def test_log_probabilities_stand_beside_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A line a token, with what else was likely there."""
    logprobs = [TokenLogprob(token=1, text="t", logprob=-0.25, top=[TopToken(1, "t", -0.25), TopToken(2, "s", -2.0)])]
    output = GenerateOutput(text="t", finish="stop", tokens=1, logprobs=logprobs)
    answer = msgspec.structs.replace(
        final().answer, items=[Item(output_index=0, output=msgspec.msgpack.encode(output))]
    )
    show_answer(Session(), answer, json=False)
    said = capsys.readouterr()
    assert said.out == "t\n"
    assert said.err.split() == ["-0.2500", "'t'", "'s'", "-2.0000"]
    assert answer_object(answer)["outputs"][0]["logprobs"] == logprobs


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
