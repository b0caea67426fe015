"""A tenant's credentials: one file (JSON, mode 0600) with all that a client needs to seal, to prove who it is, and to read.

`llmos tenants add` writes it. Who has it, is the tenant.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from llmos.infra.crypto import hpke
from llmos.infra.crypto.hpke import Recipient
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.private_file import read_private, write_private
from llmos.infra.wording import in_words
from llmos.schemas.errors import BadSetting, EnvelopeRejected


class PublicKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key of the system, as `llmos keys export` writes it."""

    id: str
    purpose: Literal["ingress", "receipt", "pool"]
    key: bytes
    """On the wire of `hpke`; of receipts the 32 bytes of Ed25519."""
    active: bool = True


class ReplyKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key to which answers and events are sealed; the first of a list is the one in use, the others still open."""

    algorithm: Recipient
    private: bytes

    @property
    def public(self) -> bytes:
        """On the wire of `hpke`."""
        return hpke.public_of(self.algorithm, self.private)

    @staticmethod
    def fresh(algorithm: Recipient = "x25519") -> ReplyKey:
        """A new one."""
        return ReplyKey(algorithm=algorithm, private=hpke.generate_private(algorithm))

    def __repr__(self) -> str:
        return f"ReplyKey({self.algorithm})"


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a client a tenant (bytes are base64 in the file)."""

    version: Literal[1] = 1
    tenant: str
    secret: bytes = b""
    previous_secrets: list[bytes] = []
    """Those before it, the latest first: answers to what was signed with them still prove themselves."""
    reply_keys: list[ReplyKey] = []
    system_keys: list[PublicKey] = []

    def __repr__(self) -> str:
        return f"Credentials({self.tenant})"

    @property
    def ingress(self) -> PublicKey | None:
        """The system's key to which requests are sealed."""
        return next((key for key in self.system_keys if key.purpose == "ingress" and key.active), None)


class ReplyKeys:
    """Opens what was sealed to a client, as `keyring.Opener` for `open_envelope`."""

    def __init__(self, keys: Sequence[ReplyKey]) -> None:
        self._by_id = {
            hpke.key_id_of(key.public): (key.algorithm, hpke.private_key(key.algorithm, key.private)) for key in keys
        }

    def has(self, key_id: str) -> bool:
        """Whether the key is here."""
        return key_id in self._by_id

    def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        """The secret. Raises `EnvelopeRejected`."""
        found = self._by_id.get(key_id)
        if found is None:
            raise EnvelopeRejected()
        return hpke.unwrap_with(*found, wrapped, context)


def credentials_file(state_directory: Path, tenant: str) -> Path:
    """Where the credentials of a tenant are kept beside the system, and looked for by clients on the same machine."""
    return state_directory / "tenants" / f"{tenant}.json"


def public_keys(keyring: Keyring) -> list[PublicKey]:
    """What everybody may have of the system's keys: that to which requests are sealed, and all that ever signed receipts."""
    return [
        PublicKey(id=e.id, purpose=e.purpose, key=e.public, active=e.state == "active")
        for e in keyring.entries
        if (e.purpose == "ingress" and e.state == "active") or e.purpose == "receipt"
    ]


def encode_public_keys(keys: Sequence[PublicKey]) -> bytes:
    """The file `public-keys.json`: a JSON list, bytes in base64."""
    return msgspec.json.format(msgspec.json.encode(keys), indent=2) + b"\n"


def load_public_keys(path: Path) -> list[PublicKey]:
    """The keys in a file that `llmos keys export` wrote. Raises `BadSetting`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[PublicKey])
    except OSError as problem:
        raise _bad(f"{path}: {problem.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise _bad(f"{path} holds no public keys: {in_words(problem)}") from None


def load_credentials(path: Path) -> Credentials:
    """The credentials in a file.

    Raises:
        BadSetting: it is missing or none, or others may read it.
    """
    try:
        data = read_private(path)
    except OSError as problem:
        raise _bad(f"{path}: {problem.strerror}") from None
    except ValueError as problem:
        raise _bad(str(problem)) from None
    try:
        return msgspec.json.decode(data, type=Credentials)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise _bad(f"{path} holds no credentials: {in_words(problem)}") from None


def save_credentials(credentials: Credentials, path: Path) -> None:
    """Replaces the file at `path` at once. Raises `BadSetting`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, msgspec.json.format(msgspec.json.encode(credentials), indent=2), exclusive=False)
    except OSError as problem:
        raise _bad(f"{path} cannot be written: {problem.strerror}") from None


def _bad(problem: str) -> BadSetting:
    return BadSetting(setting="credentials", problem=problem)
