"""up, down, run: starting and stopping the system."""

from __future__ import annotations

import asyncio
import importlib
import os
import select
import signal
from enum import StrEnum
from typing import Annotated

import typer

from llmos.cli.session import Session, run, session_of
from llmos.cli.up import up
from llmos.infra.embedded.directory import holder
from llmos.infra.runtime.main import check_extra, leave_no_core, run_service
from llmos.infra.settings import Settings
from llmos.pipelines.engine.specs import device_label
from llmos.schemas.errors import OperatorError


class Service(StrEnum):
    """The services, each a process."""

    INGEST = "ingest"
    VERIFY = "verify"
    SCHEDULER = "scheduler"
    WORKER = "worker"
    AGGREGATOR = "aggregator"
    NODE = "node"


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this family."""
    app.command("up")(up_command)
    app.command("down")(down_command)
    app.command("run")(run_command)


def up_command(context: typer.Context) -> None:
    """Start the system here: Kafka, Redis and all services; Ctrl-C stops it."""
    session = session_of(context)
    check_extra()
    leave_no_core()  # the first start makes keys; broker and Redis inherit it
    run(_up(session, session.settings()))


async def _up(session: Session, settings: Settings) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop)

    async def ready(attached: Settings) -> None:
        session.out.print(
            f"ready: kafka {attached.kafka.bootstrap}, redis {attached.redis.url}; Ctrl-C stops", markup=False
        )

    await up(settings, stop=stop, on_ready=ready, report=session.note)


def stop_on_signals(stop: asyncio.Event) -> None:
    """Sets `stop` at Ctrl-C and SIGTERM instead of ending the process."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)


def down_command(
    context: typer.Context,
    timeout: Annotated[float, typer.Option(help="How long to wait for the end, in seconds.")] = 60.0,
) -> None:
    """Stop the system of the state directory and wait until it has ended."""
    session = session_of(context)
    directory = session.settings().state_directory
    pid = holder(directory)
    if not pid:
        session.out.print(f"nothing runs in {directory}", markup=False)
        return
    if not end(pid, timeout):
        raise OperatorError(problem=f"process {pid} still stops after {timeout:.0f} s; see {directory}/logs")
    session.out.print(f"stopped (process {pid})", markup=False)


def end(pid: int, timeout: float) -> bool:
    """Tells a process to end and waits at most `timeout` seconds; whether it has ended.

    Raises:
        OperatorError: it belongs to another user.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True  # it ended while we looked
    try:
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        return bool(select.select([handle], [], [], timeout)[0])
    except ProcessLookupError:
        return True
    except PermissionError:
        raise OperatorError(problem=f"process {pid} belongs to another user") from None
    finally:
        os.close(handle)


def run_command(context: typer.Context, service: Annotated[Service, typer.Argument(help="Which service.")]) -> None:
    """Run one service in this process, as `llmos up` and compose do."""
    settings = session_of(context).settings()
    check_extra()
    # The one import by name: a process loads the service that it runs, and only workers load torch.
    body = importlib.import_module(f"llmos.services.{service.value}.app").run
    raise typer.Exit(run_service(service.value, instance_of(service, settings), settings, body))


def instance_of(service: Service, settings: Settings) -> str | None:
    """What tells this process from others of the same service: a worker's device, else the place among n."""
    if service is Service.WORKER:
        return f"{settings.node.name}.{device_label(settings.worker.device)}"
    return str(settings.instance.i) if settings.instance.n > 1 else None
