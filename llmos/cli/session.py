"""What every command is given: the settings it was called with, the running stack, a client, the terminal."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import typer
from rich.console import Console

from llmos.cli import outages
from llmos.cli.attach import attached_when_ready
from llmos.client import Client
from llmos.infra.runtime.beside import first_of
from llmos.infra.settings import Settings, load
from llmos.infra.settings.tree import config_file
from llmos.schemas.errors import BadSetting

T = TypeVar("T")

FILE_COLUMNS = 200

Connect = Callable[[Settings, str, bytes], AbstractAsyncContextManager[Client]]
"""Makes a client for (settings, tenant, secret)."""


@asynccontextmanager
async def connect(settings: Settings, tenant: str, secret: bytes) -> AsyncIterator[Client]:
    """A client of the stack that runs, or that is starting, as `Connect`."""
    attached = await attached_when_ready(settings, _say)
    outages.hear(attached.kafka.bootstrap, _say)
    async with Client(attached, tenant=tenant, secret=secret) as client:
        yield client


def _say(text: str) -> None:
    typer.echo(text, err=True)


@dataclass
class Session:
    """One call of the command."""

    connect: Connect = connect
    overrides: Mapping[str, Any] = field(default_factory=dict)
    out: Console = field(default_factory=lambda: _console(stderr=False))
    err: Console = field(default_factory=lambda: _console(stderr=True))
    json: bool = False
    """The command was called with `--json`."""

    def settings(self) -> Settings:
        """The settings tree. Raises `BadSetting`."""
        return load(**self.overrides)

    def client(self, tenant: str, secret_file: Path | None = None) -> AbstractAsyncContextManager[Client]:
        """A client of the running stack for `tenant`; the file holds the tenant's secret in hexadecimal."""
        return self.connect(self.settings(), tenant, _secret(secret_file))

    def line(self, value: Any) -> None:
        """One JSON object on a line of its own."""
        typer.echo(msgspec.json.encode(value, enc_hook=str).decode())

    def note(self, text: str) -> None:
        """A line for people, beside the output."""
        self.err.print(text, style="dim", markup=False)


def _console(*, stderr: bool) -> Console:
    """A console; where it is no terminal, as wide as the tables."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else FILE_COLUMNS
    return Console(stderr=stderr, width=width, soft_wrap=True, highlight=False)


def session_of(context: typer.Context) -> Session:
    """The session of this call."""
    session = context.find_object(Session)
    assert session is not None, "the app's callback makes one before any command runs"
    return session


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs `main` on a loop; of errors in several tasks the first is raised, as it is."""
    try:
        return asyncio.run(main)
    except BaseExceptionGroup as group:
        raise first_of(group) from None


def use_config(path: Path) -> None:
    """Makes `path` the settings file of this process and of those it starts."""
    if not path.is_file():
        raise BadSetting(setting="--config", problem=f"there is no file {path}")
    os.environ["LLMOS_CONFIG"] = str(path.absolute())


def settings_file() -> Path:
    """The settings file that is read, if it is there."""
    return config_file()


def _secret(path: Path | None) -> bytes:
    if path is None:
        return b""
    try:
        return bytes.fromhex(path.read_text().strip())
    except OSError as problem:
        raise BadSetting(setting="--secret-file", problem=f"{path}: {problem.strerror}") from None
    except ValueError as problem:
        raise BadSetting(setting="--secret-file", problem=f"{path}: {problem}") from None
