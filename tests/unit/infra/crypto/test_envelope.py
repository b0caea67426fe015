"""Envelope v1: opens for what it was sealed for, and says the same whatever else is tried."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from llmos.infra.crypto import envelope as module
from llmos.infra.crypto import hpke
from llmos.infra.crypto.counted import open_counted
from llmos.infra.crypto.credentials import ReplyKey, ReplyKeys
from llmos.infra.crypto.envelope import Bound, Secret, open_envelope
from llmos.infra.crypto.keyring import KeyEntry, Keyring, Opener, Purpose
from llmos.infra.telemetry.metrics import ENVELOPES_REJECTED
from llmos.schemas.errors import EnvelopeRejected
from tests.unit.infra.crypto.independent import open_v1

JOB = bytes(range(16))
BOUND = Bound(
    "demo", "item", JOB, 2, "generate", 5, "application/msgpack", "generate-output/1", "r-1", 2**48 + 1, 3, b"digest"
)
MESSAGE = "The envelope could not be opened."
KEYS = Keyring.memory("demo")
READERS: tuple[Purpose, ...] = ("tenant", "pool")
HYBRID = ReplyKey.fresh("mlkem768-x25519")
X25519 = ReplyKey.fresh()


def sealed_for(*purposes: Purpose, keys: Keyring = KEYS, bound: Bound = BOUND, payload: bytes = b"payload") -> bytes:
    """An envelope under fresh keys, its nonce not 0."""
    key = Secret.under(keys, purposes or READERS, bound.tenant).data_key(bound)
    key.seal(bound, b"the first")
    return key.seal(bound, payload)


def only(purpose: Purpose, keys: Keyring = KEYS) -> Keyring:
    """Somebody who holds the keys of one purpose."""
    return Keyring(entry for entry in keys.entries if entry.purpose == purpose)


def refused(keys: Opener, bound: Bound, envelope: bytes) -> None:
    """The one message."""
    with pytest.raises(EnvelopeRejected) as caught:
        open_envelope(keys, bound, envelope)
    assert str(caught.value) == MESSAGE
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(st.binary(max_size=200), st.integers(0, 2**53), st.text(max_size=20), st.binary(max_size=32))
def test_each_reader_opens_what_was_sealed(payload: bytes, sequence: int, text: str, extra: bytes) -> None:
    """Any payload under any binding comes back, with either key, also by the independent decoder."""
    bound = replace(BOUND, sequence=sequence, kind=text, extra=extra)
    sealed = sealed_for(bound=bound, payload=payload)
    for purpose in READERS:
        entry = KEYS.active(purpose, "demo" if purpose == "tenant" else "")
        assert open_envelope(only(purpose), bound, sealed) == payload
        assert open_v1(entry.algorithm, entry.id, entry.key, asdict(bound), sealed) == payload


@pytest.mark.parametrize("key", [X25519, HYBRID], ids=repr)
def test_a_reply_key_opens_what_was_sealed_to_it(key: ReplyKey) -> None:
    """Also by the independent decoder; another one opens nothing."""
    sealed = Secret.for_public(key.public, "demo").data_key(BOUND).seal(BOUND, b"payload")
    assert open_envelope(ReplyKeys([X25519, HYBRID]), BOUND, sealed) == b"payload"
    key_id = hpke.key_id_of(key.public)
    assert open_v1(key.algorithm, key_id, key.private, asdict(BOUND), sealed) == b"payload"
    refused(ReplyKeys([ReplyKey.fresh(key.algorithm)]), BOUND, sealed)
    refused(KEYS, BOUND, sealed)


@pytest.mark.parametrize("reader", READERS)
def test_every_changed_byte_is_refused(reader: Purpose) -> None:
    """Magic, version, suite, count, both readers' ids, lengths and wrapped keys, salt, commitment, nonce, ciphertext, tag:
    one message for all, also where the changed bytes are another reader's.
    """
    sealed = sealed_for()
    keys = only(reader)
    assert open_envelope(keys, BOUND, sealed) == b"payload"
    for i in range(len(sealed)):
        for change in (0x01, 0x80, 0xFF):
            refused(keys, BOUND, sealed[:i] + bytes([sealed[i] ^ change]) + sealed[i + 1 :])


@pytest.mark.parametrize("key", [X25519, HYBRID], ids=repr)
def test_every_changed_byte_for_a_reply_key_is_refused(key: ReplyKey) -> None:
    """Encapsulated key included; of the hybrid's long one every thirteenth."""
    sealed = Secret.for_public(key.public, "demo").data_key(BOUND).seal(BOUND, b"payload")
    keys = ReplyKeys([key])
    for i in range(0, len(sealed), 1 if key is X25519 else 13):
        refused(keys, BOUND, sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :])


def test_readers_cannot_be_left_out_added_or_exchanged() -> None:
    """The list of readers is authenticated, to the last byte of what each was given."""
    sealed = sealed_for()
    parsed = module.parse(sealed)
    tail = parsed.salt + parsed.commitment + parsed.nonce + parsed.ciphertext
    first, second = parsed.wrapped
    assert open_envelope(KEYS, BOUND, module._head([first, second]) + tail) == b"payload"
    for readers in ([first], [second], [second, first], [first, first], [first, second, second]):
        refused(KEYS, BOUND, module._head(readers) + tail)


def test_every_length_but_the_right_one_is_refused() -> None:
    """Cut anywhere, or longer."""
    sealed = sealed_for()
    for length in range(len(sealed)):
        refused(KEYS, BOUND, sealed[:length])
    refused(KEYS, BOUND, sealed + b"\0")


def test_a_head_has_a_bound() -> None:
    """Four readers with hybrid keys fit; a longer one is refused whoever could read it, and nothing of it is remembered."""
    four = Secret(os.urandom(32), [("ab", os.urandom(1168))] * 4, "demo").data_key(BOUND).seal(BOUND, b"payload")
    assert len(module.parse(four).wrapped) == 4
    pool = KEYS.active("pool").id
    _, wrapped = KEYS.wrap("pool", bytes(32), module.wrap_context("demo"))
    long = Secret(bytes(32), [(pool, wrapped), ("ab", bytes(module.HEAD_BYTES))], "demo").data_key(BOUND)
    module.forget()
    refused(KEYS, BOUND, long.seal(BOUND, b"payload"))
    assert module._readers.cache_info().currsize == 0


@pytest.mark.parametrize("field", Bound.__struct_fields__)
def test_every_changed_field_of_the_binding_is_refused(field: str) -> None:
    """Another tenant, channel, job, part, kind, sequence, content type, schema, request, epoch, item or extra."""
    sealed = sealed_for()
    value: Any = getattr(BOUND, field)
    if isinstance(value, str):
        others: list[Any] = [f"{value}x", "", value[:-1]] + [
            value[:i] + "~" + value[i + 1 :] for i in range(len(value))
        ]
    elif isinstance(value, bytes):
        others = [value[:i] + bytes([value[i] ^ 1]) + value[i + 1 :] for i in range(len(value))] + [b"", value + b"\0"]
    else:
        others = [value + 1, value - 1, value + 2**32]
    for other in others:
        refused(KEYS, replace(BOUND, **{field: other}), sealed)


@pytest.mark.parametrize(("one", "other"), [("tenant", "channel"), ("kind", "content_type"), ("schema", "request_id")])
def test_fields_do_not_run_into_each_other(one: str, other: str) -> None:
    """Moving a letter from one field to its neighbour is another binding."""
    ring = Keyring.memory("ab", "a")
    sealed = sealed_for("pool", keys=ring, bound=replace(BOUND, **{one: "ab", other: "c"}))
    refused(ring, replace(BOUND, **{one: "a", other: "bc"}), sealed)


def test_parts_and_jobs_cannot_change_places() -> None:
    """An envelope opens in its own place only, also among envelopes of the same data key."""
    secret = Secret.under(KEYS, READERS, "demo")
    key = secret.data_key(BOUND)
    places = [replace(BOUND, part=part) for part in range(3)]
    sealed = [key.seal(place, b"%d" % place.part) for place in places]
    for i, place in enumerate(places):
        for j, envelope in enumerate(sealed):
            if i == j:
                assert open_envelope(KEYS, place, envelope) == b"%d" % i
            else:
                refused(KEYS, place, envelope)
    elsewhere = replace(BOUND, job_id=bytes(16))
    refused(KEYS, BOUND, secret.data_key(elsewhere).seal(elsewhere, b"another job's, of the same secret"))


def test_data_keys_of_one_secret_differ() -> None:
    """Each has a salt of its own: two attempts, or two requests of a minute, never share key and nonce."""
    secret = Secret.for_public(X25519.public, "demo")
    sealed = [secret.data_key(BOUND).seal(BOUND, b"payload") for _ in range(3)]
    parsed = [module.parse(one) for one in sealed]
    assert {one.wrapped for one in parsed} == {parsed[0].wrapped}
    assert len({one.salt for one in parsed}) == len({one.commitment for one in parsed}) == 3
    assert len({one.ciphertext for one in parsed}) == 3
    assert {open_envelope(ReplyKeys([X25519]), BOUND, one) for one in sealed} == {b"payload"}


def test_a_commitment_to_another_key_is_refused_before_decryption(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commitment is compared first: a cipher that would open anything is never asked."""
    sealed, other = sealed_for("pool"), sealed_for("pool")
    at = len(sealed) - len(b"payload") - 16 - 12 - 32
    forged = sealed[:at] + other[at : at + 32] + sealed[at + 32 :]

    class Anything:
        def __init__(self, key: bytes) -> None:
            del key

        def decrypt(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
            raise AssertionError("decrypted before the commitment was checked")

    monkeypatch.setattr(module, "AESGCM", Anything)
    refused(KEYS, BOUND, forged)


def test_keys_of_another_keyring_open_nothing() -> None:
    """A key that is not there, or another one under the same id, is refused alike."""
    sealed = sealed_for("pool")
    refused(Keyring.memory("demo"), BOUND, sealed)
    (pool,) = only("pool").entries
    impostor = Keyring([KeyEntry(id=pool.id, purpose="pool", state="active", key=os.urandom(32))])
    refused(impostor, BOUND, sealed)


def test_a_key_that_signs_or_authenticates_opens_nothing() -> None:
    """The id of such a key in an envelope is no way in."""
    parsed = module.parse(sealed_for("pool"))
    for purpose in ("operator", "receipt"):
        named = [(KEYS.active(purpose).id, parsed.wrapped[0][1])]  # type: ignore[arg-type]
        refused(KEYS, BOUND, module._head(named) + parsed.salt + parsed.commitment + parsed.nonce + parsed.ciphertext)


def test_a_rotated_key_still_opens_and_a_destroyed_one_never_again() -> None:
    """Rotation keeps what was sealed; destruction of all its readers' keys ends it."""
    keys = Keyring.memory("demo")
    sealed = sealed_for(keys=keys)
    pool, tenant = keys.active("pool").id, keys.active("tenant", "demo").id
    rotated = keys.rotated("pool").rotated("tenant", "demo")
    assert open_envelope(rotated, BOUND, sealed) == b"payload"
    half = rotated.destroyed(tenant)
    assert open_envelope(half, BOUND, sealed) == b"payload"
    refused(half.destroyed(pool), BOUND, sealed)


def test_nonces_count_up_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """No nonce is used twice; past its number the key refuses."""
    monkeypatch.setattr(module, "SEALS_PER_KEY", 3)
    key = Secret.under(KEYS, READERS, "demo").data_key(BOUND)
    nonces = [key.seal(BOUND, b"")[-28:-16] for _ in range(3)]
    assert nonces == [i.to_bytes(12, "big") for i in range(3)]
    for _ in range(2):
        with pytest.raises(OverflowError):
            key.seal(BOUND, b"")


@pytest.mark.parametrize("field", ["job_id", "request_id", "epoch", "extra"])
def test_a_data_key_is_for_one_job_and_attempt(field: str) -> None:
    """What else it sealed could not be opened."""
    key = Secret.under(KEYS, READERS, "demo").data_key(BOUND)
    other: Any = {"job_id": bytes(16), "request_id": "r-2", "epoch": 1, "extra": b""}[field]
    with pytest.raises(ValueError, match="own job"):
        key.seal(replace(BOUND, **{field: other}), b"")


def test_a_secret_is_for_one_tenant_and_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked child would repeat nonces."""
    secret = Secret.under(KEYS, READERS, "demo")
    with pytest.raises(ValueError, match="own tenant"):
        secret.data_key(replace(BOUND, tenant="acme"))
    key = secret.data_key(BOUND)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    for use in (lambda: key.seal(BOUND, b""), lambda: secret.data_key(BOUND)):
        with pytest.raises(ValueError, match="own process"):
            use()


@pytest.mark.parametrize("count", [0, 5])
def test_an_envelope_has_one_to_four_readers(count: int) -> None:
    """None could open it; more would let one record cost many look-ups."""
    with pytest.raises(ValueError, match="1 to 4 readers"):
        Secret(bytes(32), [("ab", b"wrapped")] * count, "demo")


def test_parts_of_a_job_cost_one_unwrapping() -> None:
    """The secret is unwrapped once for all its envelopes, of all its data keys."""

    class Counting(Keyring):
        calls = 0

        def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
            self.calls += 1
            return super().unwrap(key_id, wrapped, context)

    keys = Counting(KEYS.entries)
    secret = Secret.under(keys, READERS, "demo")
    for _ in range(2):
        key = secret.data_key(BOUND)
        for part in range(25):
            bound = replace(BOUND, part=part)
            open_envelope(keys, bound, key.seal(bound, b"payload"))
    assert keys.calls == 1
    module.forget()
    open_envelope(keys, BOUND, key.seal(BOUND, b"payload"))
    assert keys.calls == 2


def test_a_wrapped_secret_of_another_length_is_refused() -> None:
    """By somebody who holds the pool's key and wraps nonsense."""
    parsed = module.parse(sealed_for("pool"))
    for size in (0, 16, 31, 33):
        wrapped = KEYS.wrap("pool", bytes(size), module.wrap_context("demo"))
        refused(
            KEYS, BOUND, module._head([wrapped]) + parsed.salt + parsed.commitment + parsed.nonce + parsed.ciphertext
        )


def test_what_a_service_rejects_is_counted() -> None:
    """By what should have been inside; what opens is not."""
    counter = ENVELOPES_REJECTED.labels("item")
    before = counter._value.get()
    sealed = sealed_for()
    assert open_counted(KEYS, BOUND, sealed) == b"payload"
    assert counter._value.get() == before
    with pytest.raises(EnvelopeRejected):
        open_counted(KEYS, BOUND, sealed[:-1])
    assert counter._value.get() == before + 1
