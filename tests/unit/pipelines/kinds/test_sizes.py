"""What is said of the room around an output is true of real envelopes and real items."""

from __future__ import annotations

import msgspec
import pytest

from llmos.infra.crypto import hpke
from llmos.infra.crypto.channels import item_bound
from llmos.infra.crypto.envelope import Secret
from llmos.infra.crypto.hpke import Recipient
from llmos.pipelines.kinds.sizes import ITEM_BYTES, envelope_bytes, item_bytes
from llmos.schemas.base import encode
from llmos.schemas.job import Item
from llmos.schemas.limits import ITEMS
from llmos.schemas.results import Answer
from tests.kit.bench import head

KEYS: dict[Recipient, bytes] = {
    "x25519": hpke.public_of("x25519", bytes(32)),
    "mlkem768-x25519": hpke.public_of("mlkem768-x25519", bytes(96)),
}


def envelope(public: bytes, output: bytes) -> bytes:
    bound = item_bound(head(), 0, 1, 0)
    return Secret.for_public(public, "demo").data_key(bound).seal(bound, output)


@pytest.mark.parametrize("algorithm", KEYS)
def test_an_envelope_is_longer_by_exactly_this(algorithm: Recipient) -> None:
    """Whatever is inside."""
    for size in (0, 1, 70_000):
        assert len(envelope(KEYS[algorithm], bytes(size))) == size + envelope_bytes(algorithm)


@pytest.mark.parametrize("public", ["", *KEYS])
def test_a_full_answer_is_never_larger_than_was_said(public: str) -> None:
    """As many items as a list may have, each with all of its fields, in a true answer."""
    key = KEYS[public] if public else b""  # type: ignore[index]
    output = msgspec.msgpack.encode({"text": "x" * 100})
    items = [
        Item(
            output_index=i,
            output=envelope(key, output) if key and i == 0 else bytes(len(output) + item_bytes(key) - ITEM_BYTES),
            sealed=bool(key),
            part=i,
            digest=bytes(32),
            tokens_in=1_000_000,
            tokens_out=8192,
        )
        for i in range(ITEMS)
    ]
    about = head()
    answer = Answer(
        job_id=about.job_id, tenant="demo", request_id="k", origin=about.origin, partition=0, s=0, status="completed"
    )
    size = len(encode(msgspec.structs.replace(answer, items=items))) - len(encode(answer))
    assert size <= ITEMS * (len(output) + item_bytes(key)) + 16
    assert size > ITEMS * (len(output) + item_bytes(key) - 64), "and not much smaller"


def test_a_key_that_is_none_is_said() -> None:
    """With what is wrong, before anything is computed for it."""
    for public in (b"k", b"\x01" + bytes(31), b"\x03" + bytes(32), b"\x01" + bytes(32)):
        with pytest.raises(ValueError, match=r".+"):
            item_bytes(public)
