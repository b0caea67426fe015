"""jobs list, show, explain, cancel: what the scheduler knows of jobs, and why they wait."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from llmos.cli import job_tables, tables
from llmos.cli.jobs import cancel_command
from llmos.cli.options import CredentialsFile, JobArgument, Json, SecretFile, Tenant
from llmos.cli.session import Session, run, session_of
from llmos.cli.showing import answer_object, as_it_came
from llmos.client import Answer, NoReply, NoSuchJob, QueryRefused, parse_reference

OfAll = Annotated[bool, typer.Option("--all", help="As an operator, with the keyring: of whichever tenant.")]


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this family."""
    jobs = typer.Typer(no_args_is_help=True, help="What the scheduler knows of jobs.")
    jobs.command("list")(list_command)
    jobs.command("show")(show_command)
    jobs.command("explain")(explain_command)
    jobs.command("cancel")(cancel_command)
    app.add_typer(jobs, name="jobs")


def list_command(
    context: typer.Context,
    tenant: Tenant = None,
    credentials: CredentialsFile = None,
    secret_file: SecretFile = None,
    of_all: OfAll = False,
    json: Json = False,
) -> None:
    """Show up to 100 live jobs of a tenant."""
    session = session_of(context)

    async def ask() -> dict[str, Any]:
        asker = session.operator() if of_all else session.client(tenant, credentials, secret_file)
        async with asker as client:
            return await client.query("jobs", as_operator=of_all)

    jobs = run(ask())["jobs"]
    if json:
        for job in jobs:
            session.line(job)
        return
    session.out.print(job_tables.submissions(jobs, "live jobs"))


def show_command(
    context: typer.Context,
    job: JobArgument,
    tenant: Tenant = None,
    credentials: CredentialsFile = None,
    secret_file: SecretFile = None,
    json: Json = False,
) -> None:
    """Show a job: its submissions and parts, and its answer with the time of each stage."""
    session = session_of(context)
    reference = parse_reference(job)

    async def ask() -> tuple[dict[str, Any], Answer | None]:
        async with session.client(tenant, credentials, secret_file) as client:
            answer = await as_it_came(client.look(reference))
            try:
                return await client.query("job", job=reference), answer
            except NoReply as problem:
                if answer is None:
                    raise
                session.note(str(problem))
                return {"job_id": reference.job_id.hex(), "submissions": []}, answer
            except QueryRefused as problem:
                session.note(str(problem))
                return {"job_id": reference.job_id.hex(), "submissions": []}, answer

    body, answer = run(ask())
    if json:
        session.line({**body, "answer": answer_object(answer) if answer else None})
        return
    _show_live(session, body)
    if answer is None:
        session.note("no answer yet")
        return
    error = f" ({answer.error.code}: {answer.error.message})" if answer.error else ""
    devices = ", ".join(answer.devices) or "no device"
    session.out.print(f"answer: {answer.status}{error}, by {devices}", markup=False)
    session.out.print(tables.stages(answer))


def explain_command(
    context: typer.Context,
    job: JobArgument,
    tenant: Tenant = None,
    credentials: CredentialsFile = None,
    secret_file: SecretFile = None,
    of_all: OfAll = False,
    json: Json = False,
) -> None:
    """Say why a job waits: of each part its place in the queue, the rule that holds it, when it should begin and end."""
    session = session_of(context)
    reference = parse_reference(job)

    async def ask() -> tuple[dict[str, Any], Answer | None]:
        asker = session.operator() if of_all else session.client(tenant, credentials, secret_file)
        async with asker as client:
            body = await client.query("explain", job=reference, as_operator=of_all)
            # What is not live has ended, or was never there: its answer tells.
            return body, None if body["submissions"] else await as_it_came(client.peek(reference))

    body, answer = run(ask())
    if not body["submissions"] and answer is None:
        raise NoSuchJob(job=reference)
    if json:
        session.line({**body, "status": answer.status if answer else None})
        return
    _show_live(session, body)
    if answer is not None:
        session.out.print(f"it waits for nothing: it has ended as {answer.status}", markup=False)


def _show_live(session: Session, body: dict[str, Any]) -> None:
    if body["submissions"]:
        session.out.print(
            job_tables.submissions(body["submissions"], f"live submissions of {body.get('job_id', 'the job')}")
        )
    for submission in body["submissions"]:
        if submission["parts"]:
            session.out.print(job_tables.parts(submission, time.time()))
