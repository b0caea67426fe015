"""tenants rewrap: all rows anew under the system's present key, so that the one before can be destroyed."""

from __future__ import annotations

import asyncio

import typer

from llmos.cli.options import Json
from llmos.cli.session import Session, run, session_of
from llmos.cli.tenant_rows import system_tenants, write_tenants
from llmos.cli.tenants import rewrapped
from llmos.infra.crypto.keyfile import load_keyring
from llmos.infra.log.clock import WallClock
from llmos.infra.settings import Settings
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import EnvelopeRejected


def rewrap_command(context: typer.Context, json: Json = False) -> None:
    """Write all tenants' rows anew under the system's present key, so that the one before can be destroyed.

    To be done after `llmos keys rotate system`. Secrets, rights and credentials stay as they are.
    """
    session = session_of(context)
    written, lost = run(_rewrap(session, session.settings()))
    if json:
        session.line({"tenants": [tenant.name for tenant in written], "not_opened": lost})
    else:
        session.out.print(f"{len(written)} tenants are under the system's present key", markup=False)
    for name in lost:
        session.note(f"tenant {name}: no key here opens its secret, so that its row stays as it is")
    if lost:
        raise typer.Exit(1)


async def _rewrap(session: Session, settings: Settings) -> tuple[list[Tenant], list[str]]:
    """The tenants that were written anew, and the names of those whose secrets do not open."""
    keys = await asyncio.to_thread(load_keyring, settings.keyring)
    now = WallClock().now()
    async with session.log() as log:
        rows = await system_tenants(log, keys, settings.keyring)
        anew, lost = [], []
        for name, tenant in sorted(rows.tenants.items()):
            try:
                anew.append(rewrapped(tenant, keys, now))
            except EnvelopeRejected:
                lost.append(name)
        return await write_tenants(log, keys, anew), lost
