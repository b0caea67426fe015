"""Receipts: signed by the aggregator, checked by anyone who has the public half of its key. No I/O.

A receipt says of an answer who asked for what, how it ended and what it used, and by `output_digest` which answer it was. The
digests of items are keyed, so that a receipt tells nothing of a short answer: only the tenant can make them of what it read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from llmos.infra.crypto.channels import digest_key, item_digest, output_digest
from llmos.infra.crypto.credentials import PublicKey
from llmos.infra.crypto.keyring import SystemKeys
from llmos.infra.crypto.signatures import check_signature
from llmos.schemas.base import encode
from llmos.schemas.errors import RecordError
from llmos.schemas.job import Item
from llmos.schemas.results import USAGE, Receipt, signed_receipt

NO_DIGEST: Final = b""


class Notary:
    """Signs receipts. The key's id is under the signature, so it signs for the key it used last; after a rotation once more."""

    def __init__(self, keys: SystemKeys) -> None:
        self._keys = keys
        self._key_id = ""

    def signed(self, receipt: Receipt) -> bytes:
        """The receipt as a record, signed. Raises `BadSetting` where the key is not held here."""
        while True:
            unsigned = msgspec.structs.replace(receipt, signing_key=self._key_id, signature=b"")
            key_id, signature = self._keys.sign("receipt", signed_receipt(encode(unsigned)))
            if key_id == self._key_id:
                return encode(msgspec.structs.replace(unsigned, signature=signature))
            self._key_id = key_id


def signed(keys: SystemKeys, receipt: Receipt) -> bytes:
    """The receipt as a record, signed; who signs many has a `Notary`. Raises `BadSetting`."""
    return Notary(keys).signed(receipt)


def verifying_keys(keys: Iterable[PublicKey]) -> dict[str, bytes]:
    """Of the system's public keys those that check receipts, by id; also those that no longer sign."""
    return {key.id: key.key for key in keys if key.purpose == "receipt"}


def check_receipt(record: bytes, public: Mapping[str, bytes]) -> bool:
    """Whether the record is a receipt that the holder of one of these keys signed. `public`: by id, 32 bytes each."""
    try:
        receipt: Receipt = USAGE.decode(record)
        covered = signed_receipt(record)
    except (RecordError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False  # not a receipt, or a map with something in it that is none of ours and cannot be read
    key = public.get(receipt.signing_key)
    return key is not None and check_signature(key, covered, receipt.signature)


def answer_digest(items: Iterable[Item]) -> bytes:
    """A receipt's `output_digest`, of the items in the order of their indices; empty where there are none, or where one has
    no digest (its part could not be opened)."""
    digests = [item.digest for item in items]
    return output_digest(digests) if digests and all(digests) else NO_DIGEST


def item_digests(secret: bytes, job_id: bytes, outputs: Sequence[tuple[int, bytes, str]]) -> list[bytes]:
    """The digests of a job's items, by who has the tenant's secret. `outputs`: of each of its items, none left out, the index,
    the clear output (MessagePack of the kind's output) and the error's code, one of the two empty."""
    key = digest_key(secret, job_id)
    return [item_digest(key, index, len(outputs), output, code) for index, output, code in outputs]


def check_answer(receipt: Receipt, digests: Sequence[bytes]) -> bool:
    """Whether the receipt is that of an answer whose items have these digests, in the order of their indices."""
    if len(digests) != receipt.item_count:
        return False
    found = output_digest(digests) if digests and all(digests) else NO_DIGEST
    return found == receipt.output_digest
