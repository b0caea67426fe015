"""Envelope v1: opens for what it was sealed for, and says the same whatever else is tried."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.infra.crypto import envelope as module
from llmos.infra.crypto.envelope import Bound, DataKey, open_envelope
from llmos.infra.crypto.keyring import KeyEntry, Keyring
from llmos.schemas.errors import EnvelopeRejected
from tests.unit.infra.crypto.independent import open_v1
from tests.unit.infra.crypto.vectors import VECTORS

JOB = bytes(range(16))
BOUND = Bound("demo", "part", JOB, 2, "generate", 5)
MESSAGE = "The envelope could not be opened."


def refused(keys: Keyring, bound: Bound, envelope: bytes) -> None:
    """The one message."""
    with pytest.raises(EnvelopeRejected) as caught:
        open_envelope(keys, bound, envelope)
    assert str(caught.value) == MESSAGE
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(st.binary(max_size=200), st.integers(0, 2**53), st.text(max_size=20))
def test_opens_what_was_sealed(payload: bytes, sequence: int, text: str) -> None:
    """Any payload under any binding comes back, also by the independent decoder."""
    keys = Keyring.memory()
    bound = BOUND._replace(sequence=sequence, kind=text)
    sealed = DataKey.fresh(keys, context=JOB).seal(bound, payload)
    assert open_envelope(keys, bound, sealed) == payload
    assert open_v1({e.id: e.key for e in keys.entries}, bound._asdict(), sealed) == payload


def test_every_changed_byte_is_refused() -> None:
    """Magic, version, suite, key id, wrapped key, commitment, nonce, ciphertext, tag: one message for all."""
    keys = Keyring.memory()
    sealed = DataKey.fresh(keys, context=JOB).seal(BOUND, b"payload")
    assert open_envelope(keys, BOUND, sealed) == b"payload"
    for i in range(len(sealed)):
        for change in (0x01, 0x80, 0xFF):
            refused(keys, BOUND, sealed[:i] + bytes([sealed[i] ^ change]) + sealed[i + 1 :])


def test_every_length_but_the_right_one_is_refused() -> None:
    """Cut anywhere, or longer."""
    keys = Keyring.memory()
    sealed = DataKey.fresh(keys, context=JOB).seal(BOUND, b"payload")
    for length in range(len(sealed)):
        refused(keys, BOUND, sealed[:length])
    refused(keys, BOUND, sealed + b"\0")
    refused(keys, BOUND, b"")


@pytest.mark.parametrize("field", Bound._fields)
def test_every_changed_field_of_the_binding_is_refused(field: str) -> None:
    """Another tenant, channel, job, part, kind, sequence, content type or schema."""
    keys = Keyring.memory()
    sealed = DataKey.fresh(keys, context=JOB).seal(BOUND, b"payload")
    value: Any = getattr(BOUND, field)
    if isinstance(value, str):
        others: list[Any] = [f"{value}x", "", value[:-1]] + [
            value[:i] + "~" + value[i + 1 :] for i in range(len(value))
        ]
    elif isinstance(value, bytes):
        others = [value[:i] + bytes([value[i] ^ 1]) + value[i + 1 :] for i in range(len(value))]
    else:
        others = [value + 1, value - 1, value + 2**32]
    for other in others:
        refused(keys, BOUND._replace(**{field: other}), sealed)


def test_fields_do_not_run_into_each_other() -> None:
    """Moving a letter from one field to its neighbour is another binding."""
    keys = Keyring.memory()
    sealed = DataKey.fresh(keys, context=JOB).seal(BOUND._replace(tenant="ab", channel="c"), b"payload")
    refused(keys, BOUND._replace(tenant="a", channel="bc"), sealed)


def test_parts_and_jobs_cannot_change_places() -> None:
    """An envelope opens in its own place only, also among envelopes of the same data key."""
    keys = Keyring.memory()
    key = DataKey.fresh(keys, context=JOB)
    places = [BOUND._replace(part=part) for part in range(3)]
    sealed = [key.seal(place, b"%d" % place.part) for place in places]
    for i, place in enumerate(places):
        for j, envelope in enumerate(sealed):
            if i == j:
                assert open_envelope(keys, place, envelope) == b"%d" % i
            else:
                refused(keys, place, envelope)
    other = DataKey.fresh(keys, context=bytes(16)).seal(BOUND._replace(job_id=bytes(16)), b"another job's")
    refused(keys, BOUND, other)


def test_a_commitment_to_another_key_is_refused_before_decryption(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commitment is compared first: a cipher that would open anything is never asked."""
    keys = Keyring.memory()
    sealed = bytearray(DataKey.fresh(keys, context=JOB).seal(BOUND, b"payload"))
    other = DataKey.fresh(keys, context=JOB).seal(BOUND, b"payload")
    at = len(sealed) - len(b"payload") - 16 - 12 - 32
    sealed[at : at + 32] = other[at : at + 32]

    class Anything:
        def __init__(self, key: bytes) -> None:
            del key

        def decrypt(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
            raise AssertionError("decrypted before the commitment was checked")

    monkeypatch.setattr(module, "AESGCM", Anything)
    refused(keys, BOUND, bytes(sealed))


def test_keys_of_another_keyring_open_nothing() -> None:
    """A key that is not there, or another one under the same id, is refused alike."""
    keys = Keyring.memory()
    sealed = DataKey.fresh(keys, context=JOB).seal(BOUND, b"payload")
    refused(Keyring.memory(), BOUND, sealed)
    impostor = Keyring(
        KeyEntry(id=e.id, purpose=e.purpose, state=e.state, key=os.urandom(32), made_at=e.made_at) for e in keys.entries
    )
    refused(impostor, BOUND, sealed)


def test_a_rotated_key_still_opens_and_a_destroyed_one_never_again() -> None:
    """Rotation keeps what was sealed; destruction ends it, although the key was in use in this process."""
    keys = Keyring.memory()
    sealed = DataKey.fresh(keys, context=JOB).seal(BOUND, b"payload")
    assert open_envelope(keys, BOUND, sealed) == b"payload"
    (old,) = [e.id for e in keys.entries if e.purpose == "pool"]
    rotated = keys.rotated("pool")
    assert open_envelope(rotated, BOUND, sealed) == b"payload"
    refused(rotated.destroyed(old), BOUND, sealed)


def test_nonces_count_up_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """No nonce is used twice; past its number the key refuses."""
    monkeypatch.setattr(module, "SEALS_PER_KEY", 3)
    key = DataKey.fresh(Keyring.memory(), context=JOB)
    nonces = [key.seal(BOUND, b"")[-28:-16] for _ in range(3)]
    assert nonces == [i.to_bytes(12, "big") for i in range(3)]
    for _ in range(2):
        with pytest.raises(OverflowError):
            key.seal(BOUND, b"")


def test_a_data_key_is_for_one_job_and_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another job could not be opened; a forked child would repeat nonces."""
    key = DataKey.fresh(Keyring.memory(), context=JOB)
    with pytest.raises(ValueError, match="own job"):
        key.seal(BOUND._replace(job_id=bytes(16)), b"")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(ValueError, match="own process"):
        key.seal(BOUND, b"")


def test_parts_of_a_job_cost_one_unwrapping() -> None:
    """The data key is unwrapped once for all its envelopes."""

    class Counting(Keyring):
        calls = 0

        def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
            self.calls += 1
            return super().unwrap(key_id, wrapped, context)

    keys = Counting(Keyring.memory().entries)
    key = DataKey.fresh(keys, context=JOB)
    for part in range(50):
        bound = BOUND._replace(part=part)
        open_envelope(keys, bound, key.seal(bound, b"payload"))
    assert keys.calls == 1


def test_the_published_vectors_open() -> None:
    """docs/vectors/envelope-v1.json opens with our code and with the independent decoder, release after release."""
    published = json.loads(VECTORS.read_bytes())
    keys = {id_: bytes.fromhex(key) for id_, key in published["keys"].items()}
    (entry,) = [KeyEntry(id=i, purpose="pool", state="active", key=k, made_at=0.0) for i, k in keys.items()]
    ring = Keyring([entry, *(e for e in Keyring.memory().entries if e.purpose == "system")])
    assert len(published["cases"]) >= 5
    for case in published["cases"]:
        binding = case["bound"] | {"job_id": bytes.fromhex(case["bound"]["job_id"])}
        envelope, plaintext = bytes.fromhex(case["envelope"]), bytes.fromhex(case["plaintext"])
        assert open_envelope(ring, Bound(**binding), envelope) == plaintext, case["name"]
        assert open_v1(keys, binding, envelope) == plaintext, case["name"]
