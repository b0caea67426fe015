"""The demo's work: jobs of three kinds on three lanes for three tenants, and the wait for their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from llmos.cli.inputs import MODELS
from llmos.client import Answer, Client, EchoInput, EmbedInput, GenerateInput, Submission, Task
from llmos.schemas.job import LANES

TENANTS = ("demo", "acme", "globex")
ANSWER_SECONDS = 150.0
"""The demo is over in three minutes, or something is wrong."""
PROMPTS = ("ROMEO:\n", "To be, or not", "My lord,\n", "KING HENRY:\n", "What say you")


class Answered(NamedTuple):
    """A submission with its answer."""

    submission: Submission
    answer: Answer


def workload(count: int, sentences: Sequence[str]) -> list[Task]:
    """`count` jobs: of ten, five echo, three embed and two generate; the lanes take turns."""
    return [_task(i, sentences) for i in range(count)]


def _task(i: int, sentences: Sequence[str]) -> Task:
    lane = LANES[i % len(LANES)]
    sentence = sentences[i % len(sentences)]
    place = i % 10
    if place < 5:
        return Task("echo", EchoInput(text=f"{i}: {sentence}"), lane=lane, timeout=ANSWER_SECONDS)
    if place < 8:
        embed = EmbedInput(text=sentence)
        return Task("embed", embed, MODELS["embed"], lane=lane, timeout=ANSWER_SECONDS)
    generate = GenerateInput(prompt=PROMPTS[i % len(PROMPTS)], max_tokens=16, temperature=0.8, seed=i)
    return Task("generate", generate, MODELS["generate"], lane=lane, timeout=ANSWER_SECONDS)


async def send_and_wait(clients: Sequence[Client], tasks: Sequence[Task], console: Console) -> list[Answered]:
    """Deals the tasks out to the tenants' clients, all at once, and waits for every answer with a progress bar."""
    columns = (TextColumn("answers"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("answers", total=len(tasks))

        async def share(i: int, client: Client) -> list[Answered]:
            submissions = await client.submit_many(tasks[i :: len(clients)])
            return await asyncio.gather(*(wait(client, submission) for submission in submissions))

        async def wait(client: Client, submission: Submission) -> Answered:
            answer = await client.result(submission, ANSWER_SECONDS)
            progress.advance(bar)
            return Answered(submission, answer)

        shares = await asyncio.gather(*(share(i, client) for i, client in enumerate(clients)))
    return [answered for share_ in shares for answered in share_]
