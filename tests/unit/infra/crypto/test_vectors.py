"""The published vectors hold, release after release, with our code and with one that shares nothing with it."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import msgpack
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from llmos.infra.crypto import channels, hpke
from llmos.infra.crypto.blobs import open_blob
from llmos.infra.crypto.envelope import Bound, open_envelope
from llmos.infra.crypto.keyring import KeyEntry, Keyring, Purpose
from llmos.infra.crypto.macs import check_mac
from llmos.infra.crypto.receipts import check_receipt
from llmos.infra.crypto.signatures import check_signature
from llmos.schemas.control import Cancel, signed_control
from llmos.schemas.requests import Request, metadata_bytes, signed_bytes
from llmos.schemas.results import USAGE, signed_receipt
from tests.unit.infra.crypto.independent import open_v1, packed
from tests.unit.infra.crypto.independent_hpke import open_hpke
from tests.unit.infra.crypto.vectors import VECTORS, make

PUBLISHED: dict[str, Any] = json.loads(VECTORS.read_bytes())
CASES: list[dict[str, Any]] = PUBLISHED["cases"]
_STATES = {"aes-256-gcm": "pool", "x25519": "ingress", "mlkem768-x25519": "ingress"}


def _ring(key_id: str) -> Keyring:
    algorithm, key = PUBLISHED["keys"][key_id]["algorithm"], bytes.fromhex(PUBLISHED["keys"][key_id]["key"])
    purpose: Purpose = _STATES[algorithm]  # type: ignore[assignment]
    public = hpke.public_of(algorithm, key) if purpose == "ingress" else b""
    return Keyring([KeyEntry(id=key_id, purpose=purpose, state="active", algorithm=algorithm, key=key, public=public)])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_published_envelope_opens(case: dict[str, Any]) -> None:
    """For each of its readers."""
    fields = case["bound"] | {name: bytes.fromhex(case["bound"][name]) for name in ("job_id", "extra")}
    envelope, plaintext = bytes.fromhex(case["envelope"]), bytes.fromhex(case["plaintext"])
    for key_id in case["readers"]:
        entry = PUBLISHED["keys"][key_id]
        assert open_envelope(_ring(key_id), Bound(**fields), envelope) == plaintext
        assert open_v1(entry["algorithm"], key_id, bytes.fromhex(entry["key"]), fields, envelope) == plaintext


def test_every_kind_of_reader_is_published() -> None:
    """And what is made today has the same form."""
    made = make()
    assert {entry["algorithm"] for entry in PUBLISHED["keys"].values()} == {"aes-256-gcm", "x25519", "mlkem768-x25519"}
    assert [case["name"] for case in CASES] == [case["name"] for case in made["cases"]]
    assert [len(case["envelope"]) for case in CASES] == [len(case["envelope"]) for case in made["cases"]]
    assert made["digests"] == PUBLISHED["digests"]
    assert made["control"] == PUBLISHED["control"]
    assert made["request"] == PUBLISHED["request"]


def test_the_published_blob_opens() -> None:
    """What dead letters hold."""
    blob = PUBLISHED["blob"]
    context, sealed = bytes.fromhex(blob["context"]), bytes.fromhex(blob["sealed"])
    assert open_blob(_ring(blob["key"]), blob["key"], context, sealed).hex() == blob["plaintext"]
    key = bytes.fromhex(PUBLISHED["keys"][blob["key"]]["key"])
    assert open_hpke("x25519", key, sealed, info=b"llmos-blob-1\x00" + context).hex() == blob["plaintext"]


def test_the_published_digests_are_made_by_hand() -> None:
    """Keyed per job, per item, and over a whole answer."""
    found = PUBLISHED["digests"]
    secret, job = bytes.fromhex(found["secret"]), bytes.fromhex(found["job_id"])
    key = hmac.new(secret, b"llmos-output-digest-1\x00" + job, hashlib.sha256).digest()
    assert key.hex() == found["digest_key"]
    digests = b""
    for item in found["items"]:
        said = packed(["llmos-item-2", item["index"], len(found["items"]), bytes.fromhex(item["output"]), item["code"]])
        assert hmac.new(key, said, hashlib.sha256).hexdigest() == item["digest"]
        digests += bytes.fromhex(item["digest"])
    assert hashlib.sha256(b"llmos-output-1\x00" + digests).hexdigest() == found["output_digest"]


def test_the_published_request_is_signed() -> None:
    """The MAC covers how the body is given, the metadata in their order and the body; the sealed request's binding covers the metadata."""
    found = PUBLISHED["request"]
    fields = found["fields"] | {"nonce": bytes.fromhex(found["fields"]["nonce"]), "reply_key": b""}
    order = ["priority", "timeout", "events", "reply_to", "reply_key", "submitted_at", "nonce"]
    metadata = [fields["tenant"], fields["request_id"], fields["idempotency_key"], found["lane"]]
    metadata += [fields["kind"], fields["model"], fields["sealed"], *(fields[name] for name in order)]
    assert packed(["llmos-metadata-2", *metadata]).hex() == found["metadata"]
    how = packed([0, "", fields["crc32c"]])
    signed = b"llmos-request-4\x00" + how + bytes.fromhex(found["metadata"]) + bytes.fromhex(found["body"])
    assert signed.hex() == found["signed"]
    assert hmac.new(bytes.fromhex(found["secret"]), signed, hashlib.sha256).hexdigest() == found["mac"]
    request = _request(found)
    assert metadata_bytes(request, found["lane"]).hex() == found["metadata"]
    assert check_mac(bytes.fromhex(found["secret"]), signed_bytes(request, found["lane"]), bytes.fromhex(found["mac"]))
    extra = hashlib.sha256(bytes.fromhex(found["metadata"])).hexdigest()
    assert channels.request_bound(request, found["lane"]).extra.hex() == extra
    assert next(case["bound"]["extra"] for case in CASES if case["bound"]["channel"] == "request") == extra


def test_the_published_part_is_bound_to_the_reply_key() -> None:
    """And to the model, so that nobody has a copy of it answered to another key; and to the place of its items."""
    extra = hashlib.sha256(packed(["llmos-part-2", b"\x01" + bytes(range(32)), "", 2, 5])).hexdigest()
    bound = next(case["bound"] for case in CASES if case["name"].startswith("a part"))
    assert [bound[name] for name in ("part", "sequence", "item", "extra")] == [1, 3, 2, extra]


def test_the_published_cancel_is_signed() -> None:
    """A label with the message's kind, then its fields in order."""
    found = PUBLISHED["control"]
    cancel = Cancel(
        tenant=found["fields"]["tenant"], job_id=bytes.fromhex(found["fields"]["job_id"]), at=found["fields"]["at"]
    )
    by_hand = packed(["llmos-cancel/1", cancel.tenant, cancel.job_id, cancel.at])
    assert by_hand.hex() == signed_control(cancel).hex() == found["signed"]
    assert hmac.new(bytes.fromhex(found["secret"]), by_hand, hashlib.sha256).hexdigest() == found["mac"]


def test_the_published_receipt_is_signed() -> None:
    """Over the record's own map without its signature, so that receipts of later versions can be checked too."""
    found = PUBLISHED["receipt"]
    record, public = bytes.fromhex(found["record"]), bytes.fromhex(found["public_key"])
    fields = msgpack.unpackb(record)
    signature = fields.pop("signature")
    by_hand = b"llmos-receipt-1\x00" + packed(fields)
    assert by_hand.hex() == found["signed"]
    Ed25519PublicKey.from_public_bytes(public).verify(signature, by_hand)
    receipt = USAGE.decode(record)
    assert check_receipt(record, {receipt.signing_key: public})
    assert check_signature(public, signed_receipt(record), receipt.signature)
    later = packed(msgpack.unpackb(record) | {"a_field_of_later": 1})
    assert signed_receipt(later) != by_hand
    for i in range(len(by_hand)):
        changed = by_hand[:i] + bytes([by_hand[i] ^ 1]) + by_hand[i + 1 :]
        assert not check_signature(public, changed, receipt.signature)
    assert not check_signature(public, by_hand, receipt.signature[:-1])
    assert not check_signature(b"short", by_hand, receipt.signature)


def _request(found: dict[str, Any]) -> Request:
    fields = found["fields"] | {
        "payload": bytes.fromhex(found["body"]),
        "nonce": bytes.fromhex(found["fields"]["nonce"]),
    }
    fields |= {"reply_key": b"", "mac": b""}
    return msgspec.convert(fields | {"type": "request/1"}, Request)
