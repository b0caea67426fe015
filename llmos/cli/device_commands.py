"""devices, drain: what the devices do, and taking one out of service."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from llmos.cli import device_tables
from llmos.cli.asking import ask
from llmos.cli.catalog import read_reply
from llmos.cli.options import Json, Patience
from llmos.cli.session import Session, run, session_of
from llmos.cli.waiting import Progress, until
from llmos.client import Client
from llmos.schemas.telemetry import DeviceReport, SchedulerReport


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this family."""
    app.command("devices")(devices_command)
    app.command("drain")(drain_command)


def devices_command(context: typer.Context, json: Json = False) -> None:
    """Show the devices: λ, μ, ρ, windows and delays, what is resident, how busy they and their machines are."""
    session = session_of(context)
    report = read_reply(run(ask(session, "devices")), SchedulerReport)
    if json:
        for device in report.devices:
            session.line(device)
        return
    session.out.print(device_tables.devices(report.devices))
    for table in (
        device_tables.residents(report.devices, report.at),
        device_tables.rates(report.devices),
        device_tables.load(report.devices),
    ):
        if table.row_count:
            session.out.print(table)


def drain_command(
    context: typer.Context,
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="Its name, as `llmos devices` shows it.")],
    undo: Annotated[bool, typer.Option("--undo", help="Let it take work again.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until nothing is in flight on it.")] = False,
    timeout: Patience = 600.0,
    json: Json = False,
) -> None:
    """Let a device finish what it has and give it no more: no job fails, and its worker may then be stopped."""
    session = session_of(context)
    reply = run(_drain(session, device, undo=undo, timeout=timeout if wait and not undo else None))
    if json:
        session.line(reply)
    elif undo:
        session.note(f"{device} takes work again")
    elif wait:
        session.note(f"{device} is empty")
    else:
        session.note(f"{device} takes no more work; tasks in flight there: {reply.get('in_flight', 0)}")


async def _drain(session: Session, device: str, *, undo: bool, timeout: float | None) -> dict[str, Any]:
    """Drains, or undoes it; with a time-out waits until the device is empty. The reply, with what is in flight then."""
    async with session.operator() as client:
        reply = await client.drain(device, undo=undo)
        if timeout is None:
            return reply

        async def look() -> Progress:
            report = await _report_of(client, device)
            if report is None or not report.alive:
                return Progress(True)  # it is gone, and with it what it had: that runs elsewhere
            done = report.draining and not report.in_flight
            return Progress(done, f"{device}: {report.in_flight} tasks in flight")

        await until(session, f"draining {device}", look, timeout)
        return {**reply, "in_flight": 0}


async def _report_of(client: Client, device: str) -> DeviceReport | None:
    report = read_reply(await client.query("devices"), SchedulerReport)
    return next((found for found in report.devices if found.device == device), None)
