"""An envelope v1 decoder that shares no code with ours: written from docs/envelope.md, with hmac, msgpack and AES."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import msgpack
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.unit.infra.crypto.independent_hpke import open_hpke

BOUND = (
    "tenant", "channel", "job_id", "part", "kind", "sequence", "content_type", "schema", "request_id", "epoch", "item",
    "extra",
)  # fmt: skip


def packed(value: Any) -> bytes:
    """MessagePack, texts and bytes told apart."""
    return bytes(msgpack.packb(value, use_bin_type=True))


def gcm_open(key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
    """AES-256-GCM through the streaming interface; raises InvalidTag."""
    decryptor = Cipher(algorithms.AES(key), modes.GCM(nonce, sealed[-16:])).decryptor()
    decryptor.authenticate_additional_data(associated)
    return decryptor.update(sealed[:-16]) + decryptor.finalize()


def expanded(secret: bytes, info: bytes) -> bytes:
    """HKDF-Expand with SHA-512 (RFC 5869): the first block."""
    return hmac.new(secret, info + b"\x01", hashlib.sha512).digest()


def readers_of(envelope: bytes) -> tuple[list[tuple[str, bytes]], bytes]:
    """Key id and wrapped secret of each reader, and what comes behind them."""
    assert (envelope[:4], envelope[4], envelope[5]) == (b"LLE1", 1, 1)
    found, rest = [], envelope[7:]
    for _ in range(envelope[6]):
        key_id, rest = rest[1 : 1 + rest[0]].decode(), rest[1 + rest[0] :]
        size = int.from_bytes(rest[:2], "big")
        found.append((key_id, rest[2 : 2 + size]))
        rest = rest[2 + size :]
    return found, rest


def unwrapped(algorithm: str, key: bytes, key_id: str, wrapped: bytes, tenant: str) -> bytes:
    """The secret in `wrapped`."""
    context = b"llmos-secret-1\x00" + tenant.encode()
    if algorithm == "aes-256-gcm":
        return gcm_open(key, wrapped[:12], wrapped[12:], b"llmos-wrap-1\x00" + key_id.encode() + b"\x00" + context)
    return open_hpke(algorithm, key, wrapped, info=context)


def open_v1(algorithm: str, key_id: str, key: bytes, bound: dict[str, Any], envelope: bytes) -> bytes:
    """The payload, for the reader with this key. `bound`: the fields of the binding by name."""
    readers, rest = readers_of(envelope)
    salt, commitment, nonce, sealed = rest[:32], rest[32:64], rest[64:76], rest[76:]
    secret = unwrapped(algorithm, key, key_id, dict(readers)[key_id], bound["tenant"])
    context = packed([bound[name] for name in ("tenant", "job_id", "request_id", "epoch", "extra")])
    block = expanded(secret, b"llmos-envelope-1 keys\x00" + salt + context)
    assert commitment == block[32:]
    head = hashlib.sha256(envelope[: -len(rest)]).digest()
    associated = packed(["llmos-envelope-1", 1, 1, head, [bound[name] for name in BOUND]])
    return gcm_open(block[:32], nonce, sealed, associated)
