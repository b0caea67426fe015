"""`llmos demo`: the whole system on a temporary state directory, shown by the tour; the directory is kept on failure."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from llmos.cli.demo_tour import tour
from llmos.cli.running import stop_on_signals
from llmos.cli.session import Session, run, session_of
from llmos.cli.up import up
from llmos.infra.settings import Settings, load


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("demo")(demo_command)


def demo_command(
    context: typer.Context,
    jobs: Annotated[int, typer.Option(min=1, help="How many jobs the tour sends.")] = 300,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the state directory also when all went well.")] = False,
) -> None:
    """Start everything, show it at work, prove one answer per job, stop it; takes a minute or two."""
    session = session_of(context)
    directory = Path(tempfile.mkdtemp(prefix="llmos-demo-"))
    settings = load(**{**session.overrides, "state_directory": str(directory)})
    well = False
    try:
        well = run(_demo(session, settings, jobs))
    finally:
        if well and not keep:
            shutil.rmtree(directory)
        else:
            session.note(f"state and logs are kept in {directory}")
    if not well:
        raise typer.Exit(1)


async def _demo(session: Session, settings: Settings, jobs: int) -> bool:
    stop = asyncio.Event()
    stop_on_signals(stop)
    well = False

    async def show(attached: Settings) -> None:
        nonlocal well
        try:
            well = await tour(session, attached, jobs)
        finally:
            stop.set()

    await up(settings, stop=stop, on_ready=show, report=session.note)
    return well
