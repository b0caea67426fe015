"""Asks a running system as users do: waves of requests, streams, and arrivals at given times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.serving.models import Measured
from llmos.cli.up import up
from llmos.client import Client, GenerateInput, GenerateOutput, Task, TokenText
from llmos.infra.settings import Settings, load
from llmos.schemas.job import Events

PATIENCE_SECONDS = 180.0


@asynccontextmanager
async def system(directory: Path, **overrides: Any) -> AsyncIterator[Client]:
    """The whole system on a state directory of its own, and a client of it; it is stopped at the end."""
    settings = load(state_directory=directory, **overrides)
    stop, started = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def ready(filled: Settings) -> None:
        started.set_result(filled)

    running = asyncio.create_task(up(settings, stop=stop, on_ready=ready, report=lambda line: None))
    try:
        await asyncio.wait({running, started}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
            raise RuntimeError("the system ended before it was ready")
        async with Client(started.result()) as client:
            yield client
    finally:
        stop.set()
        await running


async def wave(client: Client, model: Measured, prompts: Sequence[str], events: Events = "none") -> float:
    """Sends all prompts at once; tokens per second until the last answer is read.

    Raises:
        RuntimeError: an answer is not the whole text that was asked for.
    """
    tasks = [_task(model, prompt, events) for prompt in prompts]
    began = time.perf_counter()
    submissions = await client.submit_many(tasks)
    answers = await asyncio.gather(*(client.result(each, PATIENCE_SECONDS, check=True) for each in submissions))
    seconds = time.perf_counter() - began
    tokens = 0
    for answer in answers:
        for output in client.outputs(answer):
            if not isinstance(output, GenerateOutput):
                raise RuntimeError(f"an item failed: {output}")
            tokens += output.tokens
    if tokens < 0.9 * len(prompts) * model.new_tokens:
        raise RuntimeError(f"{tokens} tokens came and {len(prompts) * model.new_tokens} were asked for")
    return tokens / seconds


async def first_token_seconds(client: Client, model: Measured, prompt: str) -> float:
    """From before the submission to the first token on the stream.

    One token is asked for: it is told at once whatever its text is, while a token without a text of its own, as most of a
    random model's are, is told only with a later one.
    """
    began = time.perf_counter()
    task = _task(model._replace(new_tokens=1), prompt, "tokens")
    submission = await client.submit(task.kind, task.input, model=task.model, lane="interactive", events="tokens")
    async with aclosing(client.stream(submission, PATIENCE_SECONDS)) as events:
        async for event in events:
            if isinstance(event, TokenText):
                return time.perf_counter() - began
    raise RuntimeError("the stream ended without a token")


def _task(model: Measured, prompt: str, events: Events) -> Task:
    given = GenerateInput(prompt=prompt, max_tokens=model.new_tokens)
    return Task("generate", given, model.name, timeout=PATIENCE_SECONDS, events=events)


class Arrival(NamedTuple):
    """A request that comes at a time of its own, in seconds after the beginning."""

    at: float
    task: Task


class Outcome(NamedTuple):
    """What became of arrivals."""

    latencies: list[float]
    """Of those that were completed, from the planned arrival to the answer read, in seconds."""
    sent: int
    seconds: float
    """From the first arrival to the last answer."""

    @property
    def completed(self) -> float:
        """The share of the requests that were completed."""
        return len(self.latencies) / self.sent


async def arrivals(client: Client, planned: Sequence[Arrival]) -> Outcome:
    """Sends each request at its time, whatever has come back until then (open loop), and waits for every answer."""
    began = time.perf_counter()
    latencies: list[float] = []

    async def one(arrival: Arrival) -> None:
        task = arrival.task
        submission = await client.submit(
            task.kind, task.input, model=task.model, lane=task.lane, timeout=task.timeout, events=task.events
        )
        answer = await client.result(submission, PATIENCE_SECONDS)
        if answer.status == "completed":
            latencies.append(time.perf_counter() - began - arrival.at)

    async with asyncio.TaskGroup() as tasks:
        for arrival in planned:
            await asyncio.sleep(max(began + arrival.at - time.perf_counter(), 0.0))
            tasks.create_task(one(arrival))
    return Outcome(latencies, len(planned), time.perf_counter() - began)


async def highest_rate(client: Client, tasks: Sequence[Task], in_flight: int) -> float:
    """Answers per second while `in_flight` requests are always on their way (closed loop); the ends are left out."""
    waiting = iter(tasks)
    done: list[float] = []

    async def one_after_another() -> None:
        for task in waiting:
            submission = await client.submit(task.kind, task.input, model=task.model, events="none")
            await client.result(submission, PATIENCE_SECONDS, check=True)
            done.append(time.perf_counter())

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(one_after_another())
    first, last = len(done) // 5, len(done) - 1 - in_flight // 2
    return (last - first) / (done[last] - done[first])
