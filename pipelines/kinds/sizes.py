"""What an item of an answer takes beside its output: the fields around it, and the envelope where it is sealed."""

from __future__ import annotations

from typing import Final

import msgspec

from llmos.infra.crypto import hpke
from llmos.infra.crypto.envelope import COMMITMENT_BYTES, MAGIC, SALT_BYTES
from llmos.infra.crypto.hpke import Recipient
from llmos.infra.crypto.keyring import KEY_BYTES, NONCE_BYTES, TAG_BYTES
from llmos.schemas.job import Item

_LARGEST: Final = 2**32
"""More than any index or token count of an item."""
ITEM_BYTES: Final = 4 + len(
    msgspec.msgpack.encode(
        Item(
            output_index=_LARGEST,
            output=b"x",
            sealed=True,
            part=_LARGEST,
            digest=bytes(32),
            tokens_in=_LARGEST,
            tokens_out=_LARGEST,
        )
    )
)
"""An item's fields around its output; 4: the longest length of one."""
_WRAPPED_BYTES: Final[dict[Recipient, int]] = {"x25519": 32, "mlkem768-x25519": 1088 + 32}
"""Encapsulated key of an HPKE message (RFC 9180 section 7.1; FIPS 203 section 8, ML-KEM-768)."""
_ENVELOPE_BYTES: Final = (
    len(MAGIC) + 2  # version, suite
    + 1 + 1 + len(hpke.key_id_of(b"")) + 2  # readers, the one reader's id and the length of its secret
    + KEY_BYTES + TAG_BYTES  # the secret, sealed by HPKE
    + SALT_BYTES + COMMITMENT_BYTES + NONCE_BYTES + TAG_BYTES
)  # fmt: skip
"""Layout: see `llmos.infra.crypto.envelope`."""


def item_bytes(reply_key: bytes) -> int:
    """What an item takes beside its output at most, sealed to `reply_key` or, where that is empty, in the clear.

    Raises ValueError: it is no public key, or nothing can be sealed to it.
    """
    if not reply_key:
        return ITEM_BYTES
    return ITEM_BYTES + envelope_bytes(hpke.check_public(reply_key))


def envelope_bytes(algorithm: Recipient) -> int:
    """By how much an envelope for one holder of such a key is longer than what is inside."""
    return _ENVELOPE_BYTES + _WRAPPED_BYTES[algorithm]
