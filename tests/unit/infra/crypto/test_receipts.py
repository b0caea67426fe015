"""Receipts: who has the public half of the key sees every change; who has the tenant's secret sees which answer it was."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.infra.crypto.channels import digest_key, item_digest, output_digest
from llmos.infra.crypto.credentials import PublicKey
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.receipts import (
    Notary,
    answer_digest,
    check_answer,
    check_receipt,
    item_digests,
    signed,
    verifying_keys,
)
from llmos.schemas.base import encode
from llmos.schemas.errors import BadSetting
from llmos.schemas.ids import job_id
from llmos.schemas.job import Item, Option, Origin, Usage
from llmos.schemas.results import USAGE, Receipt, signed_receipt

KEYS = Keyring.memory()
SECRET = b"s" * 32
JOB = job_id("acme", "k")
OUTPUTS = [(0, b"first", ""), (1, b"", "too_long"), (2, b"third", "")]


def public(keys: Keyring = KEYS) -> dict[str, bytes]:
    return verifying_keys(
        PublicKey(id=e.id, purpose="receipt", key=e.public) for e in keys.entries if e.purpose == "receipt"
    )


def receipt(**fields: Any) -> Receipt:
    values: dict[str, Any] = {
        "job_id": JOB,
        "tenant": "acme",
        "partition": 1,
        "s": 5,
        "status": "completed",
        "origin": Origin("requests", 0, 7),
        "usage": Usage(tokens_in=3, tokens_out=4, device_seconds=0.25),
        "precision": "bfloat16",
        "options": [Option("temperature", 0.5)],
        "part_count": 1,
        "item_count": 3,
        "output_digest": output_digest(item_digests(SECRET, JOB, OUTPUTS)),
    }
    return Receipt(**(values | fields))


def test_a_signed_receipt_is_checked_by_anyone() -> None:
    """It reads as the receipt it was, with the key that signed it; the public half is enough to check it."""
    record = signed(KEYS, receipt())
    found: Receipt = USAGE.decode(record)
    assert check_receipt(record, public())
    assert found.signing_key == KEYS.active("receipt").id
    assert len(found.signature) == 64
    assert msgspec.structs.replace(found, signing_key="", signature=b"") == receipt()


@given(st.data())
def test_every_change_of_a_record_is_seen(data: st.DataObject) -> None:
    """Whatever byte is changed: it is no receipt any more, or one that nobody signed."""
    record = signed(KEYS, receipt())
    at = data.draw(st.integers(0, len(record) - 1))
    changed = record[:at] + bytes([record[at] ^ data.draw(st.integers(1, 255))]) + record[at + 1 :]
    assert not check_receipt(changed, public())


@pytest.mark.parametrize(
    "changed",
    [
        {"tenant": "globex"},
        {"usage": Usage(tokens_in=3, tokens_out=40, device_seconds=0.25)},
        {"status": "failed"},
        {"output_digest": bytes(32)},
        {"item_count": 2},
        {"s": 6},
        {"signature": b""},
        {"signature": bytes(64)},
        {"signing_key": ""},
        {"signing_key": "0123456789abcdef"},
    ],
)
def test_other_fields_under_the_same_signature_are_seen(changed: dict[str, Any]) -> None:
    """Nobody can write himself another bill."""
    found: Receipt = USAGE.decode(signed(KEYS, receipt()))
    assert not check_receipt(encode(msgspec.structs.replace(found, **changed)), public())


def test_what_is_no_receipt_is_not_signed() -> None:
    """Rubbish, an unsigned receipt, one of another system."""
    assert not check_receipt(b"\xc1", public())
    assert not check_receipt(b"", public())
    assert not check_receipt(encode(receipt()), public())
    assert not check_receipt(signed(Keyring.memory(), receipt()), public())


def test_a_receipt_of_a_later_version_is_checked_too() -> None:
    """The signature covers what the record says, fields that this version does not know included."""
    fields = msgspec.msgpack.decode(encode(receipt(signing_key=KEYS.active("receipt").id)))
    fields["later"] = "more"
    _, signature = KEYS.sign("receipt", signed_receipt(msgspec.msgpack.encode(fields)))
    assert check_receipt(msgspec.msgpack.encode({**fields, "signature": signature}), public())
    assert not check_receipt(msgspec.msgpack.encode({**fields, "later": "less", "signature": signature}), public())


def test_after_a_rotation_old_and_new_receipts_hold() -> None:
    """Each names its key; a checker that has only the new key does not accept the old ones."""

    class Live:
        """A keyring that rotates."""

        keys = KEYS

        def __getattr__(self, name: str) -> Any:
            return getattr(self.keys, name)

    live = Live()
    notary = Notary(live)
    before = notary.signed(receipt())
    live.keys = KEYS.rotated("receipt")
    after = notary.signed(receipt())
    assert USAGE.decode(before).signing_key != USAGE.decode(after).signing_key
    assert check_receipt(before, public(live.keys))
    assert check_receipt(after, public(live.keys))
    assert not check_receipt(after, public(KEYS))


def test_signing_needs_the_key() -> None:
    """A service that does not hold it cannot."""
    with pytest.raises(BadSetting):
        signed(Keyring([]), receipt())


def test_the_tenant_finds_its_answer_in_the_receipt() -> None:
    """With its secret it makes the same digests of what it read; another answer, order or number of items does not fit."""
    digests = item_digests(SECRET, JOB, OUTPUTS)
    assert check_answer(receipt(), digests)
    assert not check_answer(receipt(), digests[:2])
    assert not check_answer(receipt(), list(reversed(digests)))
    assert not check_answer(receipt(), item_digests(SECRET, JOB, [(0, b"other", ""), *OUTPUTS[1:]]))
    assert not check_answer(receipt(), item_digests(b"t" * 32, JOB, OUTPUTS))
    assert not check_answer(receipt(), item_digests(SECRET, job_id("acme", "j"), OUTPUTS))


def test_the_digest_of_an_answer_is_that_of_its_items() -> None:
    """In their order; where an item has none, or there are no items, the receipt says nothing of the answer."""
    key = digest_key(SECRET, JOB)
    items = [
        Item(output_index=i, digest=item_digest(key, i, len(OUTPUTS), output, code)) for i, output, code in OUTPUTS
    ]
    assert answer_digest(items) == receipt().output_digest
    assert answer_digest([]) == b""
    assert answer_digest([*items, Item(output_index=3)]) == b""
    assert check_answer(receipt(item_count=0, output_digest=b""), [])
    assert check_answer(receipt(item_count=1, output_digest=b""), [b""])
