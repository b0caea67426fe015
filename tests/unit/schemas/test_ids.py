"""Identities: job ids that a client can make, the partition every Kafka client chooses, epochs that grow."""

from __future__ import annotations

import hashlib

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as aiokafka_murmur2
from hypothesis import given
from hypothesis import strategies as st

from llmos.schemas.ids import attempt_of, epoch_of, job_id, murmur2, partition_of, term_of
from llmos.schemas.limits import PARTITIONS

ATTEMPTS = st.integers(1, 2**16 - 1)
TERMS = st.integers(0, 2**47 - 1)
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


def test_a_job_id_is_what_the_design_says() -> None:
    """First 16 bytes of SHA-256(tenant, a zero byte, key); the digits were worked out by `sha256sum`."""
    assert job_id("acme", "r-1").hex() == "83b55551adbba8a4746123acdcafa1ce"
    assert job_id("ä", "ρ") == hashlib.sha256(b"\xc3\xa4\x00\xcf\x81").digest()[:16]


@given(NAMES, NAMES, NAMES, NAMES)
def test_tenant_and_key_cannot_be_mixed_up(tenant: str, key: str, tenant2: str, key2: str) -> None:
    """Two pairs have one id only if they are the same pair, wherever the border between tenant and key lies."""
    assert (job_id(tenant, key) == job_id(tenant2, key2)) == ((tenant, key) == (tenant2, key2))
    assert job_id(tenant + key[0], key[1:]) != job_id(tenant, key)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_kafkas(data: bytes, expected: int) -> None:
    """The vectors of Kafka's own UtilsTest (signed there)."""
    assert murmur2(data) == expected % 2**32


@given(st.binary(max_size=64))
def test_murmur2_is_aiokafkas(data: bytes) -> None:
    """Any key hashes as in the client that writes our records."""
    assert murmur2(data) == aiokafka_murmur2(data) % 2**32


@given(st.binary(min_size=1, max_size=40), st.integers(1, PARTITIONS))
def test_a_keyed_record_lands_where_aiokafka_puts_it(key: bytes, partitions: int) -> None:
    """So a client can name the partition of its job's answer before it sends."""
    everything = list(range(partitions))
    assert partition_of(key, partitions) == DefaultPartitioner()(key, everything, everything)


@given(TERMS, ATTEMPTS)
def test_an_epoch_gives_back_its_term_and_attempt(term: int, attempt: int) -> None:
    """And fits what messages allow for it."""
    epoch = epoch_of(term, attempt)
    assert (term_of(epoch), attempt_of(epoch)) == (term, attempt)
    assert 0 <= epoch <= 2**63 - 1


@given(TERMS, ATTEMPTS, TERMS, ATTEMPTS)
def test_epochs_grow_by_term_and_then_by_attempt(term: int, attempt: int, term2: int, attempt2: int) -> None:
    """Whatever a later scheduler dispatches is above everything of an earlier one."""
    assert (epoch_of(term, attempt) < epoch_of(term2, attempt2)) == ((term, attempt) < (term2, attempt2))


def test_too_many_attempts_stay_in_their_term() -> None:
    """The count stops at its end and never becomes the next term."""
    assert epoch_of(3, 2**16) == epoch_of(3, 2**20) == epoch_of(3, 2**16 - 1) < epoch_of(4, 1)
