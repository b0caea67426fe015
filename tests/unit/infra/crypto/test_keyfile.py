"""The keyring's file: for its owner alone, replaced at once, changed by one at a time, never half right."""

from __future__ import annotations

import fcntl
import json
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from llmos.infra.crypto import keyfile as module
from llmos.infra.crypto.credentials import (
    Credentials,
    ReplyKey,
    encode_public_keys,
    load_credentials,
    load_public_keys,
    public_keys,
    save_credentials,
)
from llmos.infra.crypto.keyfile import changed, create_keyring, export_keyring, load_keyring, save_keyring
from llmos.infra.crypto.keyring import PURPOSES, Keyring
from llmos.infra.crypto.roles import ROLES, for_service
from llmos.schemas.errors import BadSetting, EnvelopeRejected


def test_create_makes_one_active_key_per_purpose(tmp_path: Path) -> None:
    """The file has mode 0600, its folder is made, and nothing else is left lying there."""
    path = tmp_path / "state" / "keyring.json"
    keyring = create_keyring(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [(e.purpose, e.state) for e in keyring.entries] == [(p, "active") for p in PURPOSES if p != "tenant"]
    assert list(path.parent.iterdir()) == [path]
    file = json.loads(path.read_bytes())
    assert (set(file), file["version"]) == ({"version", "keys"}, 1)
    assert set(file["keys"][0]) == {"id", "purpose", "state", "key", "made_at"}


def test_create_keeps_what_exists_and_makes_what_is_missing(tmp_path: Path) -> None:
    """A second start reads the keys of the first; tenants' keys are added."""
    path = tmp_path / "keyring.json"
    first = create_keyring(path)
    assert first.entries == create_keyring(path).entries == load_keyring(path).entries
    more = create_keyring(path, ["demo", "acme"])
    assert more.entries[: len(first.entries)] == first.entries
    assert [e.tenant for e in load_keyring(path).entries if e.purpose == "tenant"] == ["demo", "acme"]


def test_a_file_of_before_is_completed(tmp_path: Path) -> None:
    """It has keys for the pool and the system alone; those stay as they are and what they wrapped opens."""
    path = tmp_path / "keyring.json"
    path.touch(0o600)
    old = Keyring(e for e in Keyring.memory().entries if e.purpose in ("pool", "system"))
    keys = [
        {"id": e.id, "purpose": e.purpose, "state": "active", "key": json.loads(module.msgspec.json.encode(e.key)), "made_at": e.made_at}
        for e in old.entries
    ]  # fmt: skip
    path.write_text(json.dumps({"version": 1, "keys": keys}))
    wrapped = old.wrap("system", b"secret", b"tenant")
    keyring = create_keyring(path)
    assert keyring.unwrap(*wrapped, b"tenant") == b"secret"
    assert {e.purpose for e in keyring.entries if e.state == "active"} == set(PURPOSES) - {"tenant"}
    assert load_keyring(path).entries == keyring.entries


def test_many_that_create_at_once_agree(tmp_path: Path) -> None:
    """Services that start side by side end up with the same keys, also where there was a file to complete."""
    for path in (tmp_path / "new.json", tmp_path / "old.json"):
        if path.name == "old.json":
            save_keyring(Keyring(Keyring.memory().entries[:2]), path)
        found = _at_once(8, lambda _, path=path: create_keyring(path, ["demo"]).entries)
        assert len(found) == 8
        assert all(entries == found[0] for entries in found)


def test_no_change_is_lost(tmp_path: Path) -> None:
    """Each of many that change it at once sees what those before it made."""
    path = tmp_path / "keyring.json"
    create_keyring(path)
    _at_once(8, lambda i: changed(path, lambda keyring: keyring.completed([f"tenant-{i}"])))
    assert {e.tenant for e in load_keyring(path).entries if e.tenant} == {f"tenant-{i}" for i in range(8)}


def test_a_lock_that_is_held_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is bounded; what `change` raises ends the lock."""
    path = tmp_path / "keyring.json"
    create_keyring(path)
    with pytest.raises(BadSetting, match="rotate it first"):
        changed(path, lambda keyring: keyring.destroyed("00"))
    changed(path, lambda keyring: keyring.rotated("pool"))
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.0)
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.0)
    with (tmp_path / ".keyring.json.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BadSetting, match="another process"):
            changed(path, lambda keyring: keyring.rotated("pool"))


def test_a_missing_keyring_says_how_to_make_one(tmp_path: Path) -> None:
    """The message names the setting and both commands."""
    with pytest.raises(BadSetting, match=r"keyring_file.*`llmos up` or `llmos keys init`"):
        load_keyring(tmp_path / "none.json")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o666])
def test_a_keyring_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    """Whatever bit of group or others is set; the message says what to run."""
    path = tmp_path / "keyring.json"
    create_keyring(path)
    path.chmod(mode)
    with pytest.raises(BadSetting, match="chmod 600"):
        load_keyring(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.update(version=2),
        lambda file: file.pop("version"),
        lambda file: file.update(more=1),
        lambda file: file["keys"][0].update(more=1),
        lambda file: file["keys"].append(file["keys"][0]),
        lambda file: file["keys"][0].update(state="resting"),
        lambda file: file["keys"][0].update(state="destroyed"),
        lambda file: file["keys"][0].update(purpose="everything"),
        lambda file: file["keys"][0].update(key="AAAA"),
        lambda file: file["keys"][0].update(key=""),
        lambda file: file["keys"][0].update(key="not base64!"),
        lambda file: file["keys"][0].update(id="../x"),
        lambda file: file["keys"][0].update(id=""),
        lambda file: file["keys"][2].update(public=file["keys"][3]["public"]),
        lambda file: file["keys"][2].update(key=file["keys"][3]["key"]),
    ],
)
def test_a_damaged_keyring_is_refused(tmp_path: Path, change: Any) -> None:
    """Nothing is guessed, and the message shows no key."""
    path = tmp_path / "keyring.json"
    create_keyring(path)
    file = json.loads(path.read_bytes())
    keys = [entry["key"] for entry in file["keys"]]
    change(file)
    path.write_text(json.dumps(file))
    with pytest.raises(BadSetting, match="keyring_file") as caught:
        load_keyring(path)
    assert not any(key in str(caught.value) for key in keys)


def test_a_file_that_is_no_keyring_is_refused(tmp_path: Path) -> None:
    """Neither JSON nor bytes of another kind."""
    path = tmp_path / "keyring.json"
    path.touch(0o600)
    for content in (b"", b"\xff\xfe", b"[]", b'{"keys": 5}'):
        path.write_bytes(content)
        with pytest.raises(BadSetting, match="keyring"):
            load_keyring(path)


def test_rotation_and_destruction_are_saved(tmp_path: Path) -> None:
    """What an active key wrapped opens after a rotation, and never after its destruction; the file has no trace of it."""
    path = tmp_path / "keyring.json"
    keyring = create_keyring(path)
    key_id, wrapped = keyring.wrap("pool", b"secret", b"job")
    key = json.loads(path.read_bytes())["keys"][0]["key"]
    changed(path, lambda keyring: keyring.rotated("pool"))
    rotated = load_keyring(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert rotated.unwrap(key_id, wrapped, b"job") == b"secret"
    assert rotated.wrap("pool", b"secret", b"job")[0] != key_id
    assert key in path.read_text()
    changed(path, lambda keyring: keyring.destroyed(key_id))
    with pytest.raises(EnvelopeRejected):
        load_keyring(path).unwrap(key_id, wrapped, b"job")
    assert key not in path.read_text()


def test_a_keyring_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """A file where its folder should be."""
    (tmp_path / "state").touch()
    with pytest.raises(BadSetting, match="cannot be made"):
        create_keyring(tmp_path / "state" / "keyring.json")
    nowhere = tmp_path / "no folder" / "keyring.json"
    with pytest.raises(BadSetting, match="cannot be written"):
        save_keyring(Keyring.memory(), nowhere)
    with pytest.raises(BadSetting, match="cannot be locked"):
        changed(nowhere, lambda keyring: keyring)
    with pytest.raises(BadSetting, match="cannot be written"):
        export_keyring(Keyring.memory(), "worker", nowhere)


@pytest.mark.parametrize("service", ROLES)
def test_a_copy_has_what_its_service_needs_and_is_never_changed(tmp_path: Path, service: str) -> None:
    """It loads as a keyring, 0600; no command adds a key of its own to it; an export replaces no file."""
    keyring, path = Keyring.memory("demo"), tmp_path / "copy.json"
    export_keyring(keyring, service, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_keyring(path).entries == for_service(keyring, service).entries
    for change in (lambda: changed(path, lambda copy: copy.rotated("control")), lambda: create_keyring(path, ["acme"])):
        with pytest.raises(BadSetting, match=f"is a copy for {service}"):
            change()
    with pytest.raises(BadSetting, match="replaces no file"):
        export_keyring(keyring, service, path)


def test_credentials_are_for_their_owner(tmp_path: Path) -> None:
    """They come back whole, with mode 0600; others' eyes, damage and absence are told, and nothing secret is shown."""
    path = tmp_path / "tenants" / "demo.json"
    keyring = Keyring.memory().rotated("receipt")
    credentials = Credentials(
        tenant="demo", secret=bytes(range(32)), reply_keys=[ReplyKey.fresh()], system_keys=public_keys(keyring)
    )
    save_credentials(credentials, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_credentials(path) == credentials
    assert credentials.ingress is not None
    assert credentials.ingress.key == keyring.active("ingress").public
    assert Credentials(tenant="demo").ingress is None
    assert repr(credentials.reply_keys[0].private)[2:-1] not in repr(credentials) + repr(credentials.reply_keys)
    path.chmod(0o640)
    with pytest.raises(BadSetting, match="chmod 600"):
        load_credentials(path)
    path.chmod(0o600)
    path.write_text("[]")
    with pytest.raises(BadSetting, match="holds no credentials"):
        load_credentials(path)
    with pytest.raises(BadSetting, match="No such file"):
        load_credentials(tmp_path / "none.json")
    with pytest.raises(BadSetting, match="cannot be written"):
        save_credentials(credentials, path / "below.json")


def test_public_keys_are_what_everybody_may_have(tmp_path: Path) -> None:
    """The key for requests, and all that signed receipts; no secret half; their file comes back whole."""
    keyring = Keyring.memory("demo").rotated("receipt").rotated("ingress")
    found = public_keys(keyring)
    assert sorted((key.purpose, key.active) for key in found) == [
        ("ingress", True),
        ("receipt", False),
        ("receipt", True),
    ]
    path = tmp_path / "public-keys.json"
    path.write_bytes(encode_public_keys(found))
    assert load_public_keys(path) == found
    secrets = [json.loads(module.msgspec.json.encode(e.key)) for e in keyring.entries]
    assert not any(secret in path.read_text() for secret in secrets)
    for wrong in (b"{}", b"\xff"):
        path.write_bytes(wrong)
        with pytest.raises(BadSetting, match="holds no public keys"):
            load_public_keys(path)
    with pytest.raises(BadSetting, match="No such file"):
        load_public_keys(tmp_path / "none.json")


def _at_once(count: int, do: Any) -> list[Any]:
    """What each of `count` threads got that began together."""
    found: list[Any] = []
    start = threading.Barrier(count)

    def work(i: int) -> None:
        start.wait(10)
        found.append(do(i))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def test_credentials_need_nothing_of_posix() -> None:
    """Clients run elsewhere, too; to change a keyring needs its locks."""
    program = "import sys; sys.modules['fcntl'] = None; import llmos.infra.crypto.credentials"
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
