"""Echo sends texts back, all tasks at hand in one step."""

from __future__ import annotations

import msgspec

from llmos.schemas.tasks import EchoInput, EchoOutput
from llmos.services.worker.runners.base import Meter
from llmos.services.worker.runners.echo import EchoRunner
from llmos.services.worker.runners.events import Assignment, Began, ItemEnded, TaskEnded


def task(s: int, *texts: str) -> Assignment:
    return Assignment((0, s, 0, 1), "echo", "", EchoInput(text=list(texts)))


def test_every_text_comes_back() -> None:
    """Tasks in order of arrival, items in theirs; nothing is left to do."""
    meter = Meter()
    runner = EchoRunner(meter)
    assert not runner.busy()
    runner.start(task(2, "a", "ä"))
    runner.start(task(1, ""))
    assert runner.busy()
    events = runner.step()
    assert [type(event) for event in events] == [Began, ItemEnded, ItemEnded, TaskEnded, Began, ItemEnded, TaskEnded]
    assert [event.name[1] for event in events] == [2, 2, 2, 2, 1, 1, 1]
    outputs = [
        (event.item, msgspec.msgpack.decode(event.output, type=EchoOutput).text)
        for event in events
        if isinstance(event, ItemEnded)
    ]
    assert outputs == [(0, "a"), (1, "ä"), (0, "")]
    assert (runner.busy(), runner.step(), meter.tasks["", "echo"]) == (False, [], 2)


def test_a_task_that_left_is_not_run() -> None:
    """A name that is unknown is nothing to it."""
    runner = EchoRunner(Meter())
    runner.start(task(1, "a"))
    runner.start(task(2, "b"))
    runner.stop((0, 1, 0, 1))
    runner.stop((0, 9, 0, 1))
    assert {event.name[1] for event in runner.step()} == {2}


def test_a_single_text() -> None:
    """An input that is no list is one item."""
    runner = EchoRunner(Meter())
    runner.start(Assignment((0, 0, 0, 1), "echo", "", EchoInput(text="abc")))
    assert len([event for event in runner.step() if isinstance(event, ItemEnded)]) == 1
