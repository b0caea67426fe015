"""Signatures: Ed25519 (RFC 8032), checked by anyone who has the public half."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def check_signature(public: bytes, data: bytes, signature: bytes) -> bool:
    """Whether the holder of this key (32 bytes; any others have signed nothing) signed `data`."""
    try:
        key = Ed25519PublicKey.from_public_bytes(public)
    except ValueError:
        return False
    return is_signed(key, data, signature)


def is_signed(key: Ed25519PublicKey, data: bytes, signature: bytes) -> bool:
    """The same, by a key that is ready for use."""
    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True
