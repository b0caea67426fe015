"""Identities made and read in one place: job ids, partitions of keyed records, task names and epochs."""

from __future__ import annotations

import hashlib

EPOCH_ATTEMPTS = 16
"""Bits of an epoch that count attempts; the scheduler's term stands above them."""


def job_id(tenant: str, key: str) -> bytes:
    """First 16 bytes of SHA-256(tenant ‖ 0 ‖ key): the client knows it before it sends."""
    return hashlib.sha256(tenant.encode() + b"\0" + key.encode()).digest()[:16]


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit murmur2 (org.apache.kafka.common.utils.Utils.murmur2), unsigned."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    length = len(data)
    h = (0x9747B28C ^ length) & mask
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little")
        k = (k * m) & mask
        k ^= k >> 24
        h = ((h * m) & mask) ^ ((k * m) & mask)
    rest = data[whole:]
    if rest:
        h ^= int.from_bytes(rest, "little")
        h = (h * m) & mask
    h ^= h >> 13
    h = (h * m) & mask
    return h ^ (h >> 15)


def partition_of(key: bytes, partitions: int) -> int:
    """The partition in which every Kafka client puts a record with `key`."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def epoch_of(term: int, attempt: int) -> int:
    """One growing integer of (scheduler term, attempt); `attempt` counts from 1 and stays below 2**16."""
    return (term << EPOCH_ATTEMPTS) | min(attempt, (1 << EPOCH_ATTEMPTS) - 1)


def term_of(epoch: int) -> int:
    """The scheduler term in an epoch."""
    return epoch >> EPOCH_ATTEMPTS


def attempt_of(epoch: int) -> int:
    """The attempt in an epoch."""
    return epoch & ((1 << EPOCH_ATTEMPTS) - 1)
