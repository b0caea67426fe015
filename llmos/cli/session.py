"""What every command is given: the settings it was called with, the running stack, a client, the terminal."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import typer
from rich.console import Console

from llmos.cli import outages
from llmos.cli.asker import Asker, secret_of, why_silent
from llmos.cli.attach import attached_when_ready
from llmos.client import Client, NoReply
from llmos.client.errors import Unanswered
from llmos.infra.crypto.keyfile import load_keyring
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.log.kafka import KafkaLog
from llmos.infra.log.port import Log
from llmos.infra.runtime.beside import first_of
from llmos.infra.settings import Settings, load
from llmos.infra.settings.tree import config_file
from llmos.schemas.errors import BadSetting, LlmosError

T = TypeVar("T")

FILE_COLUMNS = 200


class Caller(NamedTuple):
    """As whom a command asks."""

    tenant: str = ""
    """Empty: the one of the credentials, else `demo`."""
    secret: bytes | None = None
    """Signs, without sealing."""
    credentials: Path | None = None
    """None: those that the state directory has for the tenant, if it has any."""
    operator: Keyring | None = None


Connect = Callable[[Settings, Caller], AbstractAsyncContextManager[Client]]
"""Makes a client."""


OpenLog = Callable[[Settings], AbstractAsyncContextManager[Log]]
"""Connects an operator's command to the log of the stack that these settings name."""


@asynccontextmanager
async def open_log(settings: Settings) -> AsyncIterator[Log]:
    """The log of the stack that runs, or that is starting, as `OpenLog`."""
    attached = await attached_when_ready(settings, _say)
    outages.hear(attached.kafka.bootstrap, _say)
    log = await KafkaLog.connect(attached.kafka, client="operator")
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def connect(settings: Settings, caller: Caller) -> AsyncIterator[Client]:
    """A client of the stack that runs, or that is starting, as `Connect`."""
    attached = await attached_when_ready(settings, _say)
    outages.hear(attached.kafka.bootstrap, _say)
    async with Client(attached, **caller._asdict()) as client:
        yield client


def _say(text: str) -> None:
    typer.echo(text, err=True)


@dataclass
class Session:
    """One call of the command."""

    connect: Connect = connect
    open_log: OpenLog = open_log
    overrides: Mapping[str, Any] = field(default_factory=dict)
    out: Console = field(default_factory=lambda: _console(stderr=False))
    err: Console = field(default_factory=lambda: _console(stderr=True))
    json: bool = False
    """The command was called with `--json`."""

    def settings(self) -> Settings:
        """The settings tree. Raises `BadSetting`."""
        return load(**self.overrides)

    @asynccontextmanager
    async def client(
        self,
        tenant: str | None = None,
        credentials: Path | None = None,
        secret_file: Path | None = None,
        *,
        clear: bool = False,
    ) -> AsyncIterator[Client]:
        """A client of the running stack for a tenant, with its credentials or only with its secret (in hexadecimal).

        Raises:
            BadSetting: a tenant other than `demo` is named, and it has neither here (`clear`: it need not).
            Unanswered: nobody answered a query, since the secret is wrong, or may be.
        """
        settings = self.settings()
        asker = Asker(settings.state_directory, tenant, credentials, await asyncio.to_thread(secret_of, secret_file))
        if not clear:
            await asyncio.to_thread(asker.check)
        async with self.connect(settings, Caller(asker.tenant, asker.secret, credentials)) as client:
            try:
                yield client
            except NoReply as problem:
                why = await self._why_silent(settings, asker)
                if not why:
                    raise
                raise Unanswered(what=problem.values["what"], seconds=problem.values["seconds"], why=why) from None

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[Client]:
        """A client of the running stack for operators; where the keyring cannot be read, one for tenant `demo`."""
        settings = self.settings()
        keyring = await asyncio.to_thread(_operator, settings.keyring)
        if keyring is None:
            async with self.client() as client:
                yield client
            return
        async with self.connect(settings, Caller(operator=keyring, secret=b"")) as client:
            yield client

    async def _why_silent(self, settings: Settings, asker: Asker) -> str:
        try:
            async with self.open_log(settings) as log:
                return await why_silent(asker, log)
        except LlmosError:
            return await why_silent(asker, None)

    def log(self) -> AbstractAsyncContextManager[Log]:
        """The log of the running stack, for operators' commands."""
        return self.open_log(self.settings())

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


def _operator(path: Path) -> Keyring | None:
    """The keyring, where it is there and this user may read it."""
    return load_keyring(path) if os.access(path, os.R_OK) else None
