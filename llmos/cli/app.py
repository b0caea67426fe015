"""The command: global options, the families of commands, errors as messages and exit codes.

Exit codes: 0 it went well; 1 an error; 2 the job was refused or failed, or the command line is wrong; 70 a bug;
78 the operator must act; 130 interrupted.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from typer.core import TyperGroup

from llmos.cli import (
    asking,
    dead_commands,
    demo_start,
    device_commands,
    job_commands,
    jobs,
    key_commands,
    model_commands,
    running,
    setup,
    tenant_commands,
    usage_commands,
)
from llmos.cli.overrides import parse_overrides
from llmos.cli.session import Session, use_config
from llmos.cli.showing import error_object
from llmos.client.errors import CommandRefused, DeadLettered, JobFailed
from llmos.schemas.errors import FailedError, LlmosError, OperatorError, RefusedError

BUG = 70
OPERATOR = 78
INTERRUPTED = 130


class _Group(TyperGroup):
    """Turns what llmos raises into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command that was named."""
        try:
            return super().invoke(ctx)
        except LlmosError as problem:
            session = ctx.find_object(Session)
            if session is not None and session.json and not isinstance(problem, JobFailed):  # whose answer is printed
                session.line({"error": error_object(problem)})
            typer.echo(f"llmos: {problem}", err=True)
            raise typer.Exit(exit_code(problem)) from None


def exit_code(problem: LlmosError) -> int:
    """The exit code of an error."""
    if isinstance(problem, OperatorError):
        return OPERATOR
    return 2 if isinstance(problem, RefusedError | FailedError | JobFailed | DeadLettered | CommandRefused) else 1


app = typer.Typer(
    name="llmos",
    cls=_Group,
    help="An operating system for large models. `llmos up` starts it; `llmos submit echo hello` asks it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="The settings file; else LLMOS_CONFIG, else llmos.toml here.")
    ] = None,
    state_directory: Annotated[Path | None, typer.Option(help="Where the embedded stack, keys and logs live.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="GROUP.NAME=VALUE", help="Any setting of `llmos config show`; repeatable."),
    ] = None,
) -> None:
    """Reads what every command needs; the settings themselves are read by the command."""
    if config is not None:
        use_config(config)
    overrides = parse_overrides(set_ or [])
    if state_directory is not None:
        overrides["state_directory"] = str(state_directory)
    session = context.ensure_object(Session)
    session.overrides = overrides


running.add_to(app)
jobs.add_to(app)
job_commands.add_to(app)
model_commands.add_to(app)
device_commands.add_to(app)
asking.add_to(app)
setup.add_to(app)
key_commands.add_to(app)
dead_commands.add_to(app)
usage_commands.add_to(app)
tenant_commands.add_to(app)
demo_start.add_to(app)


def quieten() -> None:
    """What this process's parts log is told to people in sentences; of the rest only errors, on standard error.

    A service (`llmos run`) sets up its own log after this.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())


def main(words: list[str] | None = None) -> None:
    """Runs the command in `words` (else of the command line) and ends the process; no traceback reaches a user."""
    quieten()
    try:
        app(words)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except OSError as problem:
        typer.echo(f"llmos: {problem}", err=True)
        sys.exit(1)
    except Exception as problem:  # noqa: BLE001  the last place where a bug can be told in one line
        typer.echo(f"llmos: a bug: {type(problem).__name__}: {problem}", err=True)
        sys.exit(BUG)
