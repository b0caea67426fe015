"""keys init, list, rotate, export, destroy: the keyring, for operators who hold its file. No command shows a key's bytes."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from llmos.cli import key_advice, tables
from llmos.cli.credential_files import refresh_public_keys
from llmos.cli.key_making import init_command
from llmos.cli.options import Json
from llmos.cli.session import Session, run, session_of
from llmos.cli.tenant_rows import Rows, read_tenants
from llmos.cli.units import UNKNOWN, at_time
from llmos.infra.crypto.credentials import encode_public_keys, public_keys
from llmos.infra.crypto.keyfile import changed, export_keyring, load_keyring
from llmos.infra.crypto.keyring import ALGORITHMS, PURPOSES, Algorithm, KeyEntry, Keyring, Purpose
from llmos.infra.crypto.roles import ROLES
from llmos.infra.crypto.rows import names_key
from llmos.infra.settings import Settings
from llmos.schemas.errors import BadSetting, OperatorError, TopicMissing

PurposeName = StrEnum("PurposeName", {name: name for name in PURPOSES})  # type: ignore[misc]
RoleName = StrEnum("RoleName", {name: name for name in ROLES})  # type: ignore[misc]

NAMED = 5
"""So many tenants are named whose rows keep a key from being destroyed."""

_COLUMNS = ("key", "purpose", "tenant", "state", "algorithm", "held", "made", "retired")


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this family."""
    keys = typer.Typer(no_args_is_help=True, help="The keyring: list keys, rotate, export and destroy them.")
    keys.command("init")(init_command)
    keys.command("list")(list_command)
    keys.command("rotate")(rotate_command)
    keys.command("export")(export_command)
    keys.command("destroy")(destroy_command)
    app.add_typer(keys, name="keys")


def list_command(context: typer.Context, json: Json = False) -> None:
    """Show the keys, without their bytes; times of destroyed ones stay."""
    session = session_of(context)
    keyring, now = load_keyring(session.settings().keyring), time.time()
    if json:
        for entry in keyring.entries:
            session.line(_row(entry))
        return
    session.out.print(tables.table("", _COLUMNS, [_cells(entry, now) for entry in keyring.entries]))


def rotate_command(
    context: typer.Context,
    purpose: Annotated[PurposeName, typer.Argument(help="What the key is for.")],
    tenant: Annotated[str, typer.Option(help="Whose, of purpose `tenant`.")] = "",
    hybrid: Annotated[bool, typer.Option("--hybrid", help="Of pairs: ML-KEM-768 with X25519.")] = False,
    prepare: Annotated[
        bool,
        typer.Option("--prepare", help="Make the key, and use it from the next rotation on: copies can have it first."),
    ] = False,
    json: Json = False,
) -> None:
    """Use another key from now on; what the one before wrapped still opens, until it is destroyed."""
    session = session_of(context)
    wanted = next(known for known in PURPOSES if known == purpose)
    _check_rotation(wanted, tenant, hybrid)
    done = _rotate(session.settings().keyring, wanted, tenant, "mlkem768-x25519" if hybrid else None, prepare)
    _publish(session, done.keyring, wanted)
    if json:
        session.line(_row(done.made))
        return
    named = f"tenant {tenant}" if tenant else wanted
    said = f"is prepared as the next key for {named}" if prepare else f"is the key for {named} now"
    session.out.print(f"{done.made.id} {said}", markup=False)
    if prepare:
        lines = key_advice.after_preparation(wanted)
    else:
        old = [e.id for e in done.keyring.entries if _is_old(e) and (e.purpose, e.tenant) == (wanted, tenant)]
        lines = key_advice.after_rotation(wanted, old, was_prepared=done.was_prepared)
    for line in lines:
        session.note(line)


class _Rotation(NamedTuple):
    keyring: Keyring
    made: KeyEntry
    was_prepared: bool


def _rotate(path: Path, purpose: Purpose, tenant: str, algorithm: Algorithm | None, prepare: bool) -> _Rotation:
    known: set[str] = set()

    def change(ring: Keyring) -> Keyring:
        if tenant and not ring.holds("tenant", tenant):
            raise BadSetting(setting="--tenant", problem=f"there is no key of tenant {tenant!r} to be rotated")
        known.update(e.id for e in ring.entries)
        make = ring.prepared if prepare else ring.rotated
        return make(purpose, tenant, algorithm)

    keyring = changed(path, change)
    made = keyring.waiting(purpose, tenant) if prepare else keyring.active(purpose, tenant)
    assert made is not None, "it was just made"
    return _Rotation(keyring, made, made.id in known)


def _is_old(entry: KeyEntry) -> bool:
    return entry.state == "decrypt_only" and not entry.is_prepared


def export_command(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="The file to write; else standard output.")] = None,
    for_: Annotated[
        RoleName | None,
        typer.Option("--for", help="Secret keys of this service, for another machine; needs --out."),
    ] = None,
) -> None:
    """Write the public keys, for clients and for who checks receipts; or, with --for, what one service needs."""
    session = session_of(context)
    keyring = load_keyring(session.settings().keyring)
    if for_ is not None:
        if out is None:
            raise BadSetting(setting="--out", problem="secret keys go to a file: name it")
        copy = export_keyring(keyring, for_.value, out)
        held = ", ".join(sorted({e.purpose for e in copy.entries if e.key})) or "public halves only"
        session.out.print(f"{out}: keys of {for_.value} ({held}), mode 0600", markup=False)
        session.note(
            f"there: keyring_file = {out.name!r}; write it again after a rotation, in one step (copy, then rename)"
        )
        return
    data = encode_public_keys(public_keys(keyring))
    if out is None:
        typer.echo(data.decode(), nl=False)
        return
    try:
        out.write_bytes(data)
    except OSError as problem:
        raise BadSetting(setting="--out", problem=f"{out} cannot be written: {problem.strerror}") from None
    session.out.print(f"{out}: public keys", markup=False)


def destroy_command(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="The key's id.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    unchecked: Annotated[
        bool,
        typer.Option(
            "--unchecked", help="Of purpose `system`: also where it cannot be told whether tenants' rows need it."
        ),
    ] = False,
) -> None:
    """Destroy a key that was rotated: what it wrapped can never be opened again, by anybody."""
    session = session_of(context)
    settings = session.settings()
    entry = next((e for e in load_keyring(settings.keyring).entries if e.id == key_id), None)
    if entry is None:
        raise BadSetting(setting="keyring_file", problem=f"there is no key {key_id}; `llmos keys list` shows them")
    problem = key_advice.why_not_destroyed(entry, time.time())
    if problem:
        raise BadSetting(setting="keyring_file", problem=problem)
    if entry.purpose == "system":
        _check_rows(session, settings, key_id, unchecked=unchecked)
    for line in key_advice.lost_with(entry):
        typer.echo(line, err=True)
    if not yes:
        typer.confirm(f"destroy {key_id} for ever?", abort=True, err=True)
    keyring = changed(settings.keyring, lambda ring: ring.destroyed(key_id))
    _publish(session, keyring, entry.purpose)
    session.out.print(f"{key_id} is destroyed here; destroy every copy and backup of the keyring, too", markup=False)


def _check_rows(session: Session, settings: Settings, key_id: str, *, unchecked: bool) -> None:
    """Whether all tenants are under another key. Raises `BadSetting` where one is lost with this one, or where nobody can
    tell (`unchecked`: then it is said)."""
    keyring = load_keyring(settings.keyring)

    async def read() -> Rows:
        async with session.log() as log:
            return await read_tenants(log, keyring)

    try:
        tenants = run(read()).tenants.values()
    except TopicMissing:
        return
    except OperatorError as problem:
        said = f"whether tenants' rows are under key {key_id} cannot be told: {problem}"
        if not unchecked:
            raise BadSetting(
                setting="keyring_file", problem=f"{said.rstrip('.')}; `--unchecked` destroys it all the same"
            ) from None
        typer.echo(said, err=True)
        return
    named = sorted(tenant.name for tenant in tenants if names_key(tenant, key_id, time.time()))
    if named:
        raise BadSetting(
            setting="keyring_file",
            problem=f"the rows of {', '.join(named[:NAMED])}{' and others' if len(named) > NAMED else ''} are under key "
            f"{key_id}; `llmos tenants rewrap` writes them anew",
        )


def _check_rotation(purpose: Purpose, tenant: str, hybrid: bool) -> None:
    if (purpose == "tenant") != bool(tenant):
        raise BadSetting(setting="--tenant", problem="it goes with purpose `tenant`, and only with that")
    if hybrid and ALGORITHMS[purpose] != "x25519":
        raise BadSetting(setting="--hybrid", problem=f"a key for {purpose} is no pair of this kind")


def _publish(session: Session, keyring: Keyring, purpose: Purpose) -> None:
    """What everybody may have of the keyring, and the credentials beside it, follow it."""
    if purpose not in ("ingress", "receipt"):
        return
    renewed = refresh_public_keys(session.settings().state_directory, public_keys(keyring))
    if renewed:
        session.note(f"credentials beside the system have the new public keys: {', '.join(renewed)}")


def _held(entry: KeyEntry) -> str:
    if not entry.key:
        return "public half" if entry.public and entry.state != "destroyed" else "no"
    return "yes"


def _row(entry: KeyEntry) -> dict[str, Any]:
    names = ("id", "purpose", "tenant", "state", "algorithm", "made_at", "retired_at", "destroyed_at")
    return {name: getattr(entry, name) for name in names} | {"prepared": entry.is_prepared, "held": _held(entry)}


def _cells(entry: KeyEntry, now: float) -> tuple[str, ...]:
    times = (at_time(at, now) for at in (entry.made_at, entry.retired_at))
    state = "prepared" if entry.is_prepared else entry.state
    return (entry.id, entry.purpose, entry.tenant or UNKNOWN, state, entry.algorithm, _held(entry), *times)
