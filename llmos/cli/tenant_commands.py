"""tenants add, list, show, set, rotate-secret, rewrap, erase: who may ask, for operators, who hold the keyring."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from llmos.cli import tenant_tables
from llmos.cli.credential_files import prepare_credentials, put_credentials
from llmos.cli.options import Json
from llmos.cli.session import Session, run, session_of
from llmos.cli.tenant_erasing import erase_command
from llmos.cli.tenant_options import (
    Burst,
    Bytes,
    DefaultTimeout,
    Hybrid,
    Jobs,
    Kinds,
    Lanes,
    LongestTimeout,
    Mac,
    Models,
    Name,
    Note,
    Plaintext,
    ReplyPrefixes,
    Requests,
    Tokens,
    Weight,
    algorithm_of,
    changes_of,
    checked,
)
from llmos.cli.tenant_rewrapping import rewrap_command
from llmos.cli.tenant_rotation import rotate_command
from llmos.cli.tenant_rows import (
    read_as_they_stand,
    read_tenants,
    system_tenants,
    unmatched,
    write_tenants,
)
from llmos.cli.tenant_use import live_use, spent
from llmos.cli.tenants import (
    Changes,
    Made,
    changed,
    check_free,
    erased,
    named,
    new_tenant,
)
from llmos.infra.crypto import keyfile
from llmos.infra.crypto.credentials import credentials_file, public_keys
from llmos.infra.crypto.keyring import KeyEntry, Keyring
from llmos.infra.ledger.port import TenantUse
from llmos.infra.log.clock import WallClock
from llmos.infra.log.port import Log
from llmos.infra.settings import Settings
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import BadSetting, NoSuchTenant, TenantTaken

Out = Annotated[
    Path | None,
    typer.Option(help="Where its credentials go (mode 0600), by default tenants/NAME.json in the state directory."),
]


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this family."""
    tenants = typer.Typer(no_args_is_help=True, help="Tenants: who may ask, for what and how much.")
    tenants.command("add")(add_command)
    tenants.command("list")(list_command)
    tenants.command("show")(show_command)
    tenants.command("set")(set_command)
    tenants.command("rotate-secret")(rotate_command)
    tenants.command("rewrap")(rewrap_command)
    tenants.command("erase")(erase_command)
    app.add_typer(tenants, name="tenants")


def add_command(
    context: typer.Context,
    name: Name,
    plaintext: Plaintext = None,
    mac: Mac = None,
    weight: Weight = None,
    lanes: Lanes = None,
    kinds: Kinds = None,
    models: Models = None,
    jobs: Jobs = None,
    bytes_: Bytes = None,
    requests_per_second: Requests = None,
    tokens_per_second: Tokens = None,
    burst_seconds: Burst = None,
    default_timeout: DefaultTimeout = None,
    longest_timeout: LongestTimeout = None,
    reply_prefixes: ReplyPrefixes = None,
    note: Note = None,
    hybrid: Hybrid = False,
    out: Out = None,
    json: Json = False,
) -> None:
    """Make a tenant, and write its credentials: who has that file, is the tenant.

    It must seal and sign unless something else is said, and may use everything without a limit.
    """
    session = session_of(context)
    settings = session.settings()
    path = out or credentials_file(settings.state_directory, name)
    changes = changes_of(context.params)
    keyfile.load_keyring(settings.keyring)  # before anything else is tried
    made = run(_add(session, settings, name, changes, path, hybrid=hybrid))
    if json:
        session.line({**tenant_tables.tenant_object(made.tenant), "credentials": str(path)})
        return
    session.out.print(f"tenant {name} made; its credentials are in {path}", markup=False)


async def _add(session: Session, settings: Settings, name: str, changes: Changes, path: Path, *, hybrid: bool) -> Made:
    async with session.log() as log:
        keys = await _keyring(settings)
        rows = await system_tenants(log, keys, settings.keyring)
        check_free(name, {*rows.tenants, *rows.refused})
        if await asyncio.to_thread(path.exists):
            raise BadSetting(
                setting="--out", problem=f"{path} is there already; name another file, or take it away first"
            )
        if erased(keys, name):
            session.note(
                f"a tenant {name} was erased here before; what the log still has of it in the clear is not gone"
            )
        changes = checked(changes)
        made = new_tenant(name, changes, keys, public_keys(keys), WallClock().now(), algorithm_of(hybrid))
        beside = await asyncio.to_thread(prepare_credentials, made.credentials, path)
        # The key is there before the row is: verify seals for the tenant from its first job on.
        await asyncio.to_thread(keyfile.changed, settings.keyring, lambda keyring: keyring.completed([name]))
        await write_tenants(log, keys, [made.tenant])
        known = (await read_tenants(log, keys)).tenants.get(name)
        if known is None or known.fingerprint != made.tenant.fingerprint:
            await asyncio.to_thread(beside.unlink)
            raise TenantTaken(tenant=name, other=name)  # another operator made it at the same moment
        await asyncio.to_thread(put_credentials, beside, path)
        await _tell_of_models(session, log, changes)
    return made


async def _tell_of_models(session: Session, log: Log, changes: Changes) -> None:
    """A pattern that means no model may be a slip, or of a model that comes yet."""
    for pattern in await unmatched(log, changes.get("models") or ()):
        session.note(
            f"--model {pattern}: there is no such model now (`llmos models list`); it will hold for one that comes"
        )


async def _keyring(settings: Settings) -> Keyring:
    return await asyncio.to_thread(keyfile.load_keyring, settings.keyring)


def list_command(context: typer.Context, json: Json = False) -> None:
    """Show all tenants with their rights and quotas, and which rows the services refuse: no operator wrote those."""
    session = session_of(context)
    found = [tenant for _, tenant in sorted(run(_list(session, session.settings())).items())]
    if json:
        for tenant, seal in found:
            session.line({**tenant_tables.tenant_object(tenant), "seal": seal})
        return
    session.out.print(tenant_tables.tenants([tenant for tenant, _ in found], [seal for _, seal in found]))


Sealed = dict[str, tuple[Tenant, tenant_tables.Seal]]
"""Tenants by name, each with whether the services go by that row."""


async def _list(session: Session, settings: Settings) -> Sealed:
    async with session.log() as log:
        return (await _sealed(session, settings, log))[0]


async def _sealed(session: Session, settings: Settings, log: Log) -> tuple[Sealed, Keyring | None]:
    """All rows, and the keyring where it can be read: without it nobody can tell which row is right."""
    try:
        keys = await _keyring(settings)
    except BadSetting as problem:
        session.note(f"without the keys, by which rows are told from forged ones: {problem}")
        return {name: (tenant, "unknown") for name, tenant in (await read_as_they_stand(log)).items()}, None
    rows = await read_tenants(log, keys)
    found: Sealed = {name: (tenant, "refused") for name, tenant in rows.refused.items()}
    for name, tenant in rows.tenants.items():
        found[name] = (tenant, "a later row is refused" if name in rows.refused else "holds")
    return found, keys


class _Shown(NamedTuple):
    tenant: Tenant
    seal: tenant_tables.Seal
    keys: list[KeyEntry]
    use: TenantUse | None


def show_command(context: typer.Context, name: Name, json: Json = False) -> None:
    """Show a tenant: rights, quotas, the fingerprint of its secret, its keys, and what it has in flight; never a secret."""
    session = session_of(context)
    shown = run(_show(session, session.settings(), name))
    if json:
        use = None if shown.use is None else shown.use._asdict()
        keys = [{"id": key.id, "state": key.state, "made_at": key.made_at} for key in shown.keys]
        session.line({**tenant_tables.tenant_object(shown.tenant), "seal": shown.seal, "keys": keys, "use": use})
        return
    session.out.print(tenant_tables.tenant(shown.tenant, shown.seal, shown.keys, shown.use, WallClock().now()))


async def _show(session: Session, settings: Settings, name: str) -> _Shown:
    async with session.log() as log:
        found, keyring = await _sealed(session, settings, log)
        if name not in found:
            raise NoSuchTenant(tenant=name)
        use = await spent(settings, name)
        if use is None:
            use = await live_use(log, name)
    entries = () if keyring is None else keyring.entries
    keys = [entry for entry in entries if entry.purpose == "tenant" and entry.tenant == name]
    return _Shown(*found[name], keys, use)


def set_command(
    context: typer.Context,
    name: Name,
    plaintext: Plaintext = None,
    mac: Mac = None,
    weight: Weight = None,
    lanes: Lanes = None,
    kinds: Kinds = None,
    models: Models = None,
    jobs: Jobs = None,
    bytes_: Bytes = None,
    requests_per_second: Requests = None,
    tokens_per_second: Tokens = None,
    burst_seconds: Burst = None,
    default_timeout: DefaultTimeout = None,
    longest_timeout: LongestTimeout = None,
    reply_prefixes: ReplyPrefixes = None,
    note: Note = None,
    json: Json = False,
) -> None:
    """Change what a tenant may do; it holds from the next request on. What is not named stays as it is.

    `--lane all`, `--kind all`, `--model all` and `--reply-prefix own` take a restriction away, 0 that of a quota.
    """
    session = session_of(context)
    changes = changes_of(context.params)
    if not changes:
        raise BadSetting(setting="tenants set", problem="nothing is named that is to change; see --help")
    changes = checked(changes)
    settings = session.settings()
    keys = keyfile.load_keyring(settings.keyring)

    async def change() -> Tenant:
        async with session.log() as log:
            rows = await system_tenants(log, keys, settings.keyring)
            (tenant,) = await write_tenants(log, keys, [changed(named(name, *rows), changes)])
            await _tell_of_models(session, log, changes)
            return tenant

    tenant = run(change())
    if json:
        session.line(tenant_tables.tenant_object(tenant))
        return
    session.out.print(tenant_tables.tenants([tenant], ["holds"]))
