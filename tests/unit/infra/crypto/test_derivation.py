"""The keys of an envelope are HKDF-SHA512 as the library has it."""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from llmos.infra.crypto.envelope import _expand


@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.binary(max_size=40),
    st.binary(max_size=64),
)
def test_derivation_is_the_library_s_hkdf(key: bytes, salt: bytes, label: bytes, context: bytes) -> None:
    """Extraction with the salt and one block of expansion give the very same bytes."""
    theirs = HKDF(algorithm=SHA512(), length=32, salt=salt, info=label + b"\0" + context).derive(key)
    assert _expand(hmac.digest(salt, key, "sha512"), label, context) == theirs
