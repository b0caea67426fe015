"""Whose request it is: codes around a rotation, and policies that need none."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from llmos.infra.crypto.macs import mac
from llmos.infra.crypto.secrets import fingerprint
from llmos.infra.log.port import Record
from llmos.schemas.base import MSGPACK, encode
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import Forged, UnknownTenant
from llmos.schemas.requests import Request, signed_bytes
from llmos.services.ingest.authenticating import Tenants, authenticate
from tests.kit.bench import NOW, record, tenant

OLD, NEW = b"o" * 32, b"n" * 32
UNTIL = NOW + 60.0


def secrets_at(_: Tenant, now: float) -> Sequence[bytes]:
    return (NEW, OLD) if now < UNTIL else (NEW,)


TENANTS = Tenants({"strict": tenant("strict", mac="required"), "demo": tenant("demo")}.get, secrets_at)


def request(secret: bytes = b"", tenant: str = "strict") -> Request:
    made = Request(request_id="r", tenant=tenant, kind="echo", payload=b"x")
    return msgspec.structs.replace(made, mac=mac(secret, signed_bytes(made, "standard"))) if secret else made


def taken(request: Request, at: float = NOW) -> Record:
    return record(encode(request), at=at)


@pytest.mark.parametrize("secret", [OLD, NEW])
def test_both_secrets_hold_around_a_rotation(secret: bytes) -> None:
    """Each is told by its fingerprint, so that what comes after knows which one the client has."""
    asked = request(secret)
    proved = authenticate(asked, MSGPACK, taken(asked), TENANTS)
    assert (proved.tenant.name, proved.signed_with) == ("strict", fingerprint(secret))


def test_the_old_secret_ends_with_its_grace() -> None:
    """By the time at which the log took the record, so that waiting in a backlog forges nothing."""
    asked = request(OLD)
    assert authenticate(asked, MSGPACK, taken(asked, UNTIL - 1), TENANTS).signed_with
    with pytest.raises(Forged):
        authenticate(asked, MSGPACK, taken(asked, UNTIL), TENANTS)


def test_a_code_is_needed_where_the_policy_says_so() -> None:
    """Without one a request of a strict tenant is a forgery, a sealed one as well; elsewhere it proves nothing."""
    for asked in (request(), msgspec.structs.replace(request(), sealed=True)):
        with pytest.raises(Forged):
            authenticate(asked, MSGPACK, taken(asked), TENANTS)
    open_ = request(tenant="demo")
    assert authenticate(open_, MSGPACK, taken(open_), TENANTS).signed_with == b""
    forged = msgspec.structs.replace(open_, mac=bytes(32))
    with pytest.raises(Forged):
        authenticate(forged, MSGPACK, taken(forged), TENANTS)


def test_nobody_is_a_tenant_by_saying_so() -> None:
    """A name that is on no record of the table."""
    asked = request(NEW, "nobody")
    with pytest.raises(UnknownTenant):
        authenticate(asked, MSGPACK, taken(asked), TENANTS)
