"""submit, attach, result, cancel: what a tenant does with jobs."""

from __future__ import annotations

import sys
from contextlib import AbstractAsyncContextManager, aclosing
from enum import StrEnum
from typing import Annotated

import typer

from llmos.cli.inputs import MODELS, in_words_of_flags, input_of, messages_of, texts_of
from llmos.cli.options import CredentialsFile, JobArgument, Json, Patience, SecretFile, Tenant
from llmos.cli.printer import StreamPrinter
from llmos.cli.session import Session, run, session_of
from llmos.cli.showing import as_it_came, event_object, show_answer
from llmos.client import Answer, Client, Final, JobFailed, JobRef, NoReply, NoSuchJob, Reference, Task, parse_reference
from llmos.schemas.errors import InvalidRequest
from llmos.schemas.job import Events
from llmos.schemas.limits import CHOICES, OUTPUT_TOKENS, TIMEOUT_SECONDS, TOP_LOGPROBS
from llmos.schemas.tasks import KindName


class ReplyChoice(StrEnum):
    """Whose key opens the answer."""

    TENANT = "tenant"
    EPHEMERAL = "ephemeral"


class LaneChoice(StrEnum):
    """The lanes, most urgent first."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this family."""
    app.command("submit")(submit_command)
    app.command("attach")(attach_command)
    app.command("result")(result_command)
    app.command("cancel")(cancel_command)


def submit_command(
    context: typer.Context,
    kind: Annotated[KindName, typer.Argument(help="What to do.")],
    text: Annotated[
        list[str] | None, typer.Argument(help="One text, or several as a list; - reads lines from standard input.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Name, alias or identity; by default the model that ships for the kind.")
    ] = "",
    stream: Annotated[bool, typer.Option("--stream", help="Show tokens and states as they come.")] = False,
    lane: Annotated[LaneChoice, typer.Option(help="How urgent.")] = LaneChoice.STANDARD,
    priority: Annotated[int, typer.Option(min=0, max=9, help="Within the lane; 9 is the most urgent.")] = 4,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=TIMEOUT_SECONDS, help="The job expires after so many seconds; else as the tenant's."
        ),
    ] = None,
    tenant: Tenant = None,
    credentials: CredentialsFile = None,
    secret_file: SecretFile = None,
    clear: Annotated[bool, typer.Option("--clear", help="Send in the clear, where the tenant may.")] = False,
    reply: Annotated[
        ReplyChoice,
        typer.Option(help="Whose key opens the answer: the tenant's, or one that only this command has while it runs."),
    ] = ReplyChoice.TENANT,
    hybrid: Annotated[
        bool, typer.Option("--hybrid", help="An ephemeral key of ML-KEM-768 with X25519 instead of X25519 alone.")
    ] = False,
    json: Json = False,
    max_tokens: Annotated[int, typer.Option(min=1, max=OUTPUT_TOKENS, help="generate: tokens per text, at most.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, max=10, help="generate: 0 takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="generate: of the random choice.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="generate: ends before this text; repeatable.")] = None,
    message: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[ROLE:]TEXT", help="generate: a turn of a conversation, by the user if no role; repeatable."
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(help="generate: the conversation's first turn, by the system.")] = None,
    n: Annotated[int, typer.Option("--n", min=1, max=CHOICES, help="generate: outputs per text.")] = 1,
    logprobs: Annotated[
        int | None,
        typer.Option(min=0, max=TOP_LOGPROBS, help="generate: log-probabilities, and of so many likeliest tokens."),
    ] = None,
    top_k: Annotated[int, typer.Option(min=0, help="generate: only so many likeliest tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(max=1, help="generate: only the likeliest that make up this share.")] = 1.0,
    min_p: Annotated[
        float, typer.Option(min=0, max=1, help="generate: no token less likely than this share of the likeliest.")
    ] = 0.0,
    presence_penalty: Annotated[
        float, typer.Option(min=-2, max=2, help="generate: off the logits of tokens that the output has.")
    ] = 0.0,
    frequency_penalty: Annotated[
        float, typer.Option(min=-2, max=2, help="generate: the same, once for each time that it has them.")
    ] = 0.0,
    repetition_penalty: Annotated[
        float, typer.Option(max=10, help="generate: divides the logits of tokens that were there; 1: none.")
    ] = 1.0,
    set_input: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Any other field of the kind's input; repeatable.")
    ] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="Names the work: sent twice, done once.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the answer, or only print the job.")] = True,
) -> None:
    """Send a job and show its answer."""
    session = session_of(context)
    messages = messages_of(system, message or ())
    texts = texts_of(text or (), sys.stdin.buffer) if text or not messages else []
    events: Events = "tokens" if stream else "states"
    options = {
        "messages": messages or None, "max_tokens": max_tokens, "temperature": temperature, "seed": seed, "stop": stop,
        "n": n, "logprobs": logprobs, "top_k": top_k, "top_p": top_p, "min_p": min_p,
        "presence_penalty": presence_penalty, "frequency_penalty": frequency_penalty,
        "repetition_penalty": repetition_penalty,
    }  # fmt: skip
    input_ = input_of(kind, texts, options, set_input or ())
    task = Task(
        kind=kind,
        input=input_,
        model=model or MODELS.get(kind, ""),
        lane=lane.value,
        priority=priority,
        timeout=timeout,
        idempotency_key=idempotency_key,
        events=events,
        clear=clear,
        reply=reply.value,
        hybrid=hybrid,
    )
    if not wait and reply is ReplyChoice.EPHEMERAL:
        problem = "the key ends with this command, so nobody could ever read the answer; leave --no-wait out"
        raise InvalidRequest(where="--reply ephemeral", problem=problem)
    outputs = max(len(texts), 1) * getattr(input_, "n", 1)
    client = session.client(tenant, credentials, secret_file, clear=clear)
    run(_submit(session, task, client, outputs=outputs, wait=wait, stream=stream, json=json))


async def _submit(
    session: Session,
    task: Task,
    connection: AbstractAsyncContextManager[Client],
    *,
    outputs: int,
    wait: bool,
    stream: bool,
    json: bool,
) -> None:
    async with connection as client:
        try:
            (submission,) = await client.submit_many([task])
        except InvalidRequest as problem:
            raise in_words_of_flags(problem) from None
        if not wait:
            if json:
                session.line({"job": submission.job_id.hex(), "reference": str(submission)})
            else:
                session.out.print(str(submission), markup=False)
            return
        session.note(f"job {submission}")
        # A little beyond the job's own time-out, so that its own answer says that it expired.
        patience = (TIMEOUT_SECONDS if task.timeout is None else task.timeout) + 30.0
        if stream:
            await _follow(session, client, submission, patience, json=json, outputs=outputs)
        else:
            answer = await client.result(submission, patience)
            show_answer(session, answer, json=json)
            _check(answer)


def attach_command(
    context: typer.Context,
    job: JobArgument,
    tenant: Tenant = None,
    credentials: CredentialsFile = None,
    secret_file: SecretFile = None,
    timeout: Patience = 600.0,
    json: Json = False,
) -> None:
    """Follow a job's stream to its end; also after it has ended."""
    session = session_of(context)

    async def attach() -> None:
        reference = parse_reference(job)
        async with session.client(tenant, credentials, secret_file) as client:
            await as_it_came(client.look(reference))
            await _follow(session, client, reference, timeout, json=json)

    run(attach())


async def _follow(
    session: Session, client: Client, job: Reference, timeout: float, *, json: bool, outputs: int = 1
) -> None:
    printer = StreamPrinter(session, outputs=outputs)
    answer: Answer | None = None
    async with aclosing(client.stream(job, timeout)) as events:
        async for event in events:
            if json:
                session.line(event_object(event))
            else:
                printer.show(event)
            if isinstance(event, Final):
                answer = event.answer
    if answer is not None:
        _check(answer)


def result_command(
    context: typer.Context,
    job: JobArgument,
    tenant: Tenant = None,
    credentials: CredentialsFile = None,
    secret_file: SecretFile = None,
    timeout: Patience = 600.0,
    json: Json = False,
) -> None:
    """Show a job's answer; waits for it where it is not there yet."""
    session = session_of(context)

    async def result() -> Answer:
        reference = parse_reference(job)
        async with session.client(tenant, credentials, secret_file) as client:
            answer = await client.look(reference)
            if answer is None or answer.status == "pointer":
                answer = await client.result(reference, timeout)
            return answer

    answer = run(result())
    show_answer(session, answer, json=json)
    _check(answer)


def cancel_command(
    context: typer.Context,
    job: JobArgument,
    tenant: Tenant = None,
    credentials: CredentialsFile = None,
    secret_file: SecretFile = None,
) -> None:
    """Ask to end a job; its answer says what became of it."""
    session = session_of(context)

    async def cancel() -> Answer | None:
        reference = JobRef(parse_reference(job).job_id)  # a cancel hits every submission of the job
        async with session.client(tenant, credentials, secret_file) as client:
            try:
                # Whoever signs the cancel wrongly gets no answer to it, so that a question comes first.
                await client.query("job", job=reference)
            except NoReply:
                await client.cancel(reference)  # a scheduler that is away reads it when it comes
                raise
            try:
                answer = await as_it_came(client.look(reference))
            except NoSuchJob:
                session.note("nothing live has that id; a submission still on its way is cancelled all the same")
                await client.cancel(reference)
                raise
            await client.cancel(reference)
            return answer

    if (answer := run(cancel())) is not None:
        session.note(f"it has ended already: {answer.status}; what was submitted again since is cancelled")
    else:
        session.note("asked; `llmos result` shows the end")


def _check(answer: Answer) -> None:
    if answer.status != "completed":
        raise JobFailed(answer)
