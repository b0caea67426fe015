"""A tenant's credentials: one file (JSON, mode 0600) with all that a client needs to seal, to prove who it is, and to read.

`llmos tenants add` writes it. Who has it, is the tenant.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal

import msgspec

from llmos.infra.crypto import hpke
from llmos.infra.crypto.hpke import Recipient
from llmos.infra.crypto.keyfile import write_private
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
    reply_keys: list[ReplyKey] = []
    system_keys: list[PublicKey] = []

    def __repr__(self) -> str:
        return f"Credentials({self.tenant})"

    @property
    def ingress(self) -> PublicKey | None:
        """The system's key to which requests are sealed."""
        return next((key for key in self.system_keys if key.purpose == "ingress" and key.active), None)


class ReplyKeys:
    """Opens what was sealed to a client, as `keyring.Keys` for `open_envelope`."""

    def __init__(self, keys: list[ReplyKey]) -> None:
        self._by_id = {hpke.key_id_of(key.public): key for key in keys}

    def wrap(self, purpose: str, secret: bytes, context: bytes, tenant: str = "") -> tuple[str, bytes]:
        """A client wraps nothing under these."""
        raise NotImplementedError

    def holds(self, purpose: str, tenant: str = "") -> bool:
        """Never: see `wrap`."""
        return False

    def has(self, key_id: str) -> bool:
        """Whether the key is here."""
        return key_id in self._by_id

    def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        """The secret. Raises `EnvelopeRejected`."""
        key = self._by_id.get(key_id)
        if key is None:
            raise EnvelopeRejected()
        return hpke.unwrap_with(key.algorithm, key.private, wrapped, context)


def load_credentials(path: Path) -> Credentials:
    """The credentials in a file.

    Raises:
        BadSetting: it is missing or none, or others may read it.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise _bad(f"{path} has mode {mode:04o} and others may use it; run `chmod 600 {path}`")
            return msgspec.json.decode(file.read(), type=Credentials)
    except OSError as problem:
        raise _bad(f"{path}: {problem.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise _bad(f"{path} holds no credentials: {problem}") from None


def save_credentials(credentials: Credentials, path: Path) -> None:
    """Replaces the file at `path` at once. Raises `BadSetting`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, msgspec.json.format(msgspec.json.encode(credentials), indent=2), exclusive=False)
    except OSError as problem:
        raise _bad(f"{path} cannot be written: {problem.strerror}") from None


def _bad(problem: str) -> BadSetting:
    return BadSetting(setting="credentials", problem=problem)
