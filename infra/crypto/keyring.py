"""The keyring: all keys of the system, what each is for, what state it is in, and how they wrap secrets. No I/O.

A key is `active` (wraps and unwraps, signs), `decrypt_only` (unwraps what it wrapped before a rotation; or, prepared for one,
what others wrap after theirs) or `destroyed` (its bytes are gone, and with them what it wrapped). A keyring never changes: a rotation gives a new one, so that what was unwrapped
under a keyring stays true for its lifetime. `keyfile` keeps it in a file; `roles` says which service needs which of it.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, Literal, Protocol, get_args

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from llmos.infra.crypto import hpke
from llmos.infra.crypto.hpke import Recipient
from llmos.infra.crypto.signatures import is_signed
from llmos.schemas.errors import BadSetting, EnvelopeRejected

Purpose = Literal["pool", "tenant", "system", "ingress", "dead", "receipt", "operator", "control"]
"""What a key is for.

- `pool`: wraps data keys of jobs for the workers; lives short.
- `tenant`: wraps data keys of one tenant's jobs, so that destroying it erases them once the pool keys of their time are gone.
- `system`: wraps tenants' secrets on the topic `tenants`, and seals its rows.
- `ingress`: clients seal requests to its public half; verify opens them.
- `dead`: dead letters are sealed to its public half; operators open them.
- `receipt`: signs receipts; anyone checks them with the public half.
- `operator`: authenticates operators' commands and queries.
- `control`: signs the scheduler's orders; workers and nodes check them with the public half.
"""
Algorithm = Literal["aes-256-gcm", "hmac-sha256", "x25519", "mlkem768-x25519", "ed25519"]
KeyState = Literal["active", "decrypt_only", "destroyed"]
PURPOSES: Final[tuple[Purpose, ...]] = get_args(Purpose)
ALGORITHMS: Final[dict[Purpose, Algorithm]] = {
    "pool": "aes-256-gcm",
    "tenant": "aes-256-gcm",
    "system": "aes-256-gcm",
    "ingress": "x25519",
    "dead": "x25519",
    "receipt": "ed25519",
    "operator": "hmac-sha256",
    "control": "ed25519",
}
"""Of fresh keys."""
Signing = Literal["receipt", "control"]
"""Purposes whose keys sign. One of another algorithm, as `control` had before, counts as not there."""
_SIGNING: Final[tuple[Purpose, ...]] = get_args(Signing)

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
SETTING: Final = "keyring_file"
_SYMMETRIC: Final[tuple[Algorithm, ...]] = ("aes-256-gcm", "hmac-sha256")


class Opener(Protocol):
    """Whatever opens what was wrapped for it. Hashable: unwrapped secrets are remembered with it."""

    def __hash__(self) -> int:
        """Told apart by identity, or by what it holds."""

    def has(self, key_id: str) -> bool:
        """Whether `unwrap` could open what this key wrapped."""

    def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        """The secret, for the `context` it was wrapped in. Raises `EnvelopeRejected`, whatever is wrong."""


class Keys(Opener, Protocol):
    """Whatever also wraps."""

    def wrap(self, purpose: Purpose, secret: bytes, context: bytes, tenant: str = "") -> tuple[str, bytes]:
        """Encrypts `secret` under the active key of `purpose`; gives the key's id and the wrapped secret."""

    def holds(self, purpose: Purpose, tenant: str = "") -> bool:
        """Whether there is an active key that `wrap` could use."""

    def active_id(self, purpose: Purpose, tenant: str = "") -> str:
        """The id of the key that `wrap` would use now; empty where there is none."""


class SystemKeys(Keys, Protocol):
    """All that a service asks of the system's keys: a file can stand behind it, or a key management service."""

    def mac(self, purpose: Purpose, data: bytes) -> bytes:
        """HMAC-SHA-256 of `data` under the active key of `purpose`, 32 bytes. Raises `BadSetting` where there is none."""

    def check_mac(self, purpose: Purpose, data: bytes, tag: bytes) -> bool:
        """Whether `tag` was made under the active key of `purpose`, or one before it that is not destroyed."""

    def sign(self, purpose: Signing, data: bytes) -> tuple[str, bytes]:
        """The id of the active key of `purpose`, and its Ed25519 signature (64 bytes). Raises `BadSetting` without that key."""

    def check_signed(self, purpose: Signing, data: bytes, signature: bytes) -> bool:
        """Whether `data` was signed under a key of `purpose` that is not destroyed: the active one, one before it, or one
        that is prepared. The public halves are enough."""


class KeyEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A key as a file has it (JSON; bytes are base64)."""

    id: str
    purpose: Purpose
    state: KeyState
    key: bytes = b""
    """Secret or private key; empty where it was destroyed, or where only the public half is needed."""
    public: bytes = b""
    """Of pairs: the public half, as `hpke` has it on the wire; of ed25519 its 32 raw bytes."""
    algorithm: Algorithm = "aes-256-gcm"
    tenant: str = ""
    """Of purpose `tenant`: whose."""
    made_at: float = 0.0
    """Unix seconds."""
    retired_at: float = 0.0
    """When a rotation ended its being active."""
    destroyed_at: float = 0.0

    @property
    def is_prepared(self) -> bool:
        """It was never active yet."""
        return self.state == "decrypt_only" and not self.retired_at

    @property
    def is_outdated(self) -> bool:
        """It is for signing and cannot: made by an earlier version, it is of no more use."""
        return self.purpose in _SIGNING and self.algorithm != "ed25519"

    def __repr__(self) -> str:
        return f"KeyEntry({self.id}, {self.purpose}, {self.state})"


class Keyring:
    """Keys in memory.

    Symmetric wrapping: AES-256-GCM with a random 96-bit nonce: wrapped = nonce ‖ ciphertext ‖ tag. NIST SP 800-38D
    (section 8.3) allows 2**32 of these per key; rotate before that many secrets. Wrapping for pairs: see `hpke`.
    """

    def __init__(self, entries: Iterable[KeyEntry]) -> None:
        """Raises `BadSetting`: an id is there twice, a purpose has two active keys, a key is not whole."""
        self._entries = tuple(entries)
        _check(self._entries)
        self._by_id = {entry.id: entry for entry in self._entries}
        self._ciphers = {e.id: AESGCM(e.key) for e in self._entries if e.algorithm == "aes-256-gcm" and e.key}
        self._signers = {
            e.id: Ed25519PrivateKey.from_private_bytes(e.key)
            for e in self._entries
            if e.algorithm == "ed25519" and e.key
        }
        self._recipients = {
            e.id: hpke.private_key(e.algorithm, e.key)
            for e in self._entries
            if e.algorithm in ("x25519", "mlkem768-x25519") and e.key
        }
        self._verifiers = [
            (e.purpose, Ed25519PublicKey.from_public_bytes(e.public))
            for e in self._entries
            if e.algorithm == "ed25519" and e.state != "destroyed"
        ]
        self._active = {(e.purpose, e.tenant): e for e in self._entries if e.state == "active" and not e.is_outdated}

    def __repr__(self) -> str:
        return f"Keyring({list(self._entries)})"

    @property
    def entries(self) -> Sequence[KeyEntry]:
        """All keys, destroyed ones included."""
        return self._entries

    @staticmethod
    def memory(*tenants: str) -> Keyring:
        """A fresh keyring with a key for every purpose, and one for each of these tenants."""
        return Keyring([]).completed(tenants)

    def completed(self, tenants: Iterable[str] = ()) -> Keyring:
        """The keyring with a fresh key for every purpose that has no active one, and for each of these tenants. Keys that
        are outdated are retired."""
        wanted = [(purpose, "") for purpose in PURPOSES if purpose != "tenant"] + [("tenant", name) for name in tenants]
        fresh = [fresh_key(purpose, tenant) for purpose, tenant in wanted if (purpose, tenant) not in self._active]  # type: ignore[arg-type]
        return Keyring([*map(_without_outdated, self._entries), *fresh]) if fresh else self

    def prepared(self, purpose: Purpose, tenant: str = "", algorithm: Algorithm | None = None) -> Keyring:
        """The keyring with a key that only opens and checks until the next rotation makes it the active one: so that all
        copies of the keyring can have it before anybody uses it.

        Raises:
            BadSetting: there is one already.
        """
        waiting = self.waiting(purpose, tenant)
        if waiting is not None:
            raise bad(f"key {waiting.id} is prepared already; `llmos keys rotate {purpose}` puts it to use")
        fresh = fresh_key(purpose, tenant, algorithm)
        return Keyring([*self._entries, msgspec.structs.replace(fresh, state="decrypt_only")])

    def waiting(self, purpose: Purpose, tenant: str = "") -> KeyEntry | None:
        """The key that is prepared for the next rotation."""
        mine = (e for e in self._entries if (e.purpose, e.tenant) == (purpose, tenant))
        found = (e for e in mine if e.is_prepared and not e.is_outdated)
        return next(found, None)

    def rotated(self, purpose: Purpose, tenant: str = "", algorithm: Algorithm | None = None) -> Keyring:
        """The keyring with another active key of `purpose`: that which was prepared, else a new one, also where the prepared
        one is not of the `algorithm` asked for. The one before only decrypts from then on."""
        now = time.time()
        waiting = self.waiting(purpose, tenant)
        if waiting is None or algorithm not in (None, waiting.algorithm):
            waiting = fresh_key(purpose, tenant, algorithm)
        kept = [
            msgspec.structs.replace(e, state="decrypt_only", retired_at=now)
            if (e.purpose, e.tenant, e.state) == (purpose, tenant, "active")
            else e
            for e in self._entries
            if e.id != waiting.id
        ]
        return Keyring([*kept, msgspec.structs.replace(waiting, state="active")])

    def destroyed(self, key_id: str, *, active: bool = False) -> Keyring:
        """The keyring without the bytes of `key_id`: what it wrapped can never be opened again.

        Raises:
            BadSetting: there is no such key, or it is still active (`active`: that is meant, of a tenant's key).
        """
        states = ("decrypt_only", "active") if active else ("decrypt_only",)
        if key_id not in {e.id for e in self._entries if e.state in states}:
            raise bad(f"key {key_id} is not among those that may be destroyed; rotate it first")
        now = time.time()
        return Keyring(
            msgspec.structs.replace(e, state="destroyed", key=b"", destroyed_at=now) if e.id == key_id else e
            for e in self._entries
        )

    def active(self, purpose: Purpose, tenant: str = "") -> KeyEntry:
        """The key that is used now. Raises `BadSetting` where there is none."""
        entry = self._active.get((purpose, tenant))
        if entry is None:
            whose = f" of tenant {tenant}" if tenant else ""
            raise bad(f"there is no active key for {purpose!r}{whose}; `llmos keys init` makes what is missing")
        return entry

    def holds(self, purpose: Purpose, tenant: str = "") -> bool:
        """Whether there is an active key of `purpose`."""
        return (purpose, tenant) in self._active

    def active_id(self, purpose: Purpose, tenant: str = "") -> str:
        """The id of the active key of `purpose`; empty where there is none."""
        entry = self._active.get((purpose, tenant))
        return entry.id if entry is not None else ""

    def has(self, key_id: str) -> bool:
        """Whether `unwrap` could open what this key wrapped."""
        entry = self._by_id.get(key_id)
        return entry is not None and bool(entry.key)

    def wrap(self, purpose: Purpose, secret: bytes, context: bytes, tenant: str = "") -> tuple[str, bytes]:
        """Encrypts `secret` under the active key of `purpose`; of a pair the public half is enough.

        Raises:
            BadSetting: there is no such key here.
        """
        entry = self.active(purpose, tenant)
        if entry.algorithm in ("x25519", "mlkem768-x25519"):
            return entry.id, hpke.wrap_for(entry.public, secret, context)
        cipher = self._ciphers.get(entry.id)
        if cipher is None:
            raise bad(f"the key for {purpose!r} wraps nothing here")
        nonce = secrets.token_bytes(NONCE_BYTES)
        return entry.id, nonce + cipher.encrypt(nonce, secret, _bound(entry.id, context))

    def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        """The secret, for the `context` it was wrapped in. Raises `EnvelopeRejected`, whatever is wrong."""
        entry = self._by_id.get(key_id)
        if entry is None or not entry.key:
            raise EnvelopeRejected()
        if entry.algorithm in ("x25519", "mlkem768-x25519"):
            return hpke.unwrap_with(entry.algorithm, self._recipients[key_id], wrapped, context)
        cipher = self._ciphers.get(key_id)
        if cipher is None or len(wrapped) < NONCE_BYTES + TAG_BYTES:
            raise EnvelopeRejected()
        try:
            return cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], _bound(key_id, context))
        except InvalidTag:
            raise EnvelopeRejected() from None

    def mac(self, purpose: Purpose, data: bytes) -> bytes:
        """HMAC-SHA-256 of `data` under the active key of `purpose`, 32 bytes. Raises `BadSetting` where there is none."""
        entry = self.active(purpose)
        if not entry.key or entry.algorithm not in _SYMMETRIC:
            raise bad(f"the key for {purpose!r} is not held here")
        return _mac(entry, data)

    def check_mac(self, purpose: Purpose, data: bytes, tag: bytes) -> bool:
        """Whether `tag` was made under the active key of `purpose`, or one before it that is not destroyed."""
        keys = (e for e in self._entries if e.purpose == purpose and e.key and e.algorithm in _SYMMETRIC)
        tags = [_mac(e, data) for e in keys]
        return sum(hmac.compare_digest(tag, own) for own in tags) > 0

    def sign(self, purpose: Signing, data: bytes) -> tuple[str, bytes]:
        """The id of the active key of `purpose`, and its Ed25519 signature (RFC 8032, 64 bytes). Raises `BadSetting` without
        that key."""
        entry = self.active(purpose)
        signer = self._signers.get(entry.id)
        if signer is None:
            raise bad(f"the key that signs for {purpose!r} is not held here")
        return entry.id, signer.sign(data)

    def check_signed(self, purpose: Signing, data: bytes, signature: bytes) -> bool:
        """Whether `data` was signed under a key of `purpose` that is not destroyed."""
        return any(is_signed(key, data, signature) for its, key in self._verifiers if its == purpose)


def fresh_key(purpose: Purpose, tenant: str = "", algorithm: Algorithm | None = None) -> KeyEntry:
    """A new active key."""
    algorithm = algorithm or ALGORITHMS[purpose]
    key, public = _material(algorithm)
    key_id = hpke.key_id_of(public) if public else secrets.token_hex(8)
    return KeyEntry(
        id=key_id,
        purpose=purpose,
        state="active",
        key=key,
        public=public,
        algorithm=algorithm,
        tenant=tenant,
        made_at=time.time(),
    )


def _material(algorithm: Algorithm) -> tuple[bytes, bytes]:
    """Secret or private bytes, public bytes."""
    if algorithm in ("x25519", "mlkem768-x25519"):
        kem: Recipient = algorithm
        private = hpke.generate_private(kem)
        return private, hpke.public_of(kem, private)
    if algorithm == "ed25519":
        own = Ed25519PrivateKey.generate()
        return own.private_bytes_raw(), own.public_key().public_bytes_raw()
    return secrets.token_bytes(KEY_BYTES), b""


def _without_outdated(entry: KeyEntry) -> KeyEntry:
    if not entry.is_outdated or entry.state == "destroyed":
        return entry
    return msgspec.structs.replace(entry, state="decrypt_only", retired_at=entry.retired_at or time.time())


def _mac(entry: KeyEntry, data: bytes) -> bytes:
    """Keys that also wrap authenticate under a key of its own, made of them."""
    key = entry.key if entry.algorithm == "hmac-sha256" else hmac.digest(entry.key, b"llmos-mac-key-1", "sha256")
    return hmac.digest(key, data, "sha256")


def _bound(key_id: str, context: bytes) -> bytes:
    """What a wrapped secret is bound to. Ids are hex, so that the parts cannot run into each other."""
    return b"llmos-wrap-1\0" + key_id.encode() + b"\0" + context


def _check(entries: Sequence[KeyEntry]) -> None:
    if len({e.id for e in entries}) != len(entries):
        raise bad("two keys of the keyring have the same id")
    for entry in entries:
        if not 1 <= len(entry.id) <= 64 or any(c not in "0123456789abcdef" for c in entry.id):
            raise bad("a key id of the keyring is not short lower-case hex")
        if (entry.purpose == "tenant") != bool(entry.tenant):
            raise bad(f"key {entry.id} names a tenant and is not for one, or the other way round")
        if not _is_whole(entry):
            raise bad(f"key {entry.id} is not whole")
    active = Counter((e.purpose, e.tenant) for e in entries if e.state == "active")
    for (purpose, _), count in active.items():
        if count > 1:
            raise bad(f"the keyring has several active keys for {purpose!r}")


def _is_whole(entry: KeyEntry) -> bool:
    """All there, and a pair's halves belong together: what is sealed to another half would be lost."""
    if entry.algorithm in ("x25519", "mlkem768-x25519"):
        public, private = hpke.PUBLIC_BYTES[entry.algorithm], hpke.PRIVATE_BYTES[entry.algorithm]
    elif entry.algorithm == "ed25519":
        public, private = KEY_BYTES, KEY_BYTES
    else:
        public, private = 0, KEY_BYTES
    if len(entry.public) != public or (public and hpke.key_id_of(entry.public) != entry.id):
        return False
    if not entry.key:
        return entry.state == "destroyed" or bool(public)
    return entry.state != "destroyed" and len(entry.key) == private and _public_of(entry) == entry.public


def _public_of(entry: KeyEntry) -> bytes:
    if entry.algorithm in ("x25519", "mlkem768-x25519"):
        return hpke.public_of(entry.algorithm, entry.key)
    if entry.algorithm == "ed25519":
        return Ed25519PrivateKey.from_private_bytes(entry.key).public_key().public_bytes_raw()
    return b""


def bad(problem: str) -> BadSetting:
    """What is wrong with the keyring."""
    return BadSetting(setting=SETTING, problem=problem)
