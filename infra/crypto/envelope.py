"""Envelope v1: a payload sealed for those who hold one of its keys, bound to the place where it belongs.

    magic "LLE1" | version u8 | suite u8 | keys u8, then for each: key id: length u8, ASCII; wrapped secret: length u16, bytes
    | salt, 32 bytes | commitment, 32 bytes | nonce, 12 bytes | ciphertext | tag, 16 bytes            (integers big-endian)

Suite 1: a secret of 32 random bytes is wrapped for each reader: by a key-encryption key (of parts, for the workers' pool and for
the tenant), or by HPKE to a public key (of the system, or of the asker; see `hpke`). One secret may serve many data
keys, each made with a salt of 32 random bytes of its own: encryption key ‖ commitment are the 64 bytes of HKDF-Expand with
SHA-512 (RFC 5869) of the secret, `info` = label ‖ 0 ‖ salt ‖ MessagePack list of tenant, job id, request id, epoch and extra.
The secret is uniformly random, so nothing has to be extracted first (section 3.3). AES-256-GCM; the nonce counts the envelopes
of a data key from 0; associated data = MessagePack list of a label, version, suite, the SHA-256 of all that lies before the
salt (so that no reader can be exchanged), and `Bound`. GCM alone lets one ciphertext open under two keys (Albertini et al.
2020), so the commitment is compared, in constant time, before anything is decrypted. Vectors: docs/vectors/envelope-v1.json.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import os
import secrets
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from llmos.infra.crypto import hpke
from llmos.infra.crypto.keyring import KEY_BYTES, NONCE_BYTES, TAG_BYTES, Keys, Opener, Purpose
from llmos.schemas.base import MSGPACK
from llmos.schemas.errors import EnvelopeRejected

MAGIC: Final = b"LLE1"
VERSION: Final = 1
SUITE: Final = 1
SALT_BYTES: Final = 32
COMMITMENT_BYTES: Final = 32
READERS: Final = 4
"""Wrapped keys of an envelope at most."""
HEAD_BYTES: Final = 8 * 1024
"""What lies before the salt at most; four readers with the longest keys take 5 KiB. It is remembered before it is known to be
authentic, so strangers must not make it long."""
SEALS_PER_KEY: Final = 2**32
"""Envelopes under one data key at most (NIST SP 800-38D, section 8.3)."""
CACHED_KEYS: Final = 4096
"""Secrets and data keys that a process remembers: what was sealed under one secret costs one unwrapping."""
CACHED_HEADS: Final = 1024
"""Heads of envelopes that a process remembers."""

_PREFIX: Final = MAGIC + bytes([VERSION, SUITE])
_LABEL: Final = b"llmos-envelope-1 keys\0"


class Bound(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an envelope belongs to; opening it for anything else fails."""

    tenant: str
    channel: str
    """Logical, not a topic's name: "request", "part", "item", "event"."""
    job_id: bytes
    part: int
    kind: str
    sequence: int = 0
    """Place among the envelopes of the same channel, part and item."""
    content_type: str = MSGPACK
    schema: str = "1"
    """Version of what is inside."""
    request_id: str = ""
    epoch: int = 0
    """Of outputs: the attempt that made it. Requests are bound to none."""
    item: int = 0
    extra: bytes = b""
    """Digest of all else that must not be changed."""


class Secret:
    """A secret under which data keys are made, wrapped for those who may open what they seal. Kept in memory only."""

    __slots__ = ("_digest", "_head", "_pid", "_prf", "key_ids", "tenant")

    def __init__(self, key: bytes, wrapped: Sequence[tuple[str, bytes]], tenant: str) -> None:
        """`wrapped`: key id and wrapped key of each reader."""
        self._prf = _prf(key)
        self._pid = os.getpid()
        self.tenant = tenant
        self.key_ids = tuple(key_id for key_id, _ in wrapped)
        self._head = _head(wrapped)
        self._digest = _digest(self._head)

    @staticmethod
    def under(keys: Keys, purposes: Sequence[Purpose], tenant: str) -> Secret:
        """A fresh one for the holders of these keys; of `tenant`, that of this tenant."""
        key = secrets.token_bytes(KEY_BYTES)
        context = wrap_context(tenant)
        return Secret(key, [keys.wrap(p, key, context, tenant if p == "tenant" else "") for p in purposes], tenant)

    @staticmethod
    def for_public(public: bytes, tenant: str) -> Secret:
        """A fresh one for the holder of this public key (see `hpke`). Raises ValueError where it is none."""
        key = secrets.token_bytes(KEY_BYTES)
        return Secret(key, [(hpke.key_id_of(public), hpke.wrap_for(public, key, wrap_context(tenant)))], tenant)

    def data_key(self, bound: Bound) -> DataKey:
        """A fresh data key for envelopes that agree with `bound` in tenant, job, request, epoch and extra.

        Raises:
            ValueError: `bound` is another tenant's (nobody could open it), or the process has forked.
        """
        if bound.tenant != self.tenant or os.getpid() != self._pid:
            raise ValueError("a secret makes data keys for its own tenant, in its own process")
        return DataKey(self._head, self._digest, self._prf, self._pid, bound)


class DataKey:
    """The data key of one job, or of one attempt at it, for sealing. Belongs to the process that made it."""

    __slots__ = ("_bound", "_cipher", "_context", "_count", "_digest", "_head", "_pid")

    def __init__(self, head: bytes, digest: bytes, prf: hmac.HMAC, pid: int, bound: Bound) -> None:
        salt = secrets.token_bytes(SALT_BYTES)
        self._bound = bound
        self._context = _context(bound)
        self._cipher, commitment = _derive(prf, salt, self._context)
        self._digest = digest
        self._head = head + salt + commitment
        self._count = itertools.count()
        self._pid = pid

    def seal(self, bound: Bound, plaintext: bytes) -> bytes:
        """The envelope of `plaintext`.

        Raises:
            ValueError: `bound` names another job or attempt (nobody could open it), or the process has forked (parent
                and child would use the same nonces).
            OverflowError: the key has sealed 2**32 envelopes.
        """
        same = bound is self._bound or _context(bound) == self._context
        if not same or os.getpid() != self._pid:
            raise ValueError("a data key seals for its own job, in its own process")
        count = next(self._count)
        if count >= SEALS_PER_KEY:
            raise OverflowError("the data key has sealed all it may; take a fresh one")
        nonce = count.to_bytes(NONCE_BYTES, "big")
        return self._head + nonce + self._cipher.encrypt(nonce, plaintext, _associated(self._digest, bound))


class Parsed(NamedTuple):
    """An envelope taken apart; nothing of it is authentic yet."""

    head: bytes
    """All that lies before the salt."""
    wrapped: tuple[tuple[str, bytes], ...]
    """Key id and wrapped secret of each reader."""
    digest: bytes
    """SHA-256 of the head."""
    salt: bytes
    commitment: bytes
    nonce: bytes
    ciphertext: bytes
    """With the tag."""


def open_envelope(keys: Opener, bound: Bound, envelope: bytes) -> bytes:
    """The payload in `envelope`. The key ids select the key: nothing is tried out.

    Raises:
        EnvelopeRejected: whatever is wrong, with one and the same message: a stranger learns nothing from it.
    """
    return open_parsed(keys, bound, parse(envelope))


def open_parsed(keys: Opener, bound: Bound, parsed: Parsed) -> bytes:
    """The same, of an envelope that was taken apart already. Raises `EnvelopeRejected`."""
    found = next((reader for reader in parsed.wrapped if keys.has(reader[0])), None)
    if found is None:
        raise EnvelopeRejected()
    cipher, commitment = _opened(keys, *found, bound.tenant, parsed.salt, _context(bound))
    if not hmac.compare_digest(commitment, parsed.commitment):
        raise EnvelopeRejected()
    try:
        return cipher.decrypt(parsed.nonce, parsed.ciphertext, _associated(parsed.digest, bound))
    except InvalidTag:
        raise EnvelopeRejected() from None


def forget() -> None:
    """Lets go of all secrets and data keys that this process remembers: some of their keys were destroyed."""
    _opened.cache_clear()
    _unwrapped.cache_clear()
    _readers.cache_clear()


def parse(envelope: bytes) -> Parsed:
    """Takes an envelope apart. Raises `EnvelopeRejected`."""
    try:
        return _parsed(envelope)
    except (IndexError, UnicodeDecodeError):
        raise EnvelopeRejected() from None


def wrap_context(tenant: str) -> bytes:
    """What wrapped secrets are bound to."""
    return b"llmos-secret-1\0" + tenant.encode()


def _head(wrapped: Sequence[tuple[str, bytes]]) -> bytes:
    if not 1 <= len(wrapped) <= READERS:
        raise ValueError(f"an envelope has 1 to {READERS} readers")
    pieces = [_PREFIX, bytes([len(wrapped)])]
    for key_id, secret in wrapped:
        name = key_id.encode("ascii")
        pieces += (len(name).to_bytes(1, "big"), name, len(secret).to_bytes(2, "big"), secret)
    return b"".join(pieces)


def _parsed(envelope: bytes) -> Parsed:
    at = len(_PREFIX)
    if envelope[:at] != _PREFIX or not 1 <= envelope[at] <= READERS:
        raise EnvelopeRejected()
    readers, at = envelope[at], at + 1
    for _ in range(readers):
        at += 1 + envelope[at]
        at += 2 + (envelope[at] << 8 | envelope[at + 1])
    if at > HEAD_BYTES or len(envelope) - at < SALT_BYTES + COMMITMENT_BYTES + NONCE_BYTES + TAG_BYTES:
        raise EnvelopeRejected()
    head = envelope[:at]
    return Parsed(
        head,
        *_readers(head),
        envelope[at : (at := at + SALT_BYTES)],
        envelope[at : (at := at + COMMITMENT_BYTES)],
        envelope[at : (at := at + NONCE_BYTES)],
        envelope[at:],
    )


@lru_cache(maxsize=CACHED_HEADS)
def _readers(head: bytes) -> tuple[tuple[tuple[str, bytes], ...], bytes]:
    """Key id and wrapped secret of each reader, and the digest: envelopes of one secret begin alike."""
    found = []
    at = len(_PREFIX) + 1
    while at < len(head):
        name, at = at + 1, at + 1 + head[at]
        secret, size = at + 2, int.from_bytes(head[at : at + 2], "big")
        found.append((head[name:at].decode("ascii"), head[secret : secret + size]))
        at = secret + size
    return tuple(found), _digest(head)


@lru_cache(maxsize=CACHED_KEYS)
def _unwrapped(keys: Opener, key_id: str, wrapped: bytes, tenant: str) -> hmac.HMAC:
    """Failures are not remembered. What was unwrapped once holds as long as its key is there, which is asked each time."""
    secret = keys.unwrap(key_id, wrapped, wrap_context(tenant))
    if len(secret) != KEY_BYTES:
        raise EnvelopeRejected()
    return _prf(secret)


@lru_cache(maxsize=CACHED_KEYS)
def _opened(
    keys: Opener, key_id: str, wrapped: bytes, tenant: str, salt: bytes, context: bytes
) -> tuple[AESGCM, bytes]:
    return _derive(_unwrapped(keys, key_id, wrapped, tenant), salt, context)


def _prf(secret: bytes) -> hmac.HMAC:
    """HMAC-SHA512 under the secret, to be copied for each of its data keys: half of the work is done once."""
    return hmac.new(secret, digestmod="sha512")


def _derive(prf: hmac.HMAC, salt: bytes, context: bytes) -> tuple[AESGCM, bytes]:
    """The cipher and the commitment of a data key."""
    block = _expand(prf, salt, context)
    return AESGCM(block[:KEY_BYTES]), block[KEY_BYTES:]


def _expand(prf: hmac.HMAC, salt: bytes, context: bytes) -> bytes:
    """HKDF-Expand (RFC 5869, section 2.3) with SHA-512, its first block, which has 64 bytes.

    Written out because it runs six times for every job; a test holds it to the library's. Salts have one length, so that
    salt and context cannot run into each other.
    """
    block = prf.copy()
    block.update(_LABEL + salt + context + b"\x01")
    return block.digest()


_encoder = msgspec.msgpack.Encoder()


def _context(bound: Bound) -> bytes:
    """What all envelopes of a data key have in common."""
    return _encoder.encode((bound.tenant, bound.job_id, bound.request_id, bound.epoch, bound.extra))


def _digest(head: bytes) -> bytes:
    return hashlib.sha256(head).digest()


def _associated(digest: bytes, bound: Bound) -> bytes:
    return _encoder.encode(("llmos-envelope-1", VERSION, SUITE, digest, bound))
