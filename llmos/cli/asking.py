"""status: the services of this machine, and what the scheduler says of the whole."""

from __future__ import annotations

from typing import Any

import typer

from llmos.cli import device_tables, tables
from llmos.cli.catalog import read_reply
from llmos.cli.options import Json
from llmos.cli.services import local_stack
from llmos.cli.session import Session, run, session_of
from llmos.client.queries import What
from llmos.schemas.telemetry import SchedulerReport


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("status")(status_command)


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
    body = run(ask(session, "status"))
    report = read_reply(body, SchedulerReport)
    if json:
        session.line(
            {
                **body,
                "kafka": local.kafka if local else settings.kafka.bootstrap,
                "redis": local.redis if local else settings.redis.url,
                "services": [running._asdict() for running in local.services] if local else [],
            }
        )
        return
    session.out.print(tables.status(report))
    session.out.print(device_tables.devices(report.devices))


async def ask(session: Session, what: What) -> dict[str, Any]:
    """Asks the scheduler one question."""
    async with session.operator() as client:
        return await client.query(what)
