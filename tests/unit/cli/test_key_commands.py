"""The commands of the keyring: what they make, show and write, and that they never show a key."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import Result

from llmos.cli import key_advice
from llmos.infra.crypto.credentials import (
    Credentials,
    load_credentials,
    load_public_keys,
    public_keys,
    save_credentials,
)
from llmos.infra.crypto.keyfile import changed, create_keyring, load_keyring, save_keyring
from llmos.infra.crypto.keyring import PURPOSES, Keyring, fresh_key
from llmos.infra.crypto.roles import ROLES
from llmos.infra.embedded.directory import StateDirectory, write_json
from llmos.infra.embedded.identity import started_at

Keys = Callable[..., Result]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the keyring is."""
    return tmp_path / "state" / "keyring.json"


@pytest.fixture
def keys(llmos: Callable[..., Result], path: Path) -> Iterator[Keys]:
    """`llmos keys …` here; at the end, no key that there ever was has been shown."""
    said, secrets = [], set()

    def note() -> None:
        if path.exists():
            file = json.loads(path.read_bytes())
            secrets.update(entry["key"] for entry in file["keys"] if entry.get("key"))

    def run(*words: str, **more: str) -> Result:
        note()
        result = llmos("--state-directory", str(path.parent), "keys", *words, **more)
        note()
        said.append(result.stdout + result.stderr)
        return result

    yield run
    shown = "".join(said)
    assert not [secret for secret in secrets if secret.rstrip("=") in shown]
    assert not [s for s in secrets if msgspec.json.decode(f'"{s}"', type=bytes).hex() in shown]


def test_init_makes_what_is_missing_and_keeps_what_is_there(keys: Keys, path: Path) -> None:
    """Also in a file that has two purposes only; where nothing is missing it says what to do instead."""
    assert "made now" in keys("init").stdout
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = keys("init")
    assert (again.exit_code, "is already there" in again.stderr, "keys rotate" in again.stderr) == (78, True, True)
    first = load_keyring(path).entries
    save_keyring(Keyring(first[:2]), path)
    assert "made what was missing: ingress, dead, receipt, operator, control" in keys("init").stdout
    assert load_keyring(path).entries[:2] == first[:2]


@pytest.mark.parametrize("trace", ["tenants/acme.json", "public-keys.json", "tenant-rows-sealed"])
def test_init_makes_no_keyring_in_the_place_of_one_that_is_gone(keys: Keys, path: Path, trace: str) -> None:
    """What lies beside it tells that there was one: a new one would open nothing."""
    (path.parent / trace).parent.mkdir(parents=True)
    (path.parent / trace).touch()
    said = keys("init")
    assert (said.exit_code, "put that one back" in said.stderr, path.exists()) == (78, True, False)


@pytest.mark.parametrize("is_there", [True, False])
def test_init_makes_nothing_while_a_system_runs(keys: Keys, path: Path, is_there: bool) -> None:
    """Neither a new keyring, which its services would take, nor what is missing in the one that is there."""
    if is_there:
        save_keyring(Keyring(create_keyring(path).entries[:2]), path)
    before = path.read_bytes() if is_there else b""
    directory = StateDirectory.take(path.parent)
    try:
        said = keys("init")
    finally:
        directory.release()
    assert said.exit_code == 78
    assert ("keys rotate" if is_there else "put its keyring back") in said.stderr
    assert (path.read_bytes() if path.exists() else b"") == before


def test_init_sees_services_that_run_by_themselves(keys: Keys, path: Path) -> None:
    """`llmos run ingest` holds no lock; it wrote down that it runs."""
    (path.parent / "run").mkdir(parents=True)
    noted = {"pid": os.getpid(), "started_at": started_at(os.getpid()), "port": 1}
    write_json(path.parent / "run" / "ingest.json", noted)
    said = keys("init")
    assert (said.exit_code, "ingest of" in said.stderr, path.exists()) == (78, True, False)


def test_list_shows_keys_without_their_bytes(keys: Keys, path: Path) -> None:
    """Purpose, tenant, state, algorithm, what is held here, times; with `--json` an object a line."""
    create_keyring(path, ["demo"])
    changed(path, lambda ring: ring.rotated("pool").prepared("control"))
    shown = keys("list").stdout
    for expected in ("decrypt_only", "prepared", "demo", "hmac-sha256"):
        assert expected in shown
    rows = [json.loads(line) for line in keys("list", "--json").stdout.splitlines()]
    assert {row["purpose"] for row in rows} == set(PURPOSES)
    assert all(row["made_at"] > 0 and row["held"] == "yes" and "key" not in row for row in rows)
    (old,) = [row for row in rows if row["retired_at"]]
    assert (old["purpose"], old["state"]) == ("pool", "decrypt_only")


@pytest.mark.parametrize("purpose", [purpose for purpose in PURPOSES if purpose != "tenant"])
def test_rotate_makes_another_key_active_and_says_what_is_next(keys: Keys, path: Path, purpose: str) -> None:
    """For every purpose; the one before stays for what it wrapped."""
    old = create_keyring(path).active(purpose)  # type: ignore[arg-type]
    said = keys("rotate", purpose)
    new = load_keyring(path).active(purpose)  # type: ignore[arg-type]
    assert new.id != old.id
    assert f"{new.id} is the key for {purpose} now" in said.stdout
    assert f"only opening from now on: {old.id}" in said.stderr
    assert json.loads(keys("rotate", purpose, "--json").stdout)["purpose"] == purpose


def test_rotate_in_two_steps_lets_copies_have_the_key_first(keys: Keys, path: Path, tmp_path: Path) -> None:
    """What is prepared goes into a worker's copy, and opens there what is wrapped after the rotation."""
    create_keyring(path)
    prepared = keys("rotate", "pool", "--prepare")
    assert "is prepared as the next key for pool" in prepared.stdout
    assert "worker, verify" in prepared.stderr
    assert keys("rotate", "pool", "--prepare").exit_code == 78
    keys("export", "--for", "worker", "--out", str(tmp_path / "copy.json"))
    rotated = keys("rotate", "pool")
    assert rotated.stdout.split()[0] == prepared.stdout.split()[0]
    assert "--prepare" not in rotated.stderr
    assert "--prepare" in keys("rotate", "pool").stderr
    key_id = prepared.stdout.split()[0]
    wrapped = load_keyring(path).rotated("pool").destroyed(load_keyring(path).active("pool").id)
    assert load_keyring(tmp_path / "copy.json").has(key_id)
    assert wrapped.has(key_id)


def test_rotate_of_a_tenant_s_key(keys: Keys, path: Path) -> None:
    """It must have one: a name that is mistyped makes nothing; --tenant goes with that purpose alone."""
    create_keyring(path, ["demo"])
    assert "is the key for tenant demo now" in keys("rotate", "tenant", "--tenant", "demo").stdout
    for words in (("tenant", "--tenant", "dmeo"), ("tenant",), ("pool", "--tenant", "demo")):
        said = keys("rotate", *words)
        assert (said.exit_code, "--tenant" in said.stderr) == (78, True)
    assert {e.tenant for e in load_keyring(path).entries} == {"", "demo"}
    assert keys("rotate", "everything").exit_code == 2


def test_rotate_to_a_hybrid_is_for_pairs(keys: Keys, path: Path) -> None:
    """Requests and dead letters, no other."""
    create_keyring(path)
    assert keys("rotate", "ingress", "--hybrid").exit_code == 0
    assert load_keyring(path).active("ingress").algorithm == "mlkem768-x25519"
    assert keys("rotate", "pool", "--hybrid").exit_code == 78


def test_what_everybody_may_have_follows_a_rotation(keys: Keys, path: Path) -> None:
    """The file of public keys, and the credentials of clients beside the system."""
    ring = create_keyring(path)
    credentials = path.parent / "tenants" / "demo.json"
    save_credentials(Credentials(tenant="demo", secret=bytes(32), system_keys=public_keys(ring)), credentials)
    said = keys("rotate", "ingress")
    now = public_keys(load_keyring(path))
    assert "demo" in said.stderr
    assert load_credentials(credentials).system_keys == now == load_public_keys(path.parent / "public-keys.json")
    assert now != public_keys(ring)


def test_export_writes_public_keys(keys: Keys, path: Path, tmp_path: Path) -> None:
    """To standard output or a file, which opens as such."""
    ring = create_keyring(path)
    out = tmp_path / "public.json"
    printed = keys("export").stdout
    keys("export", "--out", str(out))
    assert out.read_text() == printed
    assert load_public_keys(out) == public_keys(ring)
    assert keys("export", "--out", str(tmp_path)).exit_code == 78


@pytest.mark.parametrize("service", ROLES)
def test_export_for_a_service_writes_what_it_needs(keys: Keys, path: Path, tmp_path: Path, service: str) -> None:
    """To a file with mode 0600, never over another, never to a terminal."""
    create_keyring(path)
    out = tmp_path / "copy.json"
    assert keys("export", "--for", service).exit_code == 78
    assert "0600" in keys("export", "--for", service, "--out", str(out)).stdout
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert {e.purpose for e in load_keyring(out).entries if e.key} <= set(ROLES[service].secret)
    assert keys("export", "--for", service, "--out", str(out)).exit_code == 78


def test_destroy_asks_says_what_is_lost_and_destroys(keys: Keys, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A no leaves all as it was; a yes, or --yes, ends the key."""
    monkeypatch.setattr(key_advice, "SETTLE_SECONDS", 0.0)
    old = create_keyring(path).active("pool").id
    changed(path, lambda ring: ring.rotated("pool"))
    said = keys("destroy", old, stdin="n\n")
    assert said.exit_code == 1
    assert "Lost with it" in said.stderr
    assert "they fail as unreadable" in said.stderr
    assert load_keyring(path).has(old)
    assert f"{old} is destroyed here" in keys("destroy", old, stdin="y\n").stdout
    assert not load_keyring(path).has(old)
    again = keys("destroy", old, "--yes")
    assert (again.exit_code, "destroyed already" in again.stderr) == (78, True)


def test_destroy_refuses_what_is_in_use(keys: Keys, path: Path) -> None:
    """An active key, a tenant's, one that was rotated a moment ago, one that there is not."""
    ring = create_keyring(path, ["demo"])
    pool, tenant = ring.active("pool").id, ring.active("tenant", "demo").id
    for key_id, expected in ((pool, "keys rotate pool"), (tenant, "tenants erase demo"), ("00", "there is no key 00")):
        said = keys("destroy", key_id, "--yes")
        assert (said.exit_code, expected in said.stderr) == (78, True)
    changed(path, lambda ring: ring.rotated("pool"))
    assert "just now" in keys("destroy", pool, "--yes").stderr
    assert load_keyring(path).has(pool)


def test_advice_is_there_for_every_purpose() -> None:
    """What to do, what is lost, and when a key may go."""
    for purpose in PURPOSES:
        entry = fresh_key(purpose, "demo" if purpose == "tenant" else "")
        assert key_advice.after_preparation(purpose)
        assert key_advice.after_rotation(purpose, ["ab"], was_prepared=False)
        assert key_advice.lost_with(entry)
        old = msgspec.structs.replace(entry, state="decrypt_only", retired_at=100.0)
        assert key_advice.why_not_destroyed(entry, 1e9)
        assert "try again in 4 s" in key_advice.why_not_destroyed(old, 100.0 + key_advice.SETTLE_SECONDS - 4)
        assert key_advice.why_not_destroyed(old, 100.0 + key_advice.SETTLE_SECONDS) == ""
