"""An envelope v1 decoder that shares no code with ours: written from the layout in the docs, with hmac, msgpack and AES."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import msgpack
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


def gcm_open(key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
    """AES-256-GCM through the streaming interface; raises InvalidTag."""
    decryptor = Cipher(algorithms.AES(key), modes.GCM(nonce, sealed[-16:])).decryptor()
    decryptor.authenticate_additional_data(associated)
    return decryptor.update(sealed[:-16]) + decryptor.finalize()


def hkdf_sha512(key: bytes, info: bytes) -> bytes:
    """RFC 5869 without salt; the first 32 bytes."""
    extracted = hmac.new(bytes(64), key, hashlib.sha512).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha512).digest()[:32]


def open_v1(keys: dict[str, bytes], bound: dict[str, Any], envelope: bytes) -> bytes:
    """The payload. `keys`: key-encryption keys by id; `bound`: the fields of the binding by name."""
    assert envelope[:4] == b"LLE1"
    version, suite, length = envelope[4:7]
    assert (version, suite) == (1, 1)
    at = 7 + length
    key_id = envelope[7:at]
    size = int.from_bytes(envelope[at : at + 2], "big")
    wrapped = envelope[at + 2 : at + 2 + size]
    at += 2 + size
    commitment, nonce, sealed = envelope[at : at + 32], envelope[at + 32 : at + 44], envelope[at + 44 :]

    wrap_context = b"llmos-wrap-1\x00" + key_id + b"\x00" + bound["job_id"]
    data_key = gcm_open(keys[key_id.decode()], wrapped[:12], wrapped[12:], wrap_context)
    assert commitment == hkdf_sha512(data_key, b"llmos-envelope-1 commitment\x00" + bound["job_id"])
    encryption_key = hkdf_sha512(data_key, b"llmos-envelope-1 encryption\x00" + bound["job_id"])
    fields = ("tenant", "channel", "job_id", "part", "kind", "sequence", "content_type", "schema")
    associated = msgpack.packb(
        ["llmos-envelope-1", 1, 1, key_id.decode(), *(bound[name] for name in fields)], use_bin_type=True
    )
    return gcm_open(encryption_key, nonce, sealed, associated)
