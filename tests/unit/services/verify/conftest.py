"""What tests of verify's handler share: a handler on a log in memory, with one tenant."""

from __future__ import annotations

import pytest

from llmos.infra.runtime.context import Context
from llmos.infra.stages.tenants import TenantTable
from llmos.schemas.base import encode
from llmos.services.verify.directory import ModelDirectory
from llmos.services.verify.handler import VerifyHandler
from tests.kit.bench import KEYS, HandClock, configured, context, record, tenant


@pytest.fixture
async def ctx() -> Context:
    return context(HandClock(), configured(), service="verify")


@pytest.fixture
def tenants() -> TenantTable:
    table = TenantTable(KEYS)
    table.table.take(record(encode(tenant()), "tenants", key=b"demo"))
    return table


@pytest.fixture
def handler(ctx: Context, tenants: TenantTable) -> VerifyHandler:
    return VerifyHandler(ctx, tenants, ModelDirectory(3.0))
