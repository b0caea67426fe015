"""What a client sealed opens as exactly what the client said it is; all else is refused with one and the same words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llmos.infra.crypto import hpke
from llmos.infra.crypto.channels import request_bound, request_bound_of
from llmos.infra.crypto.envelope import Secret, parse
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.telemetry.metrics import ENVELOPES_REJECTED
from llmos.schemas.admitted import Admitted
from llmos.schemas.base import JSON, MSGPACK
from llmos.schemas.errors import EnvelopeRejected, LlmosError, PayloadDamaged, PlaintextForbidden, UnknownKey
from llmos.schemas.ids import job_id
from llmos.schemas.job import Head, Option
from llmos.schemas.requests import metadata_bytes
from llmos.services.verify.opening import Opened, check_whole, open_payload
from tests.kit.bench import KEYS, NOW, head, tenant
from tests.kit.sealing import admitted_of, sealed_request

BODY = {"text": "a marked text"}
INSIDE = msgspec.msgpack.encode(BODY)


def opened(message: Admitted, keys: Keyring = KEYS, **policy: Any) -> tuple[bytes, str]:
    return asked(message, keys, **policy)[:2]


def asked(message: Admitted, keys: Keyring = KEYS, **policy: Any) -> Opened:
    return open_payload(message, tenant(**policy), keys, NOW)


@pytest.mark.parametrize("plaintext", ["allow", "forbid"])
def test_what_was_sealed_is_opened(plaintext: str) -> None:
    """It is MessagePack of the input, and nothing of it stands in the message."""
    message = admitted_of(sealed_request(BODY))
    assert b"marked" not in msgspec.msgpack.encode(message)
    assert opened(message, plaintext=plaintext) == (INSIDE, MSGPACK)


def test_a_hybrid_key_opens_as_well() -> None:
    """The system's key may be one that holds against quantum computers."""
    keys = KEYS.rotated("ingress", algorithm="mlkem768-x25519")
    assert opened(admitted_of(sealed_request(BODY, keys)), keys) == (INSIDE, MSGPACK)


@pytest.mark.parametrize(
    "fields",
    [
        {"idempotency_key": "work"},
        {"priority": 9, "timeout": 3.0, "events": "tokens", "reply_to": "reply.demo.x", "submitted_at": 7.5},
        {"kind": "generate", "model": "gpt", "reply_key": hpke.public_of("x25519", bytes(32))},
    ],
    ids=["a key of its own", "all that steers", "a model and a reply key"],
)
def test_the_head_is_what_the_client_said(fields: dict[str, Any]) -> None:
    """Each field that says how the work is done, and the key that the answer is sealed to."""
    request = sealed_request(BODY, **fields)
    found = asked(admitted_of(request)).head
    for name in ("request_id", "tenant", "kind", "priority", "reply_to", "reply_key", "sealed", "submitted_at"):
        assert getattr(found, name) == (getattr(request, name) or getattr(head(), name)), name
    assert (found.model_name, found.timeout) == (request.model, request.timeout or tenant().usual_timeout)
    assert (found.events, found.size) == (request.events or "states", len(request.payload))
    assert found.job_id == job_id("demo", request.idempotency_key or request.request_id)


OWN = hpke.public_of("x25519", bytes(32))
THEIRS = hpke.public_of("x25519", b"\1" * 32)

HEADS: dict[str, Any] = {
    "job_id": job_id("demo", "other"),
    "tenant": "acme",
    "request_id": "other",
    "lane": "batch",
    "kind": "generate",
    "model": "00" * 32,
    "model_name": "other",
    "events": "tokens",
    "reply_to": "reply.demo.other",
    "reply_key": THEIRS,
    "wrapped_output_key": b"another",
    "content_digest": bytes(32),
    "other_digest": bytes(32),
    "priority": 9,
    "timeout": 86_400.0,
    "parts": 7,
    "items": 7,
    "size": 1,
    "submitted_at": 1.0,
    "sealed_at": 1.0,
    "sealed": False,
    "options": [Option("max_tokens", 1.0)],
}
WITHOUT_EFFECT = {
    "model", "wrapped_output_key", "content_digest", "other_digest", "parts", "items", "size", "submitted_at", "sealed_at",
    "options",
}  # fmt: skip
"""Verify finds these itself, or nobody asks for them."""
INGESTS = {"origin", "admitted_at", "traceparent"}
"""What the client does not say: where its record lies, when it was taken, whose trace it belongs to."""


def test_the_heads_fields_are_all_tried() -> None:
    """Below; another one is to be judged before it is added."""
    assert {*HEADS, *INGESTS} == set(Head.__struct_fields__)


@pytest.mark.parametrize("said", [{"reply_key": OWN, "timeout": 3.0}, {}], ids=["it says all", "it leaves things open"])
@pytest.mark.parametrize("name", HEADS)
def test_a_changed_head_is_refused_or_has_no_effect(name: str, said: dict[str, Any]) -> None:
    """Who may write to `admitted` copies a sealed request under a head of his own, with a key of his own, say."""
    message = admitted_of(sealed_request(BODY, submitted_at=NOW - 1.0, **said))
    policy = {"reply_key": OWN}
    right = asked(message, **policy).head
    assert right.reply_key == OWN
    changed = msgspec.structs.replace(message, head=msgspec.structs.replace(message.head, **{name: HEADS[name]}))
    assert changed.head != message.head
    if name in WITHOUT_EFFECT or (name in ("reply_key", "timeout") and not said):
        assert asked(changed, **policy).head == right
    else:
        with pytest.raises(EnvelopeRejected, match=r"^The envelope could not be opened\.$"):
            asked(changed, **policy)


def test_other_metadata_keep_it_closed() -> None:
    """They are what the envelope is bound to: without them, and with those of another request, it stays shut."""
    message = admitted_of(sealed_request(BODY))
    theirs = metadata_bytes(sealed_request(BODY, reply_key=THEIRS), "standard")
    for metadata in (b"", theirs, message.metadata + b"\0", message.metadata[:-1]):
        with pytest.raises(EnvelopeRejected):
            opened(msgspec.structs.replace(message, metadata=metadata))


def test_metadata_that_are_none_are_refused_as_what_does_not_open() -> None:
    """Anybody can seal under what he likes: what opens then says nothing that could be believed."""
    for metadata in (b"\x90", b"rubbish", msgspec.msgpack.encode(["llmos-metadata-1", "demo"])):
        message = admitted_of(sealed_request(BODY))
        bound = request_bound_of(message.head, metadata)
        secret = Secret.for_public(KEYS.active("ingress").public, "demo")
        envelope = secret.data_key(bound).seal(bound, INSIDE)
        with pytest.raises(EnvelopeRejected, match=r"^The envelope could not be opened\.$"):
            opened(msgspec.structs.replace(message, metadata=metadata, payload=envelope))


def test_what_was_left_open_is_as_the_row_says_now() -> None:
    """A key that the tenant changed since ingest looked is no reason to refuse; nor does the head's count for anything."""
    message = admitted_of(sealed_request(BODY), reply_key=OWN, timeout=600.0)
    found = asked(message, reply_key=THEIRS, default_timeout=60.0).head
    assert (found.reply_key, found.timeout) == (THEIRS, 60.0)


def test_a_time_in_the_future_is_now() -> None:
    """A client's clock that is ahead, or one that says so to escape a cancel."""
    assert asked(admitted_of(sealed_request(BODY, submitted_at=NOW + 100.0))).head.submitted_at == NOW


def test_of_a_clear_request_the_head_is_ingests() -> None:
    """Who could change it there can read the payload, and ask for himself."""
    message = Admitted(head=head(reply_key=THEIRS, priority=9), payload=INSIDE, encoding=MSGPACK)
    assert asked(message).head == message.head


def test_the_binding_is_the_same_on_both_sides() -> None:
    """The client makes it of the request, verify of the head and the metadata that ingest passes on."""
    for fields in ({}, {"idempotency_key": "work"}, {"request_id": "é", "tenant": "acme", "kind": "embed"}):
        request = sealed_request(BODY, lane="batch", **fields)
        message = admitted_of(request, lane="batch")
        assert request_bound_of(message.head, message.metadata) == request_bound(request, "batch")
        assert message.metadata == metadata_bytes(request, "batch")


CHANGED: dict[str, Any] = {
    "request_id": "other",
    "tenant": "acme",
    "kind": "embed",
    "model": "other",
    "sealed": False,
    "idempotency_key": "other",
    "priority": 5,
    "timeout": 600.5,
    "events": "tokens",
    "reply_to": "reply.demo.other",
    "reply_key": bytes(33),
    "submitted_at": 1.0,
    "nonce": bytes(15),
}


@pytest.mark.parametrize("name", CHANGED)
def test_changed_metadata_keeps_it_closed(name: str) -> None:
    """Whoever changes how the work is steered on its way has an envelope that does not open."""
    request = sealed_request(BODY)
    changed = admitted_of(msgspec.structs.replace(request, **{name: CHANGED[name]}))
    with pytest.raises(EnvelopeRejected):
        opened(msgspec.structs.replace(changed, sealed=True))


def test_another_lane_keeps_it_closed() -> None:
    """A request that was copied from one lane's topic to another's."""
    with pytest.raises(EnvelopeRejected):
        opened(admitted_of(sealed_request(BODY, lane="batch"), lane="interactive"))


@pytest.mark.parametrize(
    "fields", [{"tenant": "acme"}, {"job_id": job_id("demo", "x")}, {"kind": "embed"}, {"request_id": "x"}], ids=repr
)
def test_another_head_keeps_it_closed(fields: dict[str, Any]) -> None:
    """The payload of one submission under the head of another, with the metadata that belong to the payload."""
    message = admitted_of(sealed_request(BODY))
    with pytest.raises(EnvelopeRejected):
        opened(msgspec.structs.replace(message, head=msgspec.structs.replace(message.head, **fields)))


def test_every_changed_byte_is_refused() -> None:
    """With the same words each, but for the id of the key: that one is told, so that the client takes the present key."""
    message = admitted_of(sealed_request({"text": "a"}))
    envelope = message.payload
    key_id = parse(envelope).wrapped[0][0].encode()
    ids = range(envelope.index(key_id), envelope.index(key_id) + len(key_id))
    said = set()
    for at in range(len(envelope)):
        changed = bytearray(envelope)
        changed[at] ^= 1
        with pytest.raises((EnvelopeRejected, UnknownKey)) as refused:
            opened(msgspec.structs.replace(message, payload=bytes(changed)))
        assert isinstance(refused.value, EnvelopeRejected) or at in ids
        if isinstance(refused.value, EnvelopeRejected):
            said.add(str(refused.value))
    assert said == {"The envelope could not be opened."}


@pytest.mark.parametrize(
    "payload", [b"", b"LLE1", b"\x81\xa4text\xa1a", bytes(1000), b"LLE1\x01\x01\xff" * 99], ids=range(5)
)
def test_what_is_no_envelope_is_refused(payload: bytes) -> None:
    """A clear payload that says it is sealed, and rubbish."""
    with pytest.raises(EnvelopeRejected):
        opened(Admitted(head=head(), payload=payload, encoding=MSGPACK, sealed=True))


def test_what_does_not_open_is_counted() -> None:
    """Once each, whether it is no envelope at all or one that was changed."""
    counted = ENVELOPES_REJECTED.labels("request")._value
    message = admitted_of(sealed_request(BODY))
    for n, payload in enumerate((b"", message.payload[:-1], message.payload[:-1] + b"\0", b"\x81\xa4text\xa1a")):
        before = counted.get()
        with pytest.raises(EnvelopeRejected):
            opened(msgspec.structs.replace(message, payload=payload))
        assert counted.get() == before + 1, n


def test_keys_of_before_open_until_they_are_destroyed() -> None:
    """After that the refusal says which key it was, and not that anything was forged."""
    message = admitted_of(sealed_request(BODY))
    rotated = KEYS.rotated("ingress")
    assert opened(message, rotated)[0] == INSIDE
    gone = rotated.destroyed(KEYS.active("ingress").id)
    with pytest.raises(UnknownKey, match=KEYS.active("ingress").id):
        opened(message, gone)
    assert opened(admitted_of(sealed_request(BODY, rotated)), gone)[0] == INSIDE


def test_a_key_id_that_is_none_is_not_repeated() -> None:
    """What stands there in place of an id may be anything; the refusal travels in the clear."""
    message = admitted_of(sealed_request(BODY))
    key_id = parse(message.payload).wrapped[0][0].encode()
    changed = message.payload.replace(key_id, b"canary".ljust(len(key_id), b"!"))
    with pytest.raises(EnvelopeRejected):
        opened(msgspec.structs.replace(message, payload=changed))


def test_a_clear_payload_needs_a_policy_that_allows_it() -> None:
    """It is passed on as it came, in the encoding it came in."""
    message = Admitted(head=head(), payload=b'{"text":"a"}', encoding=JSON)
    assert opened(message, plaintext="allow") == (message.payload, JSON)
    with pytest.raises(PlaintextForbidden):
        opened(message, plaintext="forbid")


def test_a_checksum_tells_damage() -> None:
    """It is over the payload as it travels; without one nobody can tell."""
    message = admitted_of(sealed_request(BODY))
    check_whole(message)
    damaged = msgspec.structs.replace(message, payload=message.payload[:-1] + b"\0")
    with pytest.raises(PayloadDamaged):
        check_whole(damaged)
    check_whole(msgspec.structs.replace(damaged, crc32c=None))


def test_no_refusal_quotes_the_payload() -> None:
    """Neither of a clear one nor of one that says it is sealed."""
    for sealed in (True, False):
        message = Admitted(head=head(), payload=b"canary" * 50, encoding=MSGPACK, sealed=sealed)
        with pytest.raises(LlmosError) as refused:
            opened(message, plaintext="forbid")
        assert "canary" not in str(refused.value)
