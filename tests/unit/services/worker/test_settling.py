"""What events mean: states and tokens for clients, outcomes for the aggregator, failures for the scheduler."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.schemas.errors import EngineFailed, TooLong
from llmos.schemas.job import Item, Times, Usage
from llmos.schemas.stream import State, Tokens
from llmos.schemas.telemetry import Progress
from llmos.services.worker.held import HeldTask, HeldTasks
from llmos.services.worker.runners.classify import classify
from llmos.services.worker.runners.events import (
    Began,
    Event,
    ItemEnded,
    Loading,
    ModelsChanged,
    Produced,
    TaskBroke,
    TaskEnded,
    TaskExpired,
    TaskStopped,
    Waiting,
)
from llmos.services.worker.settling import Settled, Settler
from tests.kit.bench import NOW
from tests.unit.services.worker.making import INCARNATION, held_task

NAME = (0, 0, 0, 1)


class Settling:
    """A settler over some held tasks."""

    def __init__(self, *tasks: HeldTask) -> None:
        self.held = HeldTasks(60.0)
        for task in tasks:
            self.held.take(task)
        self._settler = Settler(self.held, "node-0.cpu0", INCARNATION)

    def settle(self, *events: Event, at: float = NOW) -> Settled:
        return self._settler.settle(events, at)


def produced(text: str, item: int = 0, first: int = 0, finish: str = "", name: Any = NAME) -> Produced:
    return Produced(name, item, text, 1, first, finish)


def heard(settled: Settled) -> list[tuple[str, int]]:
    """(state or text, sequence) of what clients hear."""
    found = []
    for _, _, message in settled.stream:
        assert isinstance(message, State | Tokens)
        found.append((message.state if isinstance(message, State) else message.text, message.sequence))
    return found


async def test_a_task_from_its_start_to_its_outcome() -> None:
    """Items in their order whatever order they ended in, usage summed, times as they were."""
    task = held_task(text=["a", "b"], part=1)
    settling = Settling(task)
    name = task.name
    settling.settle(Began(name), at=NOW + 1)
    settling.settle(produced("b", item=1, name=name), at=NOW + 2)
    settling.settle(ItemEnded(name, 1, b"out b", None, 2, 3), at=NOW + 3)
    error = TooLong(tokens=9, model="m", limit=8)
    settled = settling.settle(ItemEnded(name, 0, b"", error, 4, 0), TaskEnded(name, 0.5), at=NOW + 4)
    (outcome,) = settled.outcomes
    assert [(item.output_index, item.output) for item in outcome.items] == [(2, b""), (3, b"out b")]
    assert outcome.items[0].error is not None
    assert (outcome.items[0].error.code, outcome.items[1].error) == ("too_long", None)
    assert outcome.usage == Usage(tokens_in=6, tokens_out=3, device_seconds=0.5)
    assert outcome.times == Times(
        dispatched_at=NOW - 1, received_at=NOW, started_at=NOW + 1, first_output_at=NOW + 2, finished_at=NOW + 4
    )
    assert (outcome.task, outcome.head, outcome.device) == (task.work.task, task.work.head, "node-0.cpu0")
    assert (settled.service_seconds, settled.failed, len(settling.held)) == ([0.5], [], 0)


async def test_an_outcome_says_in_what_precision_it_was_computed() -> None:
    """As the runner's model ran; empty where there was none."""
    for precision in ("bfloat16", ""):
        settled = Settling(held_task()).settle(ItemEnded(NAME, 0, b"o", None, 0, 0), TaskEnded(NAME, 0.0, precision))
        assert settled.outcomes[0].precision == precision


async def test_what_the_scheduler_hears_of_a_sealed_job_quotes_nothing() -> None:
    """Why an attempt failed lies on `telemetry` in the clear."""
    error = classify(ValueError("cannot read wombat-4711"))
    for sealed, says in ((True, "ValueError"), (False, "ValueError: cannot read wombat-4711")):
        (failed,) = Settling(held_task(sealed=sealed)).settle(TaskBroke(NAME, error)).failed
        assert failed.error.message == str(EngineFailed(problem=says))


async def test_an_outcome_without_tokens_has_its_first_output_at_its_end() -> None:
    """Kinds that do not stream produce everything at once."""
    settled = Settling(held_task()).settle(ItemEnded(NAME, 0, b"o", None, 0, 0), TaskEnded(NAME, 0.0), at=NOW + 5)
    assert settled.outcomes[0].times.first_output_at == NOW + 5


@pytest.mark.parametrize(
    ("events", "hears"),
    [
        ("none", []),
        ("states", [("loading", 0), ("running", 1)]),
        ("tokens", [("loading", 0), ("running", 1), ("x", 0), ("y", 1)]),
    ],
)
async def test_clients_hear_what_they_asked_for(events: str, hears: list[tuple[str, int]]) -> None:
    """States and tokens are counted apart; the outcome is the same whoever listens."""
    settling = Settling(held_task(events=events))
    settled = settling.settle(
        Loading((NAME,), "m", 10, 100), Began(NAME), produced("x"), produced("y", first=1, finish="stop"),
        ItemEnded(NAME, 0, b"o", None, 1, 2), TaskEnded(NAME, 0.1),
    )  # fmt: skip
    assert heard(settled) == hears
    assert settled.outcomes[0].items == [Item(output_index=0, output=b"o", tokens_in=1, tokens_out=2)]


async def test_a_state_says_where_and_how_far() -> None:
    """Loading tells bytes; every state names the attempt, the device and the place on `sealed`."""
    task = held_task(s=4, epoch=77, events="states")
    settled = Settling(task).settle(Loading((task.name, (0, 9, 0, 1)), "m", 10, 100), at=NOW + 1)
    ((head, partition, state),) = settled.stream
    assert isinstance(state, State)
    assert (head, partition, state.s, state.epoch) == (task.work.head, 0, 4, 77)
    assert (state.state, state.done, state.of, state.at) == ("loading", 10, 100, NOW + 1)
    assert (state.device, state.source, state.origin) == ("node-0.cpu0", "node-0.cpu0", head.origin)


async def test_tokens_are_gap_free_per_item() -> None:
    """Each output has a sequence of its own from 0, and events say where their first token stands."""
    task = held_task(text=["a", "b"], events="tokens", epoch=5)
    settling, name = Settling(task), task.name
    first = settling.settle(produced("a", 0, name=name), produced("x", 1, name=name), produced("b", 0, 1, name=name))
    then = settling.settle(produced("y", 1, 1, "length", name))
    events = [message for settled in (first, then) for _, _, message in settled.stream if isinstance(message, Tokens)]
    assert [(e.output_index, e.sequence, e.first_token, e.text, e.finish) for e in events] == [
        (0, 0, 0, "a", ""),
        (1, 0, 0, "x", ""),
        (0, 1, 1, "b", ""),
        (1, 1, 1, "y", "length"),
    ]
    assert {e.epoch for e in events} == {5}


async def test_a_new_attempt_counts_from_the_start() -> None:
    """Sequences belong to the attempt: a task that came again begins at 0."""
    settling = Settling(held_task(events="tokens"))
    settling.settle(produced("a"), produced("b", first=1))
    again = held_task(events="tokens", epoch=2)
    settling.held.take(again)
    assert heard(settling.settle(produced("c", first=2), produced("a", name=again.name))) == [("a", 0)], (
        "what the older attempt still says is not taken for the newer one's word"
    )


async def test_events_of_tasks_that_left_are_nothing() -> None:
    """They were on their way when the task was stopped."""
    settling = Settling(held_task())
    settling.held.drop(NAME)
    settled = settling.settle(
        Began(NAME), produced("x"), ItemEnded(NAME, 0, b"o", None, 0, 0), TaskEnded(NAME, 0.0),
        TaskBroke(NAME, EngineFailed(problem="x")), Loading((NAME,), "m", 0, 1),
    )  # fmt: skip
    assert settled == Settled()


async def test_a_broken_attempt_is_no_outcome() -> None:
    """The scheduler hears of it and tries again; nothing goes to the aggregator, and the task has left."""
    task = held_task(epoch=5)
    settling, name = Settling(task), task.name
    settled = settling.settle(
        Began(name), ItemEnded(name, 0, b"o", None, 0, 0), TaskBroke(name, EngineFailed(problem="no"))
    )
    (failed,) = settled.failed
    assert (failed.task, failed.incarnation, failed.device) == (task.work.task, INCARNATION, "node-0.cpu0")
    assert (failed.error.code, failed.error.retryable) == ("engine_failed", True)
    assert (settled.outcomes, len(settling.held)) == ([], 0)


async def test_running_is_marked() -> None:
    """A heartbeat lists it as running from then on."""
    settling = Settling(held_task())
    assert settling.held.lists(NOW)[1] == []
    settling.settle(Began(NAME))
    assert len(settling.held.lists(NOW)[1]) == 1


async def test_waiting_for_a_model_is_told_with_its_reason() -> None:
    """To each task that waits and wants to hear; one that runs already is not told that it waits."""
    waiting, running = held_task(0), held_task(1)
    settling = Settling(waiting, running)
    settling.settle(Began(running.name))
    names = (waiting.name, running.name, (0, 9, 0, 1))
    settled = settling.settle(
        Waiting(names, "m", "memory", 30.0, 20.0), Loading(names, "m", 1, 2), ModelsChanged(), at=NOW + 1
    )
    found = [
        (message.s, message.state, message.rule, message.need, message.have, message.done, message.of)
        for _, _, message in settled.stream
        if isinstance(message, State)
    ]
    assert found == [(0, "waiting", "memory", 30.0, 20.0, 0, 0), (0, "loading", "", 0.0, 0.0, 1, 2)]


async def test_an_expired_task_leaves_without_a_word() -> None:
    """The scheduler answers it."""
    task = held_task()
    settling = Settling(task)
    settled = settling.settle(TaskExpired(task.name))
    assert (settled.stream, settled.outcomes, settled.failed, len(settling.held)) == ([], [], [], 0)
    assert settled.expired == [task]
    assert settled.stopped == [], "it used nothing"


async def test_what_an_attempt_used_before_its_end_is_told() -> None:
    """Of one that expired, of one that broke, and of one that is held no longer: it was stopped."""
    expired, broken, stopped = held_task(0), held_task(1), held_task(2)
    settling = Settling(expired, broken, stopped)
    settling.held.drop(stopped.name)
    used = Usage(tokens_in=1, tokens_out=2, device_seconds=0.5)
    settled = settling.settle(
        TaskExpired(expired.name, used), TaskBroke(broken.name, EngineFailed(problem="x"), used),
        TaskStopped(stopped.name, used), TaskStopped((0, 9, 0, 1), Usage()),
    )  # fmt: skip
    assert settled.stopped == [Progress(task.work.task, 1, 2, 0.5) for task in (expired, stopped)]
    assert [failed.usage for failed in settled.failed] == [used]
