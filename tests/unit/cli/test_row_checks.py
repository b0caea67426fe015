"""What `llmos doctor` says of tenants' rows and of credentials: whether they fit the keyring and each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from llmos.cli import setup
from llmos.cli.app import app
from llmos.cli.checks import Check
from llmos.cli.row_checks import credentials_check, row_checks, rows_check
from llmos.cli.session import Session
from llmos.cli.tenant_rows import Rows
from llmos.cli.tenants import Made, new_tenant
from llmos.infra.crypto.credentials import credentials_file, save_credentials
from llmos.infra.crypto.keyfile import save_keyring
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.rows import sealed_row
from llmos.infra.log.clock import WallClock
from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Log, Out, Place
from llmos.infra.log.topics import specs
from llmos.infra.settings import Settings, load
from llmos.schemas.base import encode
from tests.kit.bench import configured

KEYS = Keyring.memory()
ACME = new_tenant("acme", {}, KEYS, [], 1.0)
GLOBEX = new_tenant("globex", {}, KEYS, [], 1.0)


def rows(*made: Made) -> Rows:
    return Rows({one.tenant.name: one.tenant for one in made}, {})


def test_rows_that_open_are_right() -> None:
    """All of them are tried."""
    assert rows_check(rows(ACME, GLOBEX), KEYS) == Check("tenants", True, "the keyring opens the rows of all 2")


def test_a_row_that_does_not_open_is_wrong() -> None:
    """It is named, with what to do."""
    lost = ACME._replace(tenant=msgspec.structs.replace(ACME.tenant, wrapped_secret=bytes(60)))
    found = rows_check(rows(lost, GLOBEX), KEYS)
    assert (found.word, "of acme" in found.found, "rotate-secret" in found.found) == ("WRONG", True, True)


@pytest.mark.parametrize("some", [True, False])
def test_rows_that_are_refused_are_wrong(some: bool) -> None:
    """All of them: it is another's keyring; some: no operator wrote those."""
    found = rows_check(Rows({"acme": ACME.tenant} if some else {}, {"globex": GLOBEX.tenant}), KEYS)
    assert found.word == "WRONG"
    assert ("globex" if some else "put back the right one") in found.found


def test_credentials_are_compared_with_the_tenants() -> None:
    """Those of an erased tenant, those from before a rotation."""
    assert credentials_check(rows(ACME, GLOBEX), [ACME.credentials, GLOBEX.credentials]).ok
    assert credentials_check(rows(ACME), []).ok
    gone = credentials_check(rows(ACME), [ACME.credentials, GLOBEX.credentials])
    assert (gone.word, "globex, which is no tenant" in gone.found) == ("WRONG", True)
    old = credentials_check(rows(new_tenant("acme", {}, KEYS, [], 2.0)), [ACME.credentials])
    assert (old.word, "acme have not the present secret" in old.found) == ("WRONG", True)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(state_directory=tmp_path, kafka={"bootstrap": "somewhere:1"})


def session(*made: Made) -> Session:
    """Over a log with the rows of these tenants."""

    @asynccontextmanager
    async def open_log(settings: Settings) -> AsyncIterator[Log]:
        broker = MemoryBroker(WallClock())
        broker.create(specs(configured()))
        log = broker.connect("operator")
        for one in made:
            await log.emit(Place("tenants", 0), [Out(one.tenant.name.encode(), encode(sealed_row(KEYS, one.tenant)))])
        try:
            yield log
        finally:
            await log.close()

    return Session(open_log=open_log)


def test_the_broker_is_asked_where_there_is_one(settings: Settings, tmp_path: Path) -> None:
    """With the system's keyring all is right, with another one it is said; without a system nothing is looked at."""
    save_credentials(ACME.credentials, credentials_file(tmp_path, "acme"))
    save_keyring(KEYS, tmp_path / "keyring.json")
    assert [check.word for check in row_checks(session(ACME), settings)] == ["ok", "ok"]
    save_keyring(Keyring.memory(), tmp_path / "keyring.json")
    (found,) = row_checks(session(ACME), settings)
    assert (found.word, "put back the right one" in found.found) == ("WRONG", True)
    (tmp_path / "keyring.json").unlink()
    assert row_checks(session(ACME), settings)[0].ok
    assert row_checks(session(ACME), load(state_directory=tmp_path))[0].ok


def test_what_is_there_and_wrong_is_not_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two words for two remedies, and an exit code."""
    found = [Check("a", True, ""), Check("b", False, ""), Check("c", False, "", wrong=True)]
    monkeypatch.setattr(setup, "all_checks", lambda settings: list(found))
    said: Result = CliRunner().invoke(app, ["--state-directory", str(tmp_path), "doctor"], obj=Session())
    assert said.exit_code == 1
    words = [line.split()[:2] for line in said.stdout.splitlines() if line.split()[-1:] in (["a"], ["b"], ["c"])]
    assert words == [["ok", "a"], ["MISSING", "b"], ["WRONG", "c"]]
