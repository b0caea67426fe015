"""The keyring: key-encryption keys in a file that only its owner can read, and how they wrap secrets.

Two purposes: `pool` wraps the data keys of jobs (verify and workers hold it), `system` wraps tenants' secrets and dead
letters. A key is `active` (wraps and unwraps), `decrypt_only` (unwraps what it wrapped before a rotation) or
`destroyed` (its bytes are gone, and with them what it wrapped). A keyring never changes: a rotation gives a new one,
so that what was unwrapped under a keyring stays true for its lifetime.
"""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol, get_args

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from llmos.schemas.errors import BadSetting, EnvelopeRejected

Purpose = Literal["pool", "system"]
KeyState = Literal["active", "decrypt_only", "destroyed"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
SETTING = "keyring_file"


class Keys(Protocol):
    """Whatever holds key-encryption keys: a file, or a key management service. Hashable: unwrapped keys are remembered."""

    def __hash__(self) -> int:
        """Keyrings are told apart by identity, or by what they hold."""

    def wrap(self, purpose: Purpose, secret: bytes, context: bytes) -> tuple[str, bytes]:
        """Encrypts `secret` under the active key of `purpose`; gives the key's id and the wrapped secret."""

    def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        """The secret, for the `context` it was wrapped in. Raises `EnvelopeRejected`, whatever is wrong."""


class KeyEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key as the file has it (JSON; `key` is base64)."""

    id: str
    purpose: Purpose
    state: KeyState
    key: bytes
    made_at: float
    """Unix seconds."""

    def __repr__(self) -> str:
        return f"KeyEntry({self.id}, {self.purpose}, {self.state})"


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: Literal[1] = 1
    keys: list[KeyEntry]


class Keyring:
    """Keys kept in a file of mode 0600.

    AES-256-GCM with a random 96-bit nonce: wrapped = nonce ‖ ciphertext ‖ tag. NIST SP 800-38D (section 8.3) allows
    2**32 of these per key; rotate before that many jobs.
    """

    def __init__(self, entries: Iterable[KeyEntry]) -> None:
        """Raises `BadSetting`: an id is there twice, a purpose has not exactly one active key, a key is not whole."""
        self._entries = tuple(entries)
        _check(self._entries)
        self._ciphers = {e.id: AESGCM(e.key) for e in self._entries if e.state != "destroyed"}
        self._active = {e.purpose: e.id for e in self._entries if e.state == "active"}

    def __repr__(self) -> str:
        return f"Keyring({list(self._entries)})"

    @property
    def entries(self) -> Sequence[KeyEntry]:
        """All keys, destroyed ones included."""
        return self._entries

    @staticmethod
    def memory() -> Keyring:
        """A fresh keyring that no file holds, for tests."""
        return Keyring(_fresh(purpose) for purpose in PURPOSES)

    @staticmethod
    def create(path: Path) -> Keyring:
        """The keyring at `path`; makes one with one key per purpose where there is none.

        Raises:
            BadSetting: it exists and cannot be used, or cannot be written.
        """
        if path.exists():
            return Keyring.load(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise _bad(f"{path.parent} cannot be made: {problem.strerror}") from None
        try:
            _write(path, Keyring.memory(), exclusive=True)
        except FileExistsError:
            pass  # another process was first, and its keys are the keys
        except OSError as problem:
            raise _bad(f"{path} cannot be written: {problem.strerror}") from None
        return Keyring.load(path)

    @staticmethod
    def load(path: Path) -> Keyring:
        """The keyring at `path`.

        Raises:
            BadSetting: it is missing, unreadable, damaged, or others may read it.
        """
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                if mode & 0o077:
                    raise _bad(f"{path} has mode {mode:04o} and others may use it; run `chmod 600 {path}`")
                data = file.read()
        except FileNotFoundError:
            raise _bad(f"there is no keyring at {path}; `llmos up` or `llmos keys init` makes one") from None
        except OSError as problem:
            raise _bad(f"{path} cannot be read: {problem.strerror}") from None
        try:
            return Keyring(msgspec.json.decode(data, type=_File).keys)
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            raise _bad(f"{path} is not a keyring: {problem}") from None

    def save(self, path: Path) -> None:
        """Replaces the file at `path` at once: a reader sees the old keyring or the new one.

        Raises:
            BadSetting: it cannot be written.
        """
        try:
            _write(path, self, exclusive=False)
        except OSError as problem:
            raise _bad(f"{path} cannot be written: {problem.strerror}") from None

    def rotated(self, purpose: Purpose) -> Keyring:
        """The keyring with a new active key of `purpose`; the one before only decrypts from then on."""
        kept = [
            msgspec.structs.replace(e, state="decrypt_only") if e.purpose == purpose and e.state == "active" else e
            for e in self._entries
        ]
        return Keyring([*kept, _fresh(purpose)])

    def destroyed(self, key_id: str) -> Keyring:
        """The keyring without the bytes of `key_id`: what it wrapped can never be opened again.

        Raises:
            BadSetting: there is no such key, or it is still active.
        """
        if key_id not in {e.id for e in self._entries if e.state != "active"}:
            raise _bad(f"key {key_id} is not among those that may be destroyed; rotate it first")
        return Keyring(
            msgspec.structs.replace(e, state="destroyed", key=b"") if e.id == key_id else e for e in self._entries
        )

    def wrap(self, purpose: Purpose, secret: bytes, context: bytes) -> tuple[str, bytes]:
        """Encrypts `secret` under the active key of `purpose`; gives the key's id and the wrapped secret."""
        key_id = self._active[purpose]
        nonce = secrets.token_bytes(NONCE_BYTES)
        return key_id, nonce + self._ciphers[key_id].encrypt(nonce, secret, _bound(key_id, context))

    def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        """The secret, for the `context` it was wrapped in. Raises `EnvelopeRejected`, whatever is wrong."""
        cipher = self._ciphers.get(key_id)
        if cipher is None or len(wrapped) < NONCE_BYTES + TAG_BYTES:
            raise EnvelopeRejected()
        try:
            return cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], _bound(key_id, context))
        except InvalidTag:
            raise EnvelopeRejected() from None


def _bound(key_id: str, context: bytes) -> bytes:
    """What a wrapped secret is bound to. Ids are hex, so that the parts cannot run into each other."""
    return b"llmos-wrap-1\0" + key_id.encode() + b"\0" + context


def _fresh(purpose: Purpose) -> KeyEntry:
    return KeyEntry(
        id=secrets.token_hex(8),
        purpose=purpose,
        state="active",
        key=AESGCM.generate_key(8 * KEY_BYTES),
        made_at=time.time(),
    )


def _check(entries: Sequence[KeyEntry]) -> None:
    if len({e.id for e in entries}) != len(entries):
        raise _bad("two keys of the keyring have the same id")
    for entry in entries:
        if not 1 <= len(entry.id) <= 64 or any(c not in "0123456789abcdef" for c in entry.id):
            raise _bad("a key id of the keyring is not short lower-case hex")
        if len(entry.key) != (0 if entry.state == "destroyed" else KEY_BYTES):
            raise _bad(f"key {entry.id} has {len(entry.key)} bytes")
    for purpose in PURPOSES:
        if sum(e.purpose == purpose and e.state == "active" for e in entries) != 1:
            raise _bad(f"the keyring has not exactly one active key for {purpose!r}")


def _write(path: Path, keyring: Keyring, *, exclusive: bool) -> None:
    """Writes beside `path`, then puts it there in one step; `exclusive`: FileExistsError where a file is already."""
    data = msgspec.json.format(msgspec.json.encode(_File(keys=list(keyring.entries))), indent=2)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if exclusive:
            os.link(beside, path)
        else:
            os.replace(beside, path)
        _sync_directory(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _bad(problem: str) -> BadSetting:
    return BadSetting(setting=SETTING, problem=problem)
