"""The keys of an envelope are HKDF-Expand with SHA-512 as the library has it."""

from __future__ import annotations

from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from llmos.infra.crypto.envelope import _expand, _prf


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_derivation_is_the_library_s_hkdf(secret: bytes, salt: bytes, context: bytes) -> None:
    """One block of expansion gives the very same 64 bytes, also from a key that was used before."""
    info = b"llmos-envelope-1 keys\0" + salt + context
    theirs = HKDFExpand(algorithm=SHA512(), length=64, info=info).derive(secret)
    prf = _prf(secret)
    assert [_expand(prf, salt, context) for _ in range(2)] == [theirs, theirs]
