"""tenants rotate-secret: a new secret, and a new reply key if it is wanted; the credentials keep what was there before."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from llmos.cli import tenant_tables
from llmos.cli.credential_files import found_credentials, prepare_credentials, put_credentials
from llmos.cli.options import Json
from llmos.cli.session import Session, run, session_of
from llmos.cli.tenant_options import Hybrid, Name, algorithm_of
from llmos.cli.tenant_rows import system_tenants, write_tenants
from llmos.cli.tenants import GRACE_SECONDS, Made, named, with_new_reply_key, with_new_secret
from llmos.infra.crypto.credentials import Credentials, credentials_file, public_keys
from llmos.infra.crypto.hpke import Recipient
from llmos.infra.crypto.keyfile import load_keyring
from llmos.infra.log.clock import WallClock
from llmos.infra.settings import Settings
from llmos.schemas.errors import BadSetting

NO_GRACE = (
    "the new reply key has no grace: from the next request on answers are sealed to it, and a client that still has the "
    "credentials of before cannot open them; give the new file to all clients now"
)


def rotate_command(
    context: typer.Context,
    name: Name,
    grace: Annotated[
        float, typer.Option(min=0, help="How long the old secret holds, in seconds; a reply key has no grace.")
    ] = GRACE_SECONDS,
    reply_key: Annotated[
        bool,
        typer.Option(
            "--reply-key",
            help="Also a new reply key, at once and without a grace: clients with the old credentials cannot open what is "
            "answered from the next request on. The old one stays in the credentials, to read what was sealed to it.",
        ),
    ] = False,
    hybrid: Hybrid = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file with its credentials, which is replaced, by default tenants/NAME.json in the state directory."
        ),
    ] = None,
    new_file: Annotated[
        bool,
        typer.Option(
            "--new-file", help="The credentials of before are lost: write new ones, without what was in them."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Give a tenant a new secret; the old one holds for a while, so that its clients can change over.

    Its credentials are replaced where they are kept, and go on reading what was answered before: it stops where they are not
    there, unless --new-file says that they are lost.
    """
    session = session_of(context)
    settings = session.settings()
    path = out or credentials_file(settings.state_directory, name)
    algorithm = algorithm_of(hybrid) if reply_key or hybrid else None
    made = run(_rotate(session, settings, name, path, grace, algorithm, ask=not yes, new_file=new_file))
    if algorithm is not None:
        session.note(NO_GRACE)
    if json:
        session.line({**tenant_tables.tenant_object(made.tenant), "credentials": str(path)})
        return
    session.out.print(f"tenant {name} has a new secret; its credentials are in {path}", markup=False)
    held = f"until {tenant_tables.date(made.tenant.previous_until)}" if made.tenant.previous_until else "no longer"
    session.note(f"the secret before holds {held}")
    if new_file:
        session.note(
            "the credentials lack the secrets of before: answers to what was signed with them prove nothing here"
        )
    if not made.credentials.reply_keys:
        session.note(
            "the credentials have no reply key, since those of before were not there: the tenant keeps its own "
            "(`--reply-key` makes another one)"
        )


async def _rotate(
    session: Session,
    settings: Settings,
    name: str,
    path: Path,
    grace: float,
    algorithm: Recipient | None,
    *,
    ask: bool,
    new_file: bool,
) -> Made:
    keys = await asyncio.to_thread(load_keyring, settings.keyring)
    async with session.log() as log:
        rows = await system_tenants(log, keys, settings.keyring)
        tenant, now = named(name, *rows), WallClock().now()
        before = await asyncio.to_thread(_before, path, name, new_file=new_file)
        if ask and tenant.previous_until > now:
            left = tenant_tables.date(tenant.previous_until)
            typer.confirm(
                f"The secret before the last rotation holds until {left}, and would end now. Go on?", abort=True
            )
        made = with_new_secret(tenant, before, keys, public_keys(keys), now, grace)
        if algorithm is not None:
            made = with_new_reply_key(made, algorithm)
        beside = await asyncio.to_thread(prepare_credentials, made.credentials, path)
        await write_tenants(log, keys, [made.tenant])
        await asyncio.to_thread(put_credentials, beside, path)
    return made


def _before(path: Path, name: str, *, new_file: bool) -> Credentials | None:
    """The tenant's present credentials, whose secrets and reply keys the new ones keep; None: there are to be none.

    Raises:
        BadSetting: they are not there, or are another's; or they are there and `new_file` says that they are not.
    """
    found = found_credentials(path, name)
    if found is None and not new_file:
        raise BadSetting(
            setting="--out",
            problem=f"there are no credentials of tenant {name} at {path}, and new ones are to keep what those of before "
            "open: name the file that has them with `--out FILE`, or say with `--new-file` that they are lost",
        )
    if found is not None and new_file:
        raise BadSetting(setting="--new-file", problem=f"{path} is there; name another file, or leave --new-file out")
    return found
