"""What a first start makes, what a later one leaves alone, and how a system of before is completed."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import msgspec
import pytest

from llmos.cli import checks
from llmos.cli.first_start import DEMO_TENANTS, ROWS_SEALED, ensure_keys
from llmos.cli.tenant_rows import read_tenants, remove_tenant
from llmos.cli.tenants import tenant_keys
from llmos.infra.crypto.credentials import Credentials, load_credentials, load_public_keys
from llmos.infra.crypto.keyfile import load_keyring, save_keyring
from llmos.infra.crypto.keyring import PURPOSES, Keyring
from llmos.infra.crypto.rows import is_sealed
from llmos.infra.crypto.secrets import fingerprint, unwrap_secret
from llmos.infra.log.clock import WallClock
from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Out, Place
from llmos.infra.log.topics import specs
from llmos.infra.settings import Settings
from llmos.schemas.base import encode
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import KeyringMismatch
from tests.kit.bench import configured


class System:
    """A log in memory and a state directory."""

    def __init__(self, directory: Path) -> None:
        self.settings: Settings = configured(state_directory=directory)
        broker = MemoryBroker(WallClock())
        broker.create(specs(self.settings))
        self.log = broker.connect("first-start")

    def start(self) -> dict[str, Tenant]:
        """A start; gives the tenants."""

        async def go() -> dict[str, Tenant]:
            await ensure_keys(self.log, self.settings)
            keys = await asyncio.to_thread(load_keyring, self.settings.keyring)
            return dict((await read_tenants(self.log, keys)).tenants)

        return asyncio.run(go())

    def write(self, rows: list[Tenant]) -> None:
        """Other rows in their place, as somebody writes them who has no key: as they are."""
        outs = [Out(row.name.encode(), encode(row)) for row in rows]
        asyncio.run(self.log.emit(Place("tenants", 0), outs))

    def credentials(self, name: str) -> Credentials:
        return load_credentials(self.settings.state_directory / "tenants" / f"{name}.json")

    def files(self) -> dict[str, bytes]:
        """All files below the state directory."""
        root = self.settings.state_directory
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path / "state")


def test_a_first_start_makes_tenants_that_may_do_both(system: System) -> None:
    """Clear and unsigned, or sealed with the credentials that lie beside the system."""
    rows = system.start()
    keys = load_keyring(system.settings.keyring)
    assert set(rows) == set(DEMO_TENANTS)
    for name, row in rows.items():
        credentials = system.credentials(name)
        assert (row.plaintext, row.mac, row.reply_prefixes) == ("allow", "optional", [])
        assert unwrap_secret(keys, row) == credentials.secret
        assert row.fingerprint == fingerprint(credentials.secret)
        assert credentials.reply_keys[0].public == row.reply_key
        assert keys.holds("tenant", name)
        assert row.made_at > 0.0
    public = system.settings.state_directory / "public-keys.json"
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    assert load_public_keys(public) == credentials.system_keys
    assert all(check.ok for check in (checks.keyring(system.settings), checks.credentials(system.settings)))


def test_a_later_start_leaves_all_as_it_is(system: System) -> None:
    """Rows, keys and files."""
    rows, files = system.start(), system.files()
    assert system.start() == rows
    assert system.files() == files


def test_a_system_of_before_is_completed(system: System) -> None:
    """Keys for new purposes; tenants get what they lack and keep their secrets."""
    rows = system.start()
    whole = load_keyring(system.settings.keyring)
    save_keyring(Keyring(e for e in whole.entries if e.purpose in ("pool", "system")), system.settings.keyring)
    for path in (system.settings.state_directory / "tenants").iterdir():
        path.unlink()
    (system.settings.state_directory / ROWS_SEALED).unlink()
    bare = {"reply_key": b"", "fingerprint": b"", "made_at": 0.0, "reply_prefixes": [], "version": 0, "seal": b""}
    for name in rows:
        asyncio.run(remove_tenant(system.log, name))
    system.write([msgspec.structs.replace(row, **bare) for row in rows.values()])
    after = system.start()
    keys = load_keyring(system.settings.keyring)
    assert all(keys.holds(purpose) for purpose in PURPOSES if purpose != "tenant")
    for name, row in after.items():
        assert row.wrapped_secret == rows[name].wrapped_secret
        assert row.fingerprint == rows[name].fingerprint
        assert tuple(row.prefixes) == (f"reply.{name}.",)
        assert system.credentials(name).secret == unwrap_secret(keys, row)
        assert system.credentials(name).reply_keys[0].public == row.reply_key
        assert keys.holds("tenant", name)
    assert system.start() == after


def unsealed(row: Tenant, **fields: object) -> Tenant:
    """The row as there was one before there were seals."""
    return msgspec.structs.replace(row, version=0, seal_key_id="", seal=b"", **fields)


def test_rows_of_before_there_were_seals_are_sealed_once(system: System) -> None:
    """What they say stays; a later row without a seal is somebody else's, and nothing is made of it."""
    rows = system.start()
    (system.settings.state_directory / ROWS_SEALED).unlink()
    before = System(system.settings.state_directory)
    before.write([unsealed(row) for row in rows.values()])
    after = before.start()
    assert {name: unsealed(row) for name, row in after.items()} == {name: unsealed(row) for name, row in rows.items()}
    assert all(is_sealed(load_keyring(system.settings.keyring), row) for row in after.values())
    files = before.files()
    before.write([unsealed(after["demo"], reply_key=b"another")])
    assert before.start() == after
    alone = System(system.settings.state_directory)
    alone.write([unsealed(after["demo"], reply_key=b"another")])
    assert set(alone.start()) == {"acme", "globex"}
    assert alone.files()["tenants/demo.json"] == files["tenants/demo.json"]


@pytest.mark.parametrize("fields", [{"wrapped_secret": b""}, {"wrapped_secret": bytes(60)}, {"seal": b"x"}], ids=repr)
def test_a_row_that_no_operator_can_have_written_is_not_sealed(system: System, fields: dict[str, object]) -> None:
    """Also in a system of before: its secret is none, or does not open, or it has a seal that is wrong."""
    rows = system.start()
    (system.settings.state_directory / ROWS_SEALED).unlink()
    before = System(system.settings.state_directory)
    before.write([msgspec.structs.replace(unsealed(rows["demo"]), **fields)])
    assert "demo" not in before.start()


def test_an_erased_demo_tenant_stays_erased(system: System) -> None:
    """Its keys are destroyed, and that is remembered."""
    system.start()
    keys = load_keyring(system.settings.keyring)
    for key_id in tenant_keys(keys, "acme"):
        keys = keys.destroyed(key_id, active=True)
    save_keyring(keys, system.settings.keyring)
    fresh = System(system.settings.state_directory)
    assert set(fresh.start()) == {"demo", "globex"}


def test_a_rotated_ingress_key_comes_into_the_credentials(system: System) -> None:
    """Those beside the system; `doctor` says so where they are behind."""
    system.start()
    keys = load_keyring(system.settings.keyring)
    old = keys.active("ingress").id
    save_keyring(keys.rotated("ingress").destroyed(old), system.settings.keyring)
    assert not checks.credentials(system.settings).ok
    system.start()
    found = system.credentials("demo").ingress
    assert found is not None
    assert found.id == load_keyring(system.settings.keyring).active("ingress").id
    assert checks.credentials(system.settings).ok


def test_credentials_that_a_crash_left_beside_are_put_in_their_place(system: System) -> None:
    """The row was written, the file not yet renamed."""
    system.start()
    path = system.settings.state_directory / "tenants" / "demo.json"
    path.rename(path.with_name("demo.json.new"))
    system.start()
    assert system.credentials("demo").tenant == "demo"
    assert not path.with_name("demo.json.new").exists()


def test_a_system_without_its_keyring_gets_no_new_one(system: System) -> None:
    """What was sealed with the old one would be lost without a word."""
    system.start()
    system.settings.keyring.unlink()
    with pytest.raises(KeyringMismatch):
        system.start()


def test_doctor_looks_at_keys(system: System) -> None:
    """Modes, missing purposes, damage."""
    assert checks.keyring(system.settings).ok
    system.start()
    path = system.settings.keyring
    path.chmod(0o640)
    assert "chmod" in checks.keyring(system.settings).found
    path.chmod(0o600)
    file = json.loads(path.read_bytes())
    file["keys"] = [key for key in file["keys"] if key["purpose"] != "control"]
    path.write_text(json.dumps(file))
    assert "control" in checks.keyring(system.settings).found
