"""The keyring: a file for its owner alone, replaced at once, never half right."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from llmos.infra.crypto.keyfile import create_keyring, load_keyring, save_keyring
from llmos.infra.crypto.keyring import PURPOSES, Keyring
from llmos.schemas.errors import BadSetting, EnvelopeRejected


def test_create_makes_one_active_key_per_purpose(tmp_path: Path) -> None:
    """The file has mode 0600, its folder is made, and nothing else is left lying there."""
    path = tmp_path / "state" / "keyring.json"
    keyring = create_keyring(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [(e.purpose, e.state) for e in keyring.entries] == [(purpose, "active") for purpose in PURPOSES]
    assert list(path.parent.iterdir()) == [path]
    assert set(json.loads(path.read_bytes())["keys"][0]) == {"id", "purpose", "state", "key", "made_at"}


def test_create_keeps_what_exists(tmp_path: Path) -> None:
    """A second start reads the keys of the first."""
    path = tmp_path / "keyring.json"
    assert create_keyring(path).entries == create_keyring(path).entries == load_keyring(path).entries


def test_many_that_create_at_once_agree(tmp_path: Path) -> None:
    """Services that start side by side end up with the same keys."""
    path = tmp_path / "keyring.json"
    found: list[Any] = []
    start = threading.Barrier(8)

    def create() -> None:
        start.wait(10)
        found.append(create_keyring(path).entries)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(found) == 8
    assert all(entries == found[0] for entries in found)


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
        lambda file: file.update(more=1),
        lambda file: file["keys"].pop(),
        lambda file: file["keys"].append(file["keys"][0]),
        lambda file: file["keys"][0].update(state="resting"),
        lambda file: file["keys"][0].update(state="decrypt_only"),
        lambda file: file["keys"][0].update(key="AAAA"),
        lambda file: file["keys"][0].update(key="not base64!"),
        lambda file: file["keys"][0].update(id="../x"),
        lambda file: file["keys"][0].update(id=""),
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
    """What an active key wrapped opens after a rotation, and never after its destruction."""
    path = tmp_path / "keyring.json"
    keyring = create_keyring(path)
    key_id, wrapped = keyring.wrap("pool", b"secret", b"job")
    save_keyring(keyring.rotated("pool"), path)
    rotated = load_keyring(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert rotated.unwrap(key_id, wrapped, b"job") == b"secret"
    assert rotated.wrap("pool", b"secret", b"job")[0] != key_id
    save_keyring(rotated.destroyed(key_id), path)
    with pytest.raises(EnvelopeRejected):
        load_keyring(path).unwrap(key_id, wrapped, b"job")


def test_an_active_key_is_not_destroyed() -> None:
    """It must be rotated first."""
    keyring = Keyring.memory()
    with pytest.raises(BadSetting, match="rotate"):
        keyring.destroyed(keyring.entries[0].id)


def test_a_keyring_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """A file where its folder should be."""
    (tmp_path / "state").touch()
    with pytest.raises(BadSetting, match="cannot be made"):
        create_keyring(tmp_path / "state" / "keyring.json")
    with pytest.raises(BadSetting, match="cannot be written"):
        save_keyring(Keyring.memory(), tmp_path / "no folder" / "keyring.json")


def test_wrapping_is_bound_to_context_and_key() -> None:
    """Another context, another key, or any changed byte opens nothing; wrapping twice differs."""
    keyring = Keyring.memory()
    key_id, wrapped = keyring.wrap("pool", b"secret", b"job")
    assert keyring.unwrap(key_id, wrapped, b"job") == b"secret"
    assert keyring.wrap("pool", b"secret", b"job")[1] != wrapped
    other_id, _ = keyring.wrap("system", b"", b"job")
    tries = [(key_id, wrapped, b"jo"), (other_id, wrapped, b"job"), ("00", wrapped, b"job"), (key_id, b"", b"job")]
    tries += [(key_id, wrapped[:i] + bytes([wrapped[i] ^ 1]) + wrapped[i + 1 :], b"job") for i in range(len(wrapped))]
    for attempt in tries:
        with pytest.raises(EnvelopeRejected):
            keyring.unwrap(*attempt)


def test_no_key_is_shown_by_repr() -> None:
    """Neither by the keyring nor by its entries: they end up in logs and tracebacks."""
    keyring = Keyring.memory()
    shown = repr(keyring) + str(keyring.entries[0])
    assert keyring.entries[0].id in shown
    assert not any(repr(entry.key)[2:-1] in shown or entry.key.hex() in shown for entry in keyring.entries)
