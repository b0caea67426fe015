"""A tenant whose secret the keyring does not open: its requests wait for the operator, none is lost."""

from __future__ import annotations

import msgspec
import pytest

from llmos.infra.crypto.rows import sealed_row
from llmos.infra.crypto.secrets import wrap_secret
from llmos.infra.log.port import Place
from llmos.infra.stages.one_in_one_out import Emitted
from llmos.infra.stages.origins import Origins
from llmos.infra.stages.tenants import TenantTable
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import SecretUnreadable
from llmos.services.ingest.authenticating import Tenants
from llmos.services.ingest.credits import Credits
from llmos.services.ingest.handler import IngestHandler
from tests.kit.bench import KEYS, PARTITIONS, HandClock, configured, context, record

REQUEST = {"type": "request/1", "request_id": "r", "tenant": "acme", "kind": "echo", "input": "x", "mac": bytes(32)}


def put(table: TenantTable, name: str, key_id: str, wrapped: bytes) -> None:
    row = sealed_row(KEYS, Tenant(name=name, key_id=key_id, wrapped_secret=wrapped, mac="optional", plaintext="allow"))
    table.table.take(record(encode(row), topics.TENANTS, key=name.encode()))


async def test_ingest_ends_and_buries_nothing() -> None:
    """Until the row opens; then the same record is settled."""
    table = TenantTable(KEYS)
    key_id, wrapped = wrap_secret(KEYS, "acme", b"s" * 32)
    put(table, "acme", key_id, bytes(len(wrapped)))
    ctx = context(HandClock(), configured(), service="ingest")
    handler = IngestHandler(ctx, Tenants(table.named, table.needed), Credits(ctx), PARTITIONS)
    place, found = Place("requests", 1), [record(msgspec.msgpack.encode(REQUEST), "requests", 1, 0)]
    with pytest.raises(SecretUnreadable, match="no request is"):
        await handler.settle(place, found, Origins())
    unsigned = [record(msgspec.msgpack.encode({**REQUEST, "mac": b""}), "requests", 1, 0)]
    assert isinstance((await handler.settle(place, unsigned, Origins()))[0], Emitted)
    put(table, "acme", key_id, wrapped)
    assert len(await handler.settle(place, found, Origins())) == 1


def test_ingest_is_given_the_secrets_that_it_needs() -> None:
    """As its process wires it."""
    from llmos.services.ingest import app

    assert "needed" in app.run.__code__.co_names
