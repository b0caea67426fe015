"""Who a tenant's command asks as: credentials that are missing, files that others may read, secrets that are wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from llmos.cli.app import app
from llmos.cli.asker import in_words
from llmos.cli.session import Session
from llmos.client import Client
from llmos.infra.crypto.credentials import save_credentials
from llmos.infra.crypto.secrets import fingerprint
from llmos.infra.log.clock import WallClock
from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Log, Out, Place
from llmos.infra.log.topics import specs
from llmos.infra.settings import Settings
from llmos.schemas.base import encode
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import OperatorError
from tests.kit.bench import configured
from tests.kit.sealing_worker import SECRET

JOB = "00" * 16
OTHER = b"o" * 32
COMMANDS = [("jobs", "list"), ("jobs", "explain", JOB), ("jobs", "show", JOB), ("cancel", JOB), ("status",)]

Command = Callable[..., Result]


@pytest.mark.parametrize("words", [("submit", "echo", "x"), ("result", JOB), ("attach", JOB), *COMMANDS[:4]])
def test_a_named_tenant_without_credentials_is_an_error(
    llmos: Command, system: Any, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Nothing goes in the clear in its name; the file that was looked for is told."""
    said = llmos("--state-directory", str(tmp_path), *words, "--tenant", "acme")
    assert said.exit_code == 78
    assert str(tmp_path / "tenants" / "acme.json") in said.stderr
    assert not system.requests + system.queries + system.cancels


def test_in_the_clear_is_to_be_said(llmos: Command, system: Any, tmp_path: Path) -> None:
    """`--clear` is that; the demo's own tenant needs no word."""
    here = ("--state-directory", str(tmp_path))
    assert llmos(*here, "submit", "echo", "x", "--tenant", "acme", "--clear").exit_code == 0
    assert llmos(*here, "submit", "echo", "x", "--tenant", "demo").exit_code == 0
    assert [request.tenant for _, request in system.requests] == ["acme", "demo"]


def test_a_secret_that_others_may_read_is_refused(llmos: Command, system: Any, tmp_path: Path) -> None:
    """As a keyring is; what is no secret is told without what it is."""
    file = tmp_path / "secret"
    file.write_text(SECRET.hex())
    file.chmod(0o644)
    said = llmos("submit", "echo", "x", "--secret-file", str(file))
    assert (said.exit_code, f"chmod 600 {file}" in said.stderr) == (78, True)
    file.chmod(0o600)
    assert llmos("submit", "echo", "x", "--no-wait", "--secret-file", str(file)).exit_code == 0
    for wrong in (b"hush", b"\xff"):
        file.write_bytes(wrong)
        said = llmos("submit", "echo", "x", "--secret-file", str(file))
        assert (said.exit_code, "hexadecimal digits" in said.stderr, "hush" in said.stderr) == (78, True, False)


class Silent:
    """A system that answers nobody, as a scheduler does whose check of the signature fails, with rows of tenants."""

    def __init__(self, directory: Path, connect: Any) -> None:
        self.directory = directory
        self.connect = connect
        self.row: Tenant | None = None
        self.has_log = True

    @asynccontextmanager
    async def _log(self, settings: Settings) -> AsyncIterator[Log]:
        broker = MemoryBroker(WallClock())
        broker.create(specs(configured()))
        log = broker.connect("operator")
        if self.row is not None:
            await log.emit(Place("tenants", 0), [Out(self.row.name.encode(), encode(self.row))])
        try:
            yield log
        finally:
            await log.close()

    def open_log(self, settings: Settings) -> AbstractAsyncContextManager[Log]:
        if not self.has_log:
            raise OperatorError(problem="it is away")
        return self._log(settings)

    def __call__(self, *words: str) -> Result:
        line = ["--state-directory", str(self.directory), *words]
        return CliRunner().invoke(app, line, obj=Session(connect=self.connect, open_log=self.open_log))


@pytest.fixture
def silent(system: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Silent:
    """With the credentials of tenant demo beside it."""
    monkeypatch.setitem(Client.query.__kwdefaults__ or {}, "timeout", 0.2)
    save_credentials(system.credentials, tmp_path / "tenants" / "demo.json")
    system.silent = True
    return Silent(tmp_path, system.connect)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_wrong_secret_is_told(silent: Silent, system: Any, words: tuple[str, ...]) -> None:
    """By the fingerprint on `tenants`, and not as a scheduler that is away; a cancel has gone out all the same."""
    silent.row = Tenant(name="demo", fingerprint=fingerprint(OTHER), mac="required")
    said = silent(*words)
    assert said.exit_code == 1, said.output
    assert f"fingerprint {fingerprint(SECRET).hex()[:16]}) is not the right one" in said.stderr
    assert bool(system.cancels) == (words[0] == "cancel")


def test_a_right_secret_is_not_blamed(silent: Silent) -> None:
    """Then the scheduler is away."""
    silent.row = Tenant(name="demo", fingerprint=fingerprint(SECRET))
    said = silent("jobs", "list")
    assert (said.exit_code, "is a scheduler running?" in said.stderr) == (1, True)


def test_where_the_rows_cannot_be_read_both_are_named(silent: Silent) -> None:
    """Who has no right to them learns no more than before, and where to ask."""
    silent.has_log = False
    said = silent("jobs", "list")
    assert (said.exit_code, "either no scheduler runs" in said.stderr, "tenants show demo" in said.stderr) == (
        1,
        True,
        True,
    )


@pytest.mark.parametrize(
    ("secret", "row", "known", "words"),
    [
        (OTHER, None, True, "there is no tenant acme"),
        (OTHER, {"fingerprint": fingerprint(SECRET), "previous_until": 9.0}, True, "its grace may be over"),
        (OTHER, {"fingerprint": fingerprint(OTHER)}, True, ""),
        (OTHER, {}, True, ""),
        (b"", {"mac": "required"}, True, "must sign"),
        (b"", {"mac": "optional"}, True, ""),
        (b"", None, False, "it wants a signature"),
    ],
)
def test_what_a_row_says_of_a_secret(secret: bytes, row: dict[str, Any] | None, known: bool, words: str) -> None:
    """Never the secret itself."""
    found = None if row is None else msgspec.structs.replace(Tenant(name="acme"), **row)
    said = in_words("acme", secret, found, known=known)
    assert words in said
    assert bool(words) == bool(said)
    assert not secret or secret.hex() not in said
