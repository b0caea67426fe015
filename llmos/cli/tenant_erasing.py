"""tenants erase: removes a tenant, its credentials beside the system and its keys, and says what can still be read."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from llmos.cli import tenant_tables
from llmos.cli.credential_files import remove_credentials
from llmos.cli.erasure import Left, gone_at, left_of
from llmos.cli.options import Json
from llmos.cli.session import Session, run, session_of
from llmos.cli.tenant_options import Name
from llmos.cli.tenant_rows import remove_tenant, system_tenants
from llmos.cli.tenants import tenant_keys
from llmos.infra.crypto import keyfile
from llmos.infra.crypto.credentials import credentials_file
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.log.clock import WallClock
from llmos.infra.log.topics import spec_for
from llmos.infra.settings import Settings
from llmos.schemas.errors import NoSuchTenant
from llmos.schemas.topics import TABLE


class _Erasure(NamedTuple):
    destroyed: list[str]
    credentials: list[Path]
    """Files that were deleted."""
    left: list[Left]


def erase_command(
    context: typer.Context,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Remove a tenant, destroy its keys for ever, and delete its credentials beside the system.

    Says what can still be read, with which keys, and until when. Its jobs in flight end; answers that are there stay until
    their topics forget them: who is to read them yet needs a copy of the credentials.
    """
    session = session_of(context)
    settings = session.settings()
    if not yes:
        path = credentials_file(settings.state_directory, name)
        also = f", delete {path}," if path.exists() else ""
        typer.confirm(f"Remove tenant {name}{also} and destroy its keys for ever?", abort=True)
    erasure = run(_erase(session, settings, name))
    now = WallClock().now()
    if json:
        session.line(_erasure_object(name, erasure, now))
        return
    destroyed = ", ".join(erasure.destroyed) or "none: it had none"
    session.out.print(f"tenant {name} is removed; keys destroyed: {destroyed}", markup=False)
    deleted = ", ".join(map(str, erasure.credentials)) or "none: there were none beside the system"
    session.out.print(f"credentials deleted: {deleted}", markup=False)
    session.out.print(tenant_tables.left(erasure.left, now))
    last = tenant_tables.date(gone_at(erasure.left, now))
    session.out.print(f"nothing of it can be read after {last}, apart from copies outside of llmos", markup=False)
    session.note("the log forgets whole segments: a record may stay until the last one of its segment is old enough")
    session.note(
        "receipts, which hold no payload, stay for their time; so do copies of its credentials, wherever they are"
    )


async def _erase(session: Session, settings: Settings, name: str) -> _Erasure:
    keys = await asyncio.to_thread(keyfile.load_keyring, settings.keyring)
    path = credentials_file(settings.state_directory, name)
    async with session.log() as log:
        rows = await system_tenants(log, keys, settings.keyring)
        tenant = rows.tenants.get(name) or rows.refused.get(name)
        own = tenant_keys(keys, name)
        if tenant is None and not own:
            raise NoSuchTenant(tenant=name)
        if tenant is not None:
            await remove_tenant(log, name)  # first, so that nothing new is sealed for it
    # Before the keys: while the tenant has some, an erasure that was cut off can be taken up.
    deleted = await asyncio.to_thread(remove_credentials, path, name, session.note)
    keys = await asyncio.to_thread(keyfile.changed, settings.keyring, lambda keyring: _without(keyring, name))
    kept = {topic.name: spec_for(settings, topic.name).retention_seconds or 0.0 for topic in TABLE}
    return _Erasure(own, deleted, left_of(tenant, name, keys.entries, kept, WallClock().now()))


def _without(keyring: Keyring, name: str) -> Keyring:
    for key_id in tenant_keys(keyring, name):
        keyring = keyring.destroyed(key_id, active=True)
    return keyring


def _erasure_object(name: str, erasure: _Erasure, now: float) -> dict[str, Any]:
    return {
        "tenant": name,
        "destroyed": erasure.destroyed,
        "credentials_deleted": [str(path) for path in erasure.credentials],
        "left": [entry._asdict() for entry in erasure.left],
        "gone_at": gone_at(erasure.left, now),
    }
