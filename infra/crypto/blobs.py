"""Blobs: bytes sealed for operators, by whoever has the public half of their key: the records of dead letters."""

from __future__ import annotations

from llmos.infra.crypto.keyring import Keys


def seal_blob(keys: Keys, context: bytes, plaintext: bytes) -> tuple[str, bytes]:
    """The key's id and the sealed bytes, which open for this `context` only."""
    return keys.wrap("dead", plaintext, _context(context))


def open_blob(keys: Keys, key_id: str, context: bytes, sealed: bytes) -> bytes:
    """What `seal_blob` sealed. Raises `EnvelopeRejected`."""
    return keys.unwrap(key_id, sealed, _context(context))


def _context(context: bytes) -> bytes:
    return b"llmos-blob-1\0" + context
