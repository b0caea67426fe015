"""Keys of recipients: secrets wrapped for whoever holds the private half, by HPKE (RFC 9180, base mode, one message each).

A public key on the wire is one byte that names its algorithm, then its raw bytes. A private key is raw bytes.

    1  x25519            DHKEM(X25519, HKDF-SHA256): public 32 bytes, private 32
    2  mlkem768-x25519   hybrid of ML-KEM-768 (FIPS 203) and X25519: public 1184 + 32 bytes, private 64 (seed) + 32

KDF HKDF-SHA256, AEAD AES-256-GCM. What a secret is for goes into `info`, so that it opens for nothing else. Base mode lets
anyone seal: who sealed is proved by other means (see `macs`).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from llmos.schemas.errors import EnvelopeRejected

Recipient = Literal["x25519", "mlkem768-x25519"]
"""Algorithms of recipients' keys."""

_CODES: Final[dict[Recipient, int]] = {"x25519": 1, "mlkem768-x25519": 2}
_NAMES: Final[dict[int, Recipient]] = {code: name for name, code in _CODES.items()}
_SEED_BYTES: Final = 64
_MLKEM_PUBLIC_BYTES: Final = 1184
_X25519_BYTES: Final = 32
PUBLIC_BYTES: Final[dict[Recipient, int]] = {
    "x25519": 1 + _X25519_BYTES,
    "mlkem768-x25519": 1 + _MLKEM_PUBLIC_BYTES + _X25519_BYTES,
}
"""Length of a public key on the wire."""
PRIVATE_BYTES: Final[dict[Recipient, int]] = {"x25519": _X25519_BYTES, "mlkem768-x25519": _SEED_BYTES + _X25519_BYTES}

_PARSED_KEYS: Final = 4096
"""Public keys that a process remembers as objects."""

PrivateKey = X25519PrivateKey | MLKEM768X25519PrivateKey
"""Whoever holds it keeps it: nothing here remembers private keys, so that a key that is destroyed is gone."""

_SUITES: Final[dict[Recipient, Suite]] = {
    "x25519": Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
    "mlkem768-x25519": Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
}


def generate_private(algorithm: Recipient) -> bytes:
    """A fresh private key."""
    own = X25519PrivateKey.generate().private_bytes_raw()
    if algorithm == "x25519":
        return own
    return MLKEM768PrivateKey.generate().private_bytes_raw() + own


def public_of(algorithm: Recipient, private: bytes) -> bytes:
    """The public key on the wire. Raises ValueError: `private` is none of this algorithm."""
    if len(private) != PRIVATE_BYTES[algorithm]:
        raise ValueError(f"a private key of {algorithm} has {PRIVATE_BYTES[algorithm]} bytes, not {len(private)}")
    code = bytes([_CODES[algorithm]])
    own = X25519PrivateKey.from_private_bytes(private[-_X25519_BYTES:]).public_key().public_bytes_raw()
    if algorithm == "x25519":
        return code + own
    return code + MLKEM768PrivateKey.from_seed_bytes(private[:_SEED_BYTES]).public_key().public_bytes_raw() + own


def key_id_of(public: bytes) -> str:
    """The id under which a public key is known: the first 8 bytes of SHA-256 of its wire form, in hexadecimal."""
    return hashlib.sha256(public).hexdigest()[:16]


@lru_cache(maxsize=_PARSED_KEYS)
def check_public(public: bytes) -> Recipient:
    """The algorithm of a public key on the wire. Raises ValueError, with what is wrong, where it is none, or where nothing
    can be sealed to it (a point of low order)."""
    wrap_for(public, b"", b"")
    return _public(public)[0]


def wrap_for(public: bytes, secret: bytes, context: bytes) -> bytes:
    """`secret` for the holder of the private half, in this `context` only: encapsulated key ‖ ciphertext ‖ tag.

    Raises:
        ValueError: `public` is no public key.
    """
    algorithm, key = _public(public)
    return _SUITES[algorithm].encrypt(secret, key, info=context)


def private_key(algorithm: Recipient, private: bytes) -> PrivateKey:
    """A private key, ready for use. Raises ValueError: `private` is none of this algorithm."""
    if len(private) != PRIVATE_BYTES[algorithm]:
        raise ValueError(f"a private key of {algorithm} has {PRIVATE_BYTES[algorithm]} bytes, not {len(private)}")
    own = X25519PrivateKey.from_private_bytes(private[-_X25519_BYTES:])
    if algorithm == "x25519":
        return own
    return MLKEM768X25519PrivateKey(MLKEM768PrivateKey.from_seed_bytes(private[:_SEED_BYTES]), own)


def unwrap_with(algorithm: Recipient, private: PrivateKey, wrapped: bytes, context: bytes) -> bytes:
    """The secret in `wrapped`. Raises `EnvelopeRejected`, whatever is wrong."""
    try:
        return _SUITES[algorithm].decrypt(wrapped, private, info=context)
    except (InvalidTag, ValueError):
        raise EnvelopeRejected() from None


@lru_cache(maxsize=_PARSED_KEYS)
def _public(public: bytes) -> tuple[Recipient, X25519PublicKey | MLKEM768X25519PublicKey]:
    algorithm = _NAMES.get(public[0]) if public else None
    if algorithm is None:
        raise ValueError("it begins with no known algorithm (1: x25519, 2: mlkem768-x25519)")
    if len(public) != PUBLIC_BYTES[algorithm]:
        raise ValueError(f"a public key of {algorithm} has {PUBLIC_BYTES[algorithm]} bytes, not {len(public)}")
    own = X25519PublicKey.from_public_bytes(public[-_X25519_BYTES:])
    if algorithm == "x25519":
        return algorithm, own
    return algorithm, MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(public[1 : 1 + _MLKEM_PUBLIC_BYTES]), own
    )
