"""The demo's tour over a running stack: a stream, a search, three hundred jobs, and a count by an independent reader."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import llmos
from llmos.cli import demo_report, device_tables
from llmos.cli.catalog import read_reply
from llmos.cli.demo_jobs import ANSWER_SECONDS, TENANTS, Answered, send_and_wait, workload
from llmos.cli.demo_reader import witness
from llmos.cli.inputs import MODELS
from llmos.cli.printer import StreamPrinter
from llmos.cli.session import Session
from llmos.client import Client, EmbedInput, Final, GenerateInput, TokenText
from llmos.infra.runtime.deadline import Deadline
from llmos.infra.settings import Settings
from llmos.schemas import topics
from llmos.schemas.errors import OperatorError
from llmos.schemas.results import Answer
from llmos.schemas.tasks import EmbedOutput
from llmos.schemas.telemetry import SchedulerReport

SENTENCES = Path(llmos.__file__).parent.parent / "examples" / "data" / "sentences.tsv"
PROMPT = "ROMEO:\nWhat light"
QUERY = "Leave this place right now."
SHOWN = 5
COUNTED_SECONDS = 5.0
LOOK_SECONDS = 0.2


async def tour(session: Session, settings: Settings, jobs: int) -> bool:
    """Runs the tour; whether every job ended as it should, with exactly one answer each."""
    sentences = await asyncio.to_thread(read_sentences, SENTENCES)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(settings, tenant=tenant)) for tenant in TENANTS]
        streamed, first_token_seconds = await generate(session, clients[0])
        found = await search(session, clients[0], sentences)
        _title(session, f"{jobs} jobs of three kinds, on three lanes, by three tenants")
        many = await send_and_wait(clients, workload(jobs, sentences), session.out)
        seen = await witness(settings.kafka.bootstrap, settings.kafka.topic_prefix + topics.RESULTS)
        everything = [streamed, *found, *many]
        report = await counted(clients[0], sum(len(answered.answer.epochs) for answered in everything))
    verdict = demo_report.judge(everything, seen)
    answers = [answered.answer for answered in many]
    _title(session, "counted by an independent reader, and where the time went")
    session.out.print(demo_report.summary(verdict, answers, first_token_seconds))
    session.out.print(demo_report.latencies(answers))
    session.out.print(device_tables.devices(report.devices))
    session.out.print(device_tables.rates(report.devices))
    for problem in verdict.problems:
        session.err.print(problem, style="red", markup=False)
    if not verdict.problems:
        session.out.print("every job has exactly one answer, and every answer is a result", style="green")
    return not verdict.problems


async def counted(client: Client, parts: int) -> SchedulerReport:
    """The report of the devices once heartbeats have told of all `parts`; the last one where they never do.

    A heartbeat comes after the answers that it counts; a worker that died has taken its count with it.
    """
    deadline = Deadline(COUNTED_SECONDS)
    while True:
        report = read_reply(await client.query("devices"), SchedulerReport)
        if sum(device.served for device in report.devices) >= parts or not deadline.left():
            return report
        await asyncio.sleep(LOOK_SECONDS)


async def generate(session: Session, client: Client) -> tuple[Answered, float]:
    """Streams a continuation to the terminal; gives the answer and the seconds to the first token."""
    _title(session, "a continuation, token by token")
    given = GenerateInput(prompt=PROMPT, max_tokens=80, temperature=0.8, seed=7)
    start = time.monotonic()
    model = MODELS["generate"]
    submission = await client.submit("generate", given, model=model, lane="interactive", events="tokens")
    session.out.print(PROMPT, end="", style="bold", markup=False)
    printer = StreamPrinter(session, states=False)
    first = 0.0
    answer: Answer | None = None
    async with aclosing(client.stream(submission, ANSWER_SECONDS)) as events:
        async for event in events:
            printer.show(event)
            if isinstance(event, TokenText):
                first = first or time.monotonic() - start
            elif isinstance(event, Final):
                answer = event.answer
    assert answer is not None, "a stream ends with its answer or raises"
    return Answered(submission, answer), first


async def search(session: Session, client: Client, sentences: Sequence[str]) -> list[Answered]:
    """Embeds the sentences and a question, and shows which of them are nearest."""
    _title(session, f"of {len(sentences)} sentences the nearest to “{QUERY}”")
    model = MODELS["embed"]
    submissions = [
        await client.submit("embed", EmbedInput(text=list(sentences)), model=model),
        await client.submit("embed", EmbedInput(text=QUERY), model=model, lane="interactive"),
    ]
    answers = await asyncio.gather(*(client.result(s, ANSWER_SECONDS) for s in submissions))
    vectors, asked = ([o.embedding for o in client.outputs(a) if isinstance(o, EmbedOutput)] for a in answers)
    if len(vectors) == len(sentences) and asked:
        for similarity, sentence in nearest(asked[0], vectors, sentences)[:SHOWN]:
            session.out.print(f"{similarity:.3f}  {sentence}", markup=False)
    return [Answered(s, a) for s, a in zip(submissions, answers, strict=True)]


def nearest(
    query: Sequence[float], vectors: Sequence[Sequence[float]], sentences: Sequence[str]
) -> list[tuple[float, str]]:
    """(cosine similarity, sentence), the nearest first."""
    found = zip((cosine(query, vector) for vector in vectors), sentences, strict=True)
    return sorted(found, key=lambda pair: -pair[0])


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """a·b / (|a| |b|)."""
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (math.hypot(*a) * math.hypot(*b))


def read_sentences(path: Path) -> list[str]:
    """The sentences, first column of a table with their attribution beside them.

    Raises:
        OperatorError: the file is not there: it is part of the repository, not of the installed package.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as problem:
        raise OperatorError(problem=f"the demo's sentences cannot be read ({problem}); run it in a checkout") from None
    return [line.split("\t")[0] for line in lines if line.strip()]


def _title(session: Session, text: str) -> None:
    session.out.print()
    session.out.rule(text, align="left")
