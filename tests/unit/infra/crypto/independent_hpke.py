"""HPKE (RFC 9180, base mode, first message) that shares no code with ours: X25519 by RFC 7748, labelled HKDF, the hybrid's
combiner. ML-KEM alone is the library's.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

_P = 2**255 - 19
_KEMS = {"x25519": 0x0020, "mlkem768-x25519": 0x647A}
_AEADS = {2: AESGCM, 3: ChaCha20Poly1305}


def x25519(private: bytes, point: bytes) -> bytes:
    """Scalar multiplication (RFC 7748, section 5), not in constant time."""
    scalar = int.from_bytes(private, "little") & ~7 & (2**254 - 1) | 2**254
    x1 = int.from_bytes(point, "little") % 2**255
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for i in reversed(range(255)):
        bit = scalar >> i & 1
        if swap ^ bit:
            x2, z2, x3, z3 = x3, z3, x2, z2
        swap = bit
        a, b = (x2 + z2) ** 2 % _P, (x2 - z2) ** 2 % _P
        da, cb, e = (x3 - z3) * (x2 + z2), (x3 + z3) * (x2 - z2), a - b
        x3, z3 = (da + cb) ** 2 % _P, x1 * (da - cb) ** 2 % _P
        x2, z2 = a * b % _P, e * (a + 121665 * e) % _P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, -1, _P) % _P).to_bytes(32, "little")


def extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    """LabeledExtract (RFC 9180, section 4) with HKDF-SHA256."""
    return hmac.new(salt, b"HPKE-v1" + suite + label + ikm, hashlib.sha256).digest()


def expand(suite: bytes, key: bytes, label: bytes, info: bytes, size: int) -> bytes:
    """LabeledExpand, of one block at most."""
    labelled = size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.new(key, labelled + b"\x01", hashlib.sha256).digest()[:size]


def shared_secret(algorithm: str, private: bytes, enc: bytes) -> bytes:
    """Decapsulation: DHKEM (RFC 9180, section 4.1), or ML-KEM and X25519 combined (X-Wing)."""
    own, public = private[-32:], x25519(private[-32:], (9).to_bytes(32, "little"))
    dh = x25519(own, enc[-32:])
    if algorithm == "x25519":
        suite = b"KEM" + _KEMS[algorithm].to_bytes(2, "big")
        return expand(suite, extract(suite, b"", b"eae_prk", dh), b"shared_secret", enc + public, 32)
    inner = MLKEM768PrivateKey.from_seed_bytes(private[:64]).decapsulate(enc[:-32])
    return hashlib.sha3_256(inner + dh + enc[-32:] + public + b"\\.//^\\").digest()


def open_hpke(
    algorithm: str, private: bytes, wrapped: bytes, info: bytes, associated: bytes = b"", aead: int = 2
) -> bytes:
    """The plaintext of encapsulated key ‖ ciphertext ‖ tag; raises InvalidTag."""
    size = 32 if algorithm == "x25519" else 1088 + 32
    shared = shared_secret(algorithm, private, wrapped[:size])
    suite = b"HPKE" + _KEMS[algorithm].to_bytes(2, "big") + b"\x00\x01" + aead.to_bytes(2, "big")
    context = b"\x00" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    secret = extract(suite, shared, b"secret", b"")
    key, nonce = expand(suite, secret, b"key", context, 32), expand(suite, secret, b"base_nonce", context, 12)
    return bytes(_AEADS[aead](key).decrypt(nonce, wrapped[size:], associated))
