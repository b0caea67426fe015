"""jobs show, jobs list, status, devices, models list: what the scheduler says of the system."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import typer

from llmos.cli import tables
from llmos.cli.jobs import JobArgument, Json, SecretFile, Tenant
from llmos.cli.services import local_stack
from llmos.cli.session import Session, run, session_of
from llmos.cli.showing import answer_object
from llmos.client import Answer, NoReply, QueryRefused, parse_reference
from llmos.client.client import What
from llmos.schemas.catalog import Model
from llmos.schemas.errors import Malformed
from llmos.schemas.telemetry import SchedulerReport

T = TypeVar("T")


class Catalog(msgspec.Struct):
    """The reply to a query for models."""

    models: list[Model]
    aliases: dict[str, str]


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this family."""
    app.command("status")(status_command)
    app.command("devices")(devices_command)
    jobs = typer.Typer(no_args_is_help=True, help="What the scheduler knows of jobs.")
    jobs.command("show")(show_command)
    jobs.command("list")(list_command)
    app.add_typer(jobs, name="jobs")
    models = typer.Typer(no_args_is_help=True, help="The models of the catalog.")
    models.command("list")(models_command)
    app.add_typer(models, name="models")


def status_command(context: typer.Context, json: Json = False) -> None:
    """Show the services of this machine, what is live, what waits and why, and the devices."""
    session = session_of(context)
    settings = session.settings()
    local = run(local_stack(settings))
    if not json:
        # Before the scheduler is asked, which may be what is away.
        session.out.print(
            tables.addresses(
                local.kafka if local else settings.kafka.bootstrap, local.redis if local else settings.redis.url
            )
        )
        if local is not None:
            session.out.print(tables.services(local.services))
    body = run(_ask(session, "status"))
    report = read_reply(body, SchedulerReport)
    if json:
        session.line({**body, "services": [running._asdict() for running in local.services] if local else []})
        return
    session.out.print(tables.status(report))
    session.out.print(tables.devices(report.devices))


def devices_command(context: typer.Context, json: Json = False) -> None:
    """Show the devices with λ, μ, ρ and the models that are resident."""
    session = session_of(context)
    report = read_reply(run(_ask(session, "devices")), SchedulerReport)
    if json:
        for device in report.devices:
            session.line(device)
        return
    session.out.print(tables.devices(report.devices))
    session.out.print(tables.rates(report.devices))


def models_command(context: typer.Context, json: Json = False) -> None:
    """Show the models that can be asked for."""
    session = session_of(context)
    catalog = read_reply(run(_ask(session, "models")), Catalog)
    if json:
        for model in catalog.models:
            aliases = sorted(alias for alias, identity in catalog.aliases.items() if identity == model.identity)
            session.line({**msgspec.structs.asdict(model), "aliases": aliases})
        return
    session.out.print(tables.models(catalog.models, catalog.aliases))


def list_command(
    context: typer.Context, tenant: Tenant = "demo", secret_file: SecretFile = None, json: Json = False
) -> None:
    """Show up to 100 live jobs."""
    session = session_of(context)

    async def ask() -> dict[str, Any]:
        async with session.client(tenant, secret_file) as client:
            return await client.query("jobs")

    jobs = run(ask())["jobs"]
    if json:
        for job in jobs:
            session.line(job)
        return
    session.out.print(tables.submissions(jobs, "live jobs"))


def show_command(
    context: typer.Context,
    job: JobArgument,
    tenant: Tenant = "demo",
    secret_file: SecretFile = None,
    json: Json = False,
) -> None:
    """Show a job: its submissions and parts, and its answer with the time of each stage."""
    session = session_of(context)
    reference = parse_reference(job)

    async def ask() -> tuple[dict[str, Any], Answer | None]:
        async with session.client(tenant, secret_file) as client:
            answer = await client.look(reference)
            try:
                return await client.query("job", job=reference), answer
            except (NoReply, QueryRefused) as problem:
                session.note(str(problem))
                return {"job_id": reference.job_id.hex(), "submissions": []}, answer

    body, answer = run(ask())
    if json:
        session.line({**body, "answer": answer_object(answer) if answer else None})
        return
    _show(session, body, answer)


def _show(session: Session, body: dict[str, Any], answer: Answer | None) -> None:
    if body["submissions"]:
        session.out.print(tables.submissions(body["submissions"], f"live submissions of {body['job_id']}"))
    for submission in body["submissions"]:
        if submission["parts"]:
            session.out.print(tables.parts(submission))
    if answer is None:
        session.note("no answer yet")
        return
    error = f" ({answer.error.code}: {answer.error.message})" if answer.error else ""
    devices = ", ".join(answer.devices) or "no device"
    session.out.print(f"answer: {answer.status}{error}, by {devices}", markup=False)
    session.out.print(tables.stages(answer))


async def _ask(session: Session, what: What) -> dict[str, Any]:
    async with session.client("demo") as client:
        return await client.query(what)


def read_reply(body: dict[str, Any], type_: type[T]) -> T:
    """The body of a reply as a typed value.

    Raises:
        Malformed: it is not one.
    """
    try:
        return msgspec.convert(body, type=type_)
    except msgspec.ValidationError as problem:
        raise Malformed(problem=f"the scheduler's reply: {problem}") from None
