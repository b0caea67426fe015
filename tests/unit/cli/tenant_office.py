"""A log in memory, a state directory, and the commands for tenants and keys over both."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from llmos.cli.app import app
from llmos.cli.session import Session
from llmos.infra.crypto.credentials import Credentials, load_credentials
from llmos.infra.crypto.keyfile import create_keyring, load_keyring
from llmos.infra.log.clock import WallClock
from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Log, Out, Place
from llmos.infra.log.topics import specs
from llmos.infra.settings import Settings
from llmos.schemas.catalog import TENANTS, Tenant
from tests.kit.bench import configured


class Office:
    """A log in memory, a state directory, and the command over both."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.broker = MemoryBroker(WallClock())
        self.broker.create(specs(configured()))
        self.keyring = directory / "keyring.json"
        create_keyring(self.keyring)
        self.coming: list[tuple[Place, Out]] = []

    @asynccontextmanager
    async def open_log(self, settings: Settings) -> AsyncIterator[Log]:
        """As `Session.open_log`."""
        log = self.broker.connect("operator")
        for place, out in self.coming:
            await log.emit(place, [out])
        self.coming = []
        try:
            yield log
        finally:
            await log.close()

    def __call__(self, *words: str, stdin: str = "") -> Result:
        line = ["--state-directory", str(self.directory), "tenants", *words]
        return CliRunner().invoke(app, line, input=stdin, obj=Session(open_log=self.open_log))

    def keys(self, *words: str) -> Result:
        """`llmos keys …`"""
        line = ["--state-directory", str(self.directory), "keys", *words]
        return CliRunner().invoke(app, line, obj=Session(open_log=self.open_log))

    def objects(self, *words: str) -> list[dict[str, Any]]:
        """What the command prints with --json."""
        found = self(*words, "--json")
        assert found.exit_code == 0, found.output
        return [json.loads(line) for line in found.stdout.splitlines()]

    def row(self, name: str = "acme") -> Tenant | None:
        """The tenant as the topic has it."""
        latest: Tenant | None = None
        for stored in self.broker.dump("tenants")[0]:
            if stored.record.key == name.encode():
                value = stored.record.value
                latest = TENANTS.decode(value) if value is not None else None
        return latest

    def tenant(self, name: str = "acme") -> Tenant:
        found = self.row(name)
        assert found is not None
        return found

    def credentials(self, name: str = "acme") -> Credentials:
        return load_credentials(self.directory / "tenants" / f"{name}.json")

    def secrets_of_all(self) -> list[bytes]:
        """Everything that no output may show."""
        keys = [entry.key for entry in load_keyring(self.keyring).entries if entry.key]
        own = [self.credentials().secret, *(key.private for key in self.credentials().reply_keys)]
        return [*keys, *own, self.tenant().wrapped_secret]
