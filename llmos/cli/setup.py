"""config show, doctor, topics, version: what the system is made of here."""

from __future__ import annotations

import os
import platform
from typing import Annotated

import msgspec
import typer

import llmos
from llmos.cli import tables
from llmos.cli.attach import attach_settings
from llmos.cli.checks import all_checks
from llmos.cli.first_start import first_start
from llmos.cli.options import Json
from llmos.cli.origins import rows
from llmos.cli.row_checks import row_checks
from llmos.cli.session import run, session_of, settings_file
from llmos.schemas.topics import TABLE


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this family."""
    config = typer.Typer(no_args_is_help=True, help="The settings.")
    config.command("show")(config_command)
    app.add_typer(config, name="config")
    app.command("doctor")(doctor_command)
    app.command("topics")(topics_command)
    app.command("version")(version_command)


def config_command(
    context: typer.Context,
    json: Json = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say what each setting is for.")] = False,
) -> None:
    """Show every setting and where its value came from."""
    session = session_of(context)
    found = rows(session.settings(), session.overrides, os.environ, settings_file())
    if json:
        for row in found:
            session.line(row._asdict())
        return
    columns = ("setting", "value", "from", *(("what for",) if explain else ()))
    shown = [row if explain else row[:3] for row in found]
    session.out.print(tables.table("", columns, shown))


def doctor_command(context: typer.Context, json: Json = False) -> None:
    """Check what `llmos up` needs here, and of a system that runs the tenants; exit code 1 where something is missing or
    wrong."""
    session = session_of(context)
    settings = session.settings()
    found = all_checks(settings)
    if all(check.ok for check in found if check.what == "kafka broker"):
        found += row_checks(session, settings)
    if json:
        for check in found:
            session.line(check._asdict())
    else:
        rows_ = [(check.word, check.what, check.found) for check in found]
        session.out.print(tables.table("", ("", "what", "found"), rows_))
    if not all(check.ok for check in found):
        raise typer.Exit(1)


def topics_command(
    context: typer.Context,
    json: Json = False,
    make: Annotated[
        bool, typer.Option("--make", help="Make what a first start makes: topics, keyring, tenants.")
    ] = False,
) -> None:
    """Show the topics: key, partitions, how long records are kept, who writes and reads."""
    session = session_of(context)
    if make:
        run(first_start(attach_settings(session.settings())))
    if json:
        for topic in TABLE:
            session.line(msgspec.to_builtins(topic))
        return
    session.out.print(tables.topics())


def version_command(context: typer.Context) -> None:
    """Show the version."""
    session_of(context).out.print(f"llmos {llmos.__version__}, Python {platform.python_version()}", markup=False)
