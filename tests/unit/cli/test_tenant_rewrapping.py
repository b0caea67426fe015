"""Rows of tenants that no operator wrote, and those that are sealed anew before a key of the system goes."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from llmos.cli import key_advice
from llmos.cli.app import app
from llmos.cli.session import Session
from llmos.infra.crypto.keyfile import load_keyring, save_keyring
from llmos.infra.crypto.rows import names_key, sealed_row
from llmos.infra.crypto.secrets import unwrap_previous, unwrap_secret
from llmos.infra.log.port import Log, Out, Place
from llmos.infra.settings import Settings
from llmos.schemas.base import encode
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import OperatorError
from tests.unit.cli.tenant_office import Office


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def forge(office: Office, **fields: object) -> Tenant:
    """The row as somebody without the system's key writes it."""
    forged = msgspec.structs.replace(office.tenant(), **fields)
    office.coming.append((Place("tenants", 0), Out(b"acme", encode(forged))))
    return forged


def test_what_no_operator_wrote_is_marked_and_never_sealed(office: Office) -> None:
    """Neither shown as the tenant, nor taken up by a change: that is made of the row before."""
    office("add", "acme")
    right = office.tenant()
    forge(office, reply_key=b"another", weight=9.0)
    (shown,) = office.objects("show", "acme")
    assert (shown["seal"], shown["reply_key"]) == ("a later row is refused", right.reply_key.hex())
    assert "no operator" in office("show", "acme").stdout
    assert "later row is refused" in office("list").stdout
    assert office("set", "acme", "--weight", "2").exit_code == 0
    assert (office.tenant().reply_key, office.tenant().weight) == (right.reply_key, 2.0)
    assert office.objects("list")[0]["seal"] == "holds"
    assert office.tenant().version == right.version + 1


def test_a_row_that_no_operator_wrote_is_no_tenant(office: Office) -> None:
    """It can be taken away, and not be changed."""
    office("add", "acme")
    office("add", "globex")
    right = office.tenant()
    office("erase", "acme", "--yes")
    office.coming.append((Place("tenants", 0), Out(b"acme", encode(msgspec.structs.replace(right, weight=9.0)))))
    assert {found["name"]: found["seal"] for found in office.objects("list")} == {"acme": "refused", "globex": "holds"}
    assert "REFUSED" in office("show", "acme").stdout
    for words in (("set", "acme", "--weight", "2"), ("rotate-secret", "acme")):
        said = office(*words)
        assert (said.exit_code, "no operator wrote" in said.stderr) == (78, True)
    assert office("add", "acme", "--out", str(office.directory / "x.json")).exit_code == 78
    assert office("erase", "acme", "--yes").exit_code == 0
    assert office.row() is None


def test_without_the_keyring_nobody_can_tell(office: Office) -> None:
    """The rows are shown as they stand."""
    office("add", "acme")
    office.keyring.unlink()
    assert office.objects("list")[0]["seal"] == "unknown"
    assert "only the keyring can tell" in office("show", "acme").stdout


def test_after_a_rewrap_the_systems_old_key_may_go(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets stay, the one before the last rotation too; before it, destroying is refused."""
    monkeypatch.setattr(key_advice, "SETTLE_SECONDS", 0.0)
    office("add", "acme")
    office("add", "globex")
    office("rotate-secret", "acme")
    before, keys = office.tenant(), load_keyring(office.keyring)
    old = keys.active("system").id
    secrets = (unwrap_secret(keys, before), unwrap_previous(keys, before))
    save_keyring(keys.rotated("system"), office.keyring)
    said = office.keys("destroy", old, "--yes")
    assert said.exit_code == 78
    assert "acme, globex are under key" in said.stderr
    assert "tenants rewrap" in said.stderr
    assert office.objects("rewrap") == [{"tenants": ["acme", "globex"], "not_opened": []}]
    assert office.keys("destroy", old, "--yes").exit_code == 0
    keys, after = load_keyring(office.keyring), office.tenant()
    assert not keys.has(old)
    assert (unwrap_secret(keys, after), unwrap_previous(keys, after)) == secrets
    assert not names_key(after, old, 0.0)
    assert [found["seal"] for found in office.objects("list")] == ["holds", "holds"]


def test_a_secret_that_does_not_open_is_told_by_a_rewrap(office: Office) -> None:
    """Its row stays as it is, and the exit code says that something was left."""
    office("add", "acme")
    office("add", "globex")
    keys = load_keyring(office.keyring)
    lost = sealed_row(keys, msgspec.structs.replace(office.tenant(), wrapped_secret=bytes(60)))
    office.coming.append((Place("tenants", 0), Out(b"acme", encode(lost))))
    said = office("rewrap")
    assert (said.exit_code, "tenant acme" in said.stderr, "1 tenants" in said.stdout) == (1, True, True)
    assert office.tenant() == lost


def test_without_a_broker_a_key_of_the_system_stays_unless_it_is_insisted(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can say then whether a row is under it."""
    monkeypatch.setattr(key_advice, "SETTLE_SECONDS", 0.0)

    def away(settings: Settings) -> AbstractAsyncContextManager[Log]:
        raise OperatorError(problem="no stack runs")

    office.open_log = away  # type: ignore[method-assign, assignment]
    keys = load_keyring(office.keyring)
    save_keyring(keys.rotated("system"), office.keyring)
    old = keys.active("system").id
    said = office.keys("destroy", old, "--yes")
    assert (said.exit_code, "cannot be told" in said.stderr, "--unchecked" in said.stderr) == (78, True, True)
    assert load_keyring(office.keyring).has(old)
    said = office.keys("destroy", old, "--yes", "--unchecked")
    assert (said.exit_code, "cannot be told" in said.stderr) == (0, True)


def test_a_key_of_the_system_stays_while_only_a_secret_is_under_it(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that was changed after the rotation has a new seal, and the secret of before."""
    monkeypatch.setattr(key_advice, "SETTLE_SECONDS", 0.0)
    office("add", "acme")
    keys = load_keyring(office.keyring)
    save_keyring(keys.rotated("system"), office.keyring)
    assert office("set", "acme", "--weight", "2").exit_code == 0
    assert office.tenant().seal_key_id != keys.active("system").id
    said = office.keys("destroy", keys.active("system").id, "--yes", "--unchecked")
    assert (said.exit_code, "tenants rewrap" in said.stderr) == (78, True)


def test_no_keyring_is_made_for_a_broker_whose_system_has_one(office: Office) -> None:
    """On a machine with nothing of it beside the settings: the rows tell."""
    office("add", "acme")
    office.keyring.unlink()
    (office.directory / "tenants" / "acme.json").unlink()
    line = ["--state-directory", str(office.directory), "--set", "kafka.bootstrap=somewhere:1", "keys", "init"]
    said = CliRunner().invoke(app, line, obj=Session(open_log=office.open_log))
    assert (said.exit_code, "has tenants" in said.stderr, office.keyring.exists()) == (78, True, False)
