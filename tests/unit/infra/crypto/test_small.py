"""Checksums, authentication codes, tenants' secrets and sealed blobs."""

from __future__ import annotations

import pytest

from llmos.infra.crypto.blobs import open_blob, seal_blob
from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.macs import check_mac, mac
from llmos.infra.crypto.roles import for_service
from llmos.infra.crypto.secrets import fingerprint, new_secret, unwrap_previous, unwrap_secret, wrap_secret
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import EnvelopeRejected


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"123456789", 0xE3069283), (b"", 0), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)],
)
def test_crc32c_is_castagnoli(data: bytes, expected: int) -> None:
    """The check value, and the vectors of RFC 3720 appendix B.4."""
    assert crc32c(data) == expected


def test_mac_is_hmac_sha256() -> None:
    """Test case 2 of RFC 4231."""
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert mac(b"Jefe", b"what do ya want for nothing?").hex() == expected


def test_a_mac_holds_for_its_data_and_secret_only() -> None:
    """Every changed byte, a cut tag, another secret and none at all fail; an empty secret proves nothing."""
    secret, data = new_secret(), b"metadata and payload"
    tag = mac(secret, data)
    assert check_mac(secret, data, tag)
    assert not any(check_mac(secret, data, tag[:i] + bytes([tag[i] ^ 1]) + tag[i + 1 :]) for i in range(32))
    assert not check_mac(secret, data + b".", tag)
    assert not check_mac(secret, data, tag[:16])
    assert not check_mac(secret, data, b"")
    assert not check_mac(new_secret(), data, tag)
    assert not check_mac(b"", data, mac(b"", data))


def test_a_tenants_secret_is_for_that_tenant() -> None:
    """It comes back from the tenant's record, not from another's; a tenant without one has none."""
    keys = Keyring.memory()
    secret = new_secret()
    assert len(secret) == 32
    assert secret != new_secret()
    key_id, wrapped = wrap_secret(keys, "demo", secret)
    assert unwrap_secret(keys, Tenant(name="demo", wrapped_secret=wrapped, key_id=key_id)) == secret
    assert unwrap_secret(keys, Tenant(name="demo")) == b""
    with pytest.raises(EnvelopeRejected):
        unwrap_secret(keys, Tenant(name="other", wrapped_secret=wrapped, key_id=key_id))


def test_the_secret_before_a_rotation_opens_too() -> None:
    """Each with the key it was wrapped under; a tenant without one has none."""
    keys = Keyring.memory()
    old, new = new_secret(), new_secret()
    old_id, old_wrapped = wrap_secret(keys, "demo", old)
    keys = keys.rotated("system")
    key_id, wrapped = wrap_secret(keys, "demo", new)
    tenant = Tenant(
        name="demo", wrapped_secret=wrapped, key_id=key_id, previous_secret=old_wrapped, previous_key_id=old_id
    )
    assert (unwrap_secret(keys, tenant), unwrap_previous(keys, tenant)) == (new, old)
    assert unwrap_previous(keys, Tenant(name="demo")) == b""
    assert fingerprint(old) != fingerprint(new)
    assert len(fingerprint(old)) == 32


def test_a_blob_opens_in_its_context_for_operators() -> None:
    """The public half is enough to seal it, and opens nothing; another context, or another use of the key, neither."""
    keys = Keyring.memory()
    sealer = for_service(keys, "ingest")
    key_id, sealed = seal_blob(sealer, b"requests:3:17", b"a record")
    assert b"a record" not in sealed
    assert key_id == keys.active("dead").id
    assert open_blob(keys, key_id, b"requests:3:17", sealed) == b"a record"
    for holder, context in ((keys, b"requests:3:18"), (sealer, b"requests:3:17"), (Keyring.memory(), b"requests:3:17")):
        with pytest.raises(EnvelopeRejected):
            open_blob(holder, key_id, context, sealed)
    with pytest.raises(EnvelopeRejected):
        unwrap_secret(keys, Tenant(name="requests", wrapped_secret=sealed, key_id=key_id))
