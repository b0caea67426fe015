"""Cases that others published: AES-GCM of Project Wycheproof, HPKE of RFC 9180 and of its post-quantum draft."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag

from llmos.infra.crypto import hpke
from llmos.infra.crypto.envelope import AESGCM
from llmos.infra.crypto.keyring import KeyEntry, Keyring
from llmos.schemas.errors import EnvelopeRejected
from tests.unit.infra.crypto.independent import gcm_open
from tests.unit.infra.crypto.independent_hpke import open_hpke, shared_secret, x25519

DATA = Path(__file__).parent / "data"
GCM: list[dict[str, Any]] = json.loads((DATA / "wycheproof_aes_gcm.json").read_bytes())["cases"]
HPKE: list[dict[str, Any]] = json.loads((DATA / "hpke.json").read_bytes())["cases"]


def test_both_kinds_of_cases_are_there() -> None:
    """66 of the size that envelopes use, some of which must open and some must not."""
    results = [case["result"] for case in GCM]
    assert (len(results), set(results)) == (66, {"valid", "invalid"})


@pytest.mark.parametrize("case", GCM, ids=lambda case: f"{case['id']} {case['comment']}".strip())
def test_aes_gcm_opens_what_is_valid_and_nothing_else(case: dict[str, Any]) -> None:
    """The cipher of the envelope, and the independent decoder's."""
    key, nonce, associated, message, sealed = (
        bytes.fromhex(text) for text in (case["key"], case["iv"], case["aad"], case["msg"], case["ct"] + case["tag"])
    )
    if case["result"] == "valid":
        assert AESGCM(key).encrypt(nonce, message, associated) == sealed
        assert AESGCM(key).decrypt(nonce, sealed, associated) == message
        assert gcm_open(key, nonce, sealed, associated) == message
        return
    with pytest.raises(InvalidTag):
        AESGCM(key).decrypt(nonce, sealed, associated)
    with pytest.raises(InvalidTag):
        gcm_open(key, nonce, sealed, associated)


def test_the_independent_x25519_is_that_of_the_rfc() -> None:
    """RFC 7748, section 5.2, the first vector."""
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    expected = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert x25519(scalar, point).hex() == expected


@pytest.mark.parametrize("case", HPKE, ids=lambda case: case["kem"])
def test_the_independent_hpke_opens_the_published_messages(case: dict[str, Any]) -> None:
    """Its shared secret and its plaintext: so it may judge ours."""
    private = _expanded(case)
    enc, sealed = bytes.fromhex(case["enc"]), bytes.fromhex(case["ct"])
    assert shared_secret(case["kem"], private, enc).hex() == case["shared_secret"]
    opened = open_hpke(
        case["kem"],
        private,
        enc + sealed,
        info=bytes.fromhex(case["info"]),
        associated=bytes.fromhex(case["aad"]),
        aead=case["aead"],
    )
    assert opened.hex() == case["pt"]


@pytest.mark.parametrize("case", HPKE, ids=lambda case: case["kem"])
def test_public_keys_are_those_of_the_published_private_ones(case: dict[str, Any]) -> None:
    """Behind the byte that names the algorithm."""
    assert hpke.public_of(case["kem"], _expanded(case))[1:].hex() == case["public"]


@pytest.mark.parametrize("algorithm", ["x25519", "mlkem768-x25519"])
def test_what_we_wrap_the_independent_hpke_opens(algorithm: hpke.Recipient) -> None:
    """In its context only; and every changed byte opens nothing with ours."""
    private = hpke.generate_private(algorithm)
    public = hpke.public_of(algorithm, private)
    wrapped = hpke.wrap_for(public, b"secret", b"context")
    assert open_hpke(algorithm, private, wrapped, info=b"context") == b"secret"
    with pytest.raises(InvalidTag):
        open_hpke(algorithm, private, wrapped, info=b"contexu")
    key_id = hpke.key_id_of(public)
    ring = Keyring(
        [KeyEntry(id=key_id, purpose="ingress", state="active", algorithm=algorithm, key=private, public=public)]
    )
    assert ring.unwrap(key_id, wrapped, b"context") == b"secret"
    assert ring.wrap("ingress", b"secret", b"context")[1] != wrapped
    for i in range(0, len(wrapped), 1 if algorithm == "x25519" else 13):
        with pytest.raises(EnvelopeRejected):
            ring.unwrap(key_id, wrapped[:i] + bytes([wrapped[i] ^ 1]) + wrapped[i + 1 :], b"context")
    for wrong in (b"", wrapped[:40], wrapped + b"\0"):
        with pytest.raises(EnvelopeRejected):
            ring.unwrap(key_id, wrong, b"context")


def test_what_is_no_public_key_is_told_apart() -> None:
    """Nothing, an unknown algorithm, a wrong length, and points to which nothing can be sealed."""
    good = hpke.public_of("x25519", hpke.generate_private("x25519"))
    assert hpke.check_public(good) == "x25519"
    for wrong in (b"", b"\x03" + good[1:], good[:-1], good + b"\0", b"\x02" + good[1:], b"\x01" + bytes(32)):
        with pytest.raises(ValueError):
            hpke.check_public(wrong)
    for algorithm in ("x25519", "mlkem768-x25519"):
        with pytest.raises(ValueError, match="private key"):
            hpke.private_key(algorithm, b"short")  # type: ignore[arg-type]


def _expanded(case: dict[str, Any]) -> bytes:
    """Our form of the private key: the hybrid's 32 bytes stand for 64 of ML-KEM and 32 of X25519."""
    private = bytes.fromhex(case["private"])
    return private if case["kem"] == "x25519" else hashlib.shake_256(private).digest(96)
