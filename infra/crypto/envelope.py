"""Envelope v1: a payload sealed under its job's data key, bound to the place where it belongs.

    magic "LLE1" | version u8 | suite u8 | key id: length u8, ASCII | wrapped data key: length u16, bytes
    | commitment, 32 bytes | nonce, 12 bytes | ciphertext | tag, 16 bytes            (integers big-endian)

Suite 1: data key = 32 random bytes, wrapped by a key-encryption key in the context of the job id. Encryption key and
commitment are HKDF-SHA512 (RFC 5869) of the data key, without salt, with `info` = label ‖ 0 ‖ job id under two labels.
AES-256-GCM; the nonce counts the envelopes of a data key from 0; associated data = MessagePack list of a label,
version, suite, key id and `Bound`. GCM alone lets one ciphertext open under two keys (Albertini et al. 2020), so the
commitment is compared, in constant time, before anything is decrypted. Vectors: docs/vectors/envelope-v1.json.
"""

from __future__ import annotations

import hmac
import itertools
import os
import secrets
import struct
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from llmos.infra.crypto.keyring import KEY_BYTES, NONCE_BYTES, TAG_BYTES, Keys, Purpose
from llmos.schemas.base import MSGPACK
from llmos.schemas.errors import EnvelopeRejected

MAGIC: Final = b"LLE1"
VERSION: Final = 1
SUITE: Final = 1
COMMITMENT_BYTES: Final = 32
SEALS_PER_KEY: Final = 2**32
"""Envelopes under one data key at most (NIST SP 800-38D, section 8.3)."""
CACHED_KEYS: Final = 4096
"""Unwrapped data keys that a process remembers: parts and items of a job cost one unwrapping."""

_PREFIX: Final = MAGIC + bytes([VERSION, SUITE])


class Bound(NamedTuple):
    """What an envelope belongs to; opening it for anything else fails."""

    tenant: str
    channel: str
    """Logical, not a topic's name: "request", "part", "item", "event"."""
    job_id: bytes
    part: int
    kind: str
    sequence: int = 0
    """Place among the envelopes of the same channel and part."""
    content_type: str = MSGPACK
    schema: str = "1"
    """Version of what is inside."""


class _Opened(NamedTuple):
    cipher: AESGCM
    commitment: bytes


class DataKey:
    """The data key of one job, for sealing. Belongs to the process that made it."""

    __slots__ = ("_cipher", "_context", "_count", "_head", "_key_id", "_pid")

    def __init__(self, key_id: str, wrapped: bytes, key: bytes, context: bytes) -> None:
        opened = _derive(key, context)
        self._cipher = opened.cipher
        self._context = context
        self._key_id = key_id
        self._head = _head(key_id, wrapped) + opened.commitment
        self._count = itertools.count()
        self._pid = os.getpid()

    @staticmethod
    def fresh(keys: Keys, purpose: Purpose = "pool", context: bytes = b"") -> DataKey:
        """A random data key, wrapped under `purpose` for the job id `context`."""
        key = secrets.token_bytes(KEY_BYTES)
        key_id, wrapped = keys.wrap(purpose, key, context)
        return DataKey(key_id, wrapped, key, context)

    def seal(self, bound: Bound, plaintext: bytes) -> bytes:
        """The envelope of `plaintext`.

        Raises:
            ValueError: `bound` names another job (nobody could open it), or the process has forked (parent and
                child would use the same nonces).
            OverflowError: the key has sealed 2**32 envelopes.
        """
        if bound.job_id != self._context or os.getpid() != self._pid:
            raise ValueError("a data key seals for its own job, in its own process")
        count = next(self._count)
        if count >= SEALS_PER_KEY:
            raise OverflowError("the data key has sealed all it may; take a fresh one")
        nonce = count.to_bytes(NONCE_BYTES, "big")
        return self._head + nonce + self._cipher.encrypt(nonce, plaintext, _associated(self._key_id, bound))


def open_envelope(keys: Keys, bound: Bound, envelope: bytes) -> bytes:
    """The payload in `envelope`.

    Raises:
        EnvelopeRejected: whatever is wrong, with one and the same message: a stranger learns nothing from it.
    """
    try:
        key_id, wrapped, rest = _parse(envelope)
        opened = _unwrapped(keys, key_id, wrapped, bound.job_id)
        if not hmac.compare_digest(opened.commitment, rest[:COMMITMENT_BYTES]):
            raise EnvelopeRejected()
        nonce = rest[COMMITMENT_BYTES : COMMITMENT_BYTES + NONCE_BYTES]
        return opened.cipher.decrypt(nonce, rest[COMMITMENT_BYTES + NONCE_BYTES :], _associated(key_id, bound))
    except (InvalidTag, struct.error, UnicodeDecodeError):
        raise EnvelopeRejected() from None


def _head(key_id: str, wrapped: bytes) -> bytes:
    name = key_id.encode("ascii")
    return b"".join((_PREFIX, struct.pack(">B", len(name)), name, struct.pack(">H", len(wrapped)), wrapped))


def _parse(envelope: bytes) -> tuple[str, bytes, bytes]:
    """Key id, wrapped data key, the rest from the commitment on."""
    if envelope[: len(_PREFIX)] != _PREFIX:
        raise EnvelopeRejected()
    at = len(_PREFIX)
    (length,) = struct.unpack_from(">B", envelope, at)
    key_id = envelope[at + 1 : at + 1 + length].decode("ascii")
    at += 1 + length
    (length,) = struct.unpack_from(">H", envelope, at)
    wrapped = envelope[at + 2 : at + 2 + length]
    rest = envelope[at + 2 + length :]
    if len(rest) < COMMITMENT_BYTES + NONCE_BYTES + TAG_BYTES:
        raise EnvelopeRejected()
    return key_id, wrapped, rest


@lru_cache(maxsize=CACHED_KEYS)
def _unwrapped(keys: Keys, key_id: str, wrapped: bytes, context: bytes) -> _Opened:
    """Failures are not remembered. A keyring never changes, so what it unwrapped once holds."""
    key = keys.unwrap(key_id, wrapped, context)
    if len(key) != KEY_BYTES:
        raise EnvelopeRejected()
    return _derive(key, context)


def _derive(key: bytes, context: bytes) -> _Opened:
    extracted = hmac.digest(_NO_SALT, key, "sha512")
    return _Opened(
        AESGCM(_expand(extracted, b"llmos-envelope-1 encryption", context)),
        _expand(extracted, b"llmos-envelope-1 commitment", context),
    )


def _expand(extracted: bytes, label: bytes, context: bytes) -> bytes:
    """HKDF-SHA512 (RFC 5869), one block: both keys share the extraction, which is half of the work of two derivations.

    Written out because it runs twice for every job; a test holds it to the library's HKDF.
    """
    return hmac.digest(extracted, label + b"\0" + context + b"\x01", "sha512")[:KEY_BYTES]


_NO_SALT: Final = bytes(64)
"""RFC 5869: without a salt, as many zeros as the hash has bytes."""
_encoder = msgspec.msgpack.Encoder()


def _associated(key_id: str, bound: Bound) -> bytes:
    return _encoder.encode(("llmos-envelope-1", VERSION, SUITE, key_id, *bound))
