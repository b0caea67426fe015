"""Streams over a log in memory: live, again, after the end, over moves and pointers."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from llmos.client import Client, Event, Final, Moved, NoAnswer, StateChanged, TokenText
from llmos.client.references import Reference
from llmos.infra.log.memory import MemoryBroker
from llmos.schemas.job import ErrorInfo
from llmos.schemas.tasks import GenerateOutput, TokenLogprob, TopToken

PATIENCE = 20.0


def ended(text: str) -> GenerateOutput:
    return GenerateOutput(text=text, finish="stop", tokens=len(text))


async def all_of(client: Client, job: Reference) -> list[Event]:
    async with asyncio.timeout(PATIENCE):
        return [event async for event in client.stream(job, PATIENCE)]


async def test_events_come_as_they_are_written(client: Client, script: Any) -> None:
    """Each event is shown before the next one is written; the answer ends the stream."""
    submission = await client.submit("generate", {"prompt": "x"}, events="tokens")
    async with aclosing(client.stream(submission, PATIENCE)) as events:
        await script.state(submission, "running")
        running = await anext(events)
        assert isinstance(running, StateChanged)
        assert running.state == "running"
        for sequence, text in enumerate("abc"):
            await script.tokens(submission, 1, sequence, text, finish="stop" if text == "c" else "")
            event = await anext(events)
            assert isinstance(event, TokenText)
            assert event.text == text
        answer = await script.answer(submission, ended("abc"), kind="generate", epochs=[1])
        assert await anext(events) == Final(answer, {})
        assert await anext(events, None) is None


async def test_tokens_before_the_answer_are_never_lost(client: Client, script: Any) -> None:
    """When the answer is read first, what lies on the stream before it is still shown."""
    submission = await client.submit("generate", {"prompt": "x"}, events="tokens")
    answer = await script.answer(submission, ended("abcdef"), kind="generate", epochs=[1])
    assert await client.result(submission, PATIENCE) == answer
    for sequence, text in enumerate("abcdef"):
        await script.tokens(submission, 1, sequence, text)
    events = await all_of(client, submission)
    assert "".join(event.text for event in events if isinstance(event, TokenText)) == "abcdef"
    assert events[-1] == Final(answer, {})


@pytest.mark.parametrize("by", ["reference", "job id"])
async def test_another_client_sees_it_all_again_after_the_end(
    client: Client, script: Any, broker: MemoryBroker, by: str
) -> None:
    """A stream is read from what the log keeps, by whoever names the job; other jobs' events are not shown."""
    other_job = await client.submit("generate", {"prompt": "y"}, events="tokens", idempotency_key="y")
    submission = await client.submit("generate", {"prompt": "x"}, events="tokens")
    for to, text in ((other_job, "NO"), (submission, "yes")):
        await script.tokens(to, 1, 0, text, partition=submission.partition)
    answer = await script.answer(submission, ended("yes"), kind="generate", epochs=[1])
    async with Client.over(broker.connect("other")) as other:
        events = await all_of(other, str(submission) if by == "reference" else submission.job_id)
    assert [event.text for event in events if isinstance(event, TokenText)] == ["yes"]
    assert events[-1] == Final(answer, {})


async def test_a_move_is_told_and_the_final_agrees(client: Client, script: Any) -> None:
    """After a worker's death the next attempt's text is shown from where it goes on."""
    submission = await client.submit("generate", {"prompt": "x"}, events="tokens")
    await script.tokens(submission, 1, 0, "a")
    await script.tokens(submission, 1, 1, "b")
    await script.tokens(submission, 2, 0, "B", first_token=1, resume_at=1)
    await script.tokens(submission, 1, 2, "c")
    answer = await script.answer(submission, ended("aB"), kind="generate", epochs=[2])
    events = await all_of(client, submission)
    assert Moved(output_index=0, epoch=2, resume_at=1, text="a") in events
    assert [event.text for event in events if isinstance(event, TokenText)] == ["a", "b", "B"]
    assert events[-1] == Final(answer, {})


async def test_where_nothing_was_streamed_the_final_brings_the_text(client: Client, script: Any) -> None:
    """A job that was submitted without events has a stream of one event."""
    submission = await client.submit("generate", {"prompt": "x"}, events="none")
    answer = await script.answer(submission, ended("abc"), kind="generate", epochs=[1])
    assert await all_of(client, submission) == [Final(answer, {0: "abc"})]


async def test_a_refusal_ends_the_stream(client: Client, script: Any) -> None:
    """The final carries the error."""
    submission = await client.submit("generate", {"prompt": "x"})
    error = ErrorInfo(code="unknown_model", message="no")
    answer = await script.answer(submission, status="refused", error=error)
    assert await all_of(client, submission) == [Final(answer, {})]


async def test_a_pointer_leads_to_the_first_submission_stream(
    client: Client, script: Any, broker: MemoryBroker
) -> None:
    """A repeated key streams what its first submission streams, from its beginning."""
    async with Client.over(broker.connect("other")) as other:
        one = await other.submit("generate", {"prompt": "x"}, idempotency_key="k", events="tokens")
        await script.tokens(one, 1, 0, "a")
        two = await client.submit("generate", {"prompt": "x"}, idempotency_key="k", events="tokens")
        await script.state(two, "pointer")
        await script.answer(two, status="pointer", original=one.origin, original_s=1)
        following = asyncio.create_task(all_of(client, two))
        await script.tokens(one, 1, 1, "b", finish="stop")
        answer = await script.answer(one, ended("ab"), kind="generate", epochs=[1])
        events = await following
    assert [event.text for event in events if isinstance(event, TokenText)] == ["a", "b"]
    assert events[-1] == Final(answer, {})


async def test_a_stream_has_a_time_out_and_may_be_left(client: Client, script: Any) -> None:
    """Without an end the stream raises; a reader that leaves early leaves nothing behind."""
    submission = await client.submit("generate", {"prompt": "x"})
    await script.state(submission, "running")
    with pytest.raises(NoAnswer):
        async for _ in client.stream(submission, 0.01):
            pass
    before = asyncio.all_tasks()
    async with aclosing(client.stream(submission, PATIENCE)) as events:
        await anext(events)
    assert asyncio.all_tasks() == before


async def test_choices_of_a_prompt_are_streamed_side_by_side(client: Client, script: Any) -> None:
    """Each output has its own sequence of events; the answer groups them by prompt, with their log-probabilities."""
    submission = await client.submit("generate", {"prompt": "x", "n": 2, "logprobs": 1}, events="tokens")
    for sequence, text in enumerate("ab"):
        for index in (0, 1):
            await script.tokens(submission, 1, sequence, f"{text}{index}", output_index=index)
    logprobs = [TokenLogprob(token=5, text="a0", logprob=-0.5, top=[TopToken(5, "a0", -0.5)])]
    first = GenerateOutput(text="a0b0", finish="stop", tokens=2, logprobs=logprobs)
    answer = await script.answer(submission, first, ended("a1b1"), kind="generate", epochs=[1])
    events = await all_of(client, submission)
    shown = {
        index: "".join(e.text for e in events if isinstance(e, TokenText) and e.output_index == index)
        for index in (0, 1)
    }
    assert shown == {0: "a0b0", 1: "a1b1"}
    assert events[-1] == Final(answer, {})
    assert client.choices(answer, 2) == [[first, ended("a1b1")]]
    with pytest.raises(ValueError, match="3 for each"):
        client.choices(answer, 3)


async def test_what_a_job_waits_for_is_told(client: Client, script: Any) -> None:
    """The rule with need and have, the position, when it should begin; of loading, bytes of bytes."""
    submission = await client.submit("generate", {"prompt": "x"}, events="tokens")
    waits = {"rule": "window", "need": 1.0, "have": 0.0, "position": 3, "predicted_start_at": 50.0}
    await script.state(submission, "waiting", **waits)
    await script.state(submission, "loading", sequence=1, done=5, of=10)
    await script.answer(submission, ended(""), kind="generate", epochs=[1])
    waiting, loading, _ = await all_of(client, submission)
    assert isinstance(waiting, StateChanged)
    assert waits.items() <= waiting._asdict().items()
    assert isinstance(loading, StateChanged)
    assert (loading.done, loading.of) == (5, 10)
