"""dead list, show, replay: the records that no stage could use, for operators, who hold the keyring."""

from __future__ import annotations

import sys
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import typer

from llmos.cli import dead_showing
from llmos.cli.dead import (
    UNOPENED,
    Entry,
    Filters,
    Letters,
    choose,
    counted,
    for_good,
    name_of,
    read_origin,
    why_not,
)
from llmos.cli.dead_letters import Reading, open_letter, put_back, read_letters, unopened
from llmos.cli.options import Json
from llmos.cli.session import Session, run, session_of
from llmos.cli.since import since as read_since
from llmos.infra.crypto.keyfile import load_keyring
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.private_file import write_private
from llmos.infra.log.clock import WallClock
from llmos.schemas.dead import DeadContents, DeadLetter
from llmos.schemas.errors import BadSetting, EnvelopeRejected, NoSuchDeadLetter, NotReplayable
from llmos.schemas.job import Origin

Code = Annotated[str, typer.Option(help="Only those that died of this: malformed, unknown_tenant, forged, ….")]
Stage = Annotated[str, typer.Option(help="Only those that died in this service.")]
Tenant = Annotated[str, typer.Option(help="Only requests in this tenant's name; opens every letter to see it.")]
Since = Annotated[str, typer.Option(help="Only those not older: 30m, 2h, 7d, or a date.")]
OriginArgument = Annotated[
    str, typer.Argument(metavar="ORIGIN", help="topic:partition:offset, as `llmos dead list` shows it.")
]

WARNING = "what follows is somebody's payload: treat it as theirs"


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this family."""
    dead = typer.Typer(no_args_is_help=True, help="Dead letters: records that no stage could use.")
    dead.command("list")(list_command)
    dead.command("show")(show_command)
    dead.command("replay")(replay_command)
    app.add_typer(dead, name="dead")


def list_command(
    context: typer.Context,
    code: Code = "",
    stage: Stage = "",
    tenant: Tenant = "",
    since: Since = "",
    origin: Annotated[list[str] | None, typer.Option(help="Only the letter of this origin; repeatable.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many, the last ones; 0: all.")] = 50,
    json: Json = False,
) -> None:
    """Show the dead letters: where each was, why and where it died, whether it was put back."""
    session = session_of(context)
    now = WallClock().now()
    filters = Filters(code, stage, _time(since, now), [read_origin(text) for text in origin or ()], tenant)
    keys = _keyring(session) if tenant else _keyring_if_any(session)

    found = run(_read(session, keys, filters, limit))
    if json:
        for entry in found.entries():
            session.line(dead_showing.letter_object(entry))
    else:
        session.out.print(dead_showing.letters(found.entries(), now))
    if found.left_out:
        session.note(f"{found.left_out} older ones are not shown; --limit 0 shows all")
    if found.unreadable:
        session.note(f"{found.unreadable} records on the topic are no letters")
    if found.unopened:
        session.note(f"{found.unopened} letters do not open with this keyring, so that nobody can tell whose they are")
    without = sum(keys is not None and not keys.has(entry.letter.key_id) for entry in found.entries())
    if without:
        session.note(f"of those above {without} are sealed under keys that this keyring has not: `llmos keys list`")


def show_command(
    context: typer.Context,
    origin: OriginArgument,
    raw: Annotated[bool, typer.Option("--raw", help="Only the value, as it is.")] = False,
    out: Annotated[Path | None, typer.Option(help="With --raw: the file to write, readable by you alone.")] = None,
    json: Json = False,
) -> None:
    """Open a dead letter with the keyring and show the record inside."""
    session = session_of(context)
    if out is not None and not raw:
        raise BadSetting(setting="--out", problem="it goes with --raw")
    keys, wanted = _keyring(session), read_origin(origin)
    entry, contents = run(_open(session, keys, wanted))
    if raw:
        _write(contents.value, out)
    elif json:
        session.line({**dead_showing.letter_object(entry), **dead_showing.contents_object(entry.letter, contents)})
    else:
        session.out.print(dead_showing.facts(entry, WallClock().now()))
        session.note(WARNING)
        for line in dead_showing.contents_lines(contents):
            session.out.print(line, markup=False, highlight=False)


def replay_command(
    context: typer.Context,
    origins: Annotated[
        list[str] | None, typer.Argument(metavar="[ORIGIN]...", help="Their origins; else all that the filters mean.")
    ] = None,
    code: Code = "",
    stage: Stage = "",
    tenant: Tenant = "",
    since: Since = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be put back.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also those that died again after they were put back.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Put records back where they came from, in their order, so that they are served as if they had just come.

    Each is marked as put back; a second run leaves it out. It happens at least once: after an interruption one record
    may be put back twice, and the stages tell the repeat. A record that dies again is marked so and is not put back
    again by itself.
    """
    session = session_of(context)
    wanted = [read_origin(text) for text in origins or ()]
    filters = Filters(code, stage, _time(since, WallClock().now()), wanted, tenant)
    if filters == Filters(origins=[]):
        raise BadSetting(
            setting="ORIGIN", problem="name the letters, or say which with --code, --stage, --tenant, --since"
        )
    keys = _keyring(session)
    found = run(_read(session, keys, filters))
    entries = found.entries()
    _check_named(filters, entries, keys, again=again)
    choice = choose(entries, again=again, named=wanted, has=keys.has)
    skipped = [reason for _, reason in choice.skipped] + [UNOPENED] * found.unopened
    if dry_run or not choice.replay:
        _tell(session, skipped, [name_of(entry.letter.origin) for entry in choice.replay], dry=True)
        return
    if not yes:
        typer.confirm(f"put {len(choice.replay)} records back?", abort=True, err=True)
    done = run(_put_back(session, keys, choice.replay))
    skipped += [UNOPENED] * (len(choice.replay) - len(done))
    _tell(session, skipped, done, dry=False)


async def _read(session: Session, keys: Keyring | None, filters: Filters, limit: int = 0) -> Letters:
    async with session.log() as log:
        return await read_letters(log, filters, keys, limit)


async def _put_back(session: Session, keys: Keyring, entries: list[Entry]) -> list[str]:
    """The origins of what was put back."""
    done = []
    async with session.log() as log, aclosing(put_back(log, keys, WallClock(), entries)) as puts:
        async for put in puts:
            if put.to is None:
                session.note(f"{name_of(put.entry.letter.origin)}: {UNOPENED}")
                continue
            done.append(name_of(put.entry.letter.origin))
            if session.json:
                session.line({"origin": done[-1], "to": name_of(put.to)})
    return done


def _check_named(filters: Filters, entries: list[Entry], keys: Keyring, *, again: bool) -> None:
    """Who names a letter is told why it cannot be put back, before anything is done."""
    there = {entry.letter.origin for entry in entries}
    for origin in filters.origins:
        if origin not in there:
            raise NoSuchDeadLetter(origin=name_of(origin))
    for entry in entries if filters.origins else ():
        reason = why_not(entry, again=again, named=True)
        if reason and for_good(reason):
            raise NotReplayable(origin=name_of(entry.letter.origin), problem=reason)
        if not reason and not keys.has(entry.letter.key_id):
            raise NotReplayable(origin=name_of(entry.letter.origin), problem=unopened(entry.letter))


def _tell(session: Session, reasons: list[str], origins: list[str], *, dry: bool) -> None:
    skipped = counted(reasons)
    if session.json:
        said = {"would_replay": origins} if dry else {"replayed": len(origins)}
        session.line({**said, "skipped": skipped})
        return
    for origin in origins if dry else ():
        session.out.print(f"would put back {origin}", markup=False)
    session.note(f"{'to be put back' if dry else 'put back'}: {len(origins)}")
    for reason, count in skipped.items():
        session.note(f"left out: {count}, {reason}")


async def _open(session: Session, keys: Keyring, origin: Origin) -> tuple[Entry, DeadContents]:
    async with session.log() as log:
        found = (await read_letters(log, Filters(origins=[origin]))).entries()
        if not found:
            raise NoSuchDeadLetter(origin=name_of(origin))
        async with Reading(log) as reading:
            letter = await reading.letter(found[0].offset)
        return found[0], _opened(keys, letter)


def _opened(keys: Keyring, letter: DeadLetter) -> DeadContents:
    try:
        return open_letter(keys, letter)
    except EnvelopeRejected:
        raise BadSetting(setting="keyring_file", problem=unopened(letter)) from None


def _keyring(session: Session) -> Keyring:
    return load_keyring(session.settings().keyring)


def _keyring_if_any(session: Session) -> Keyring | None:
    """To list letters no key is needed; with the keyring it can be told which ones open."""
    try:
        return _keyring(session)
    except BadSetting:
        return None


def _time(text: str, now: float) -> float:
    return read_since(text, now) if text else 0.0


def _write(value: bytes, out: Path | None) -> None:
    if out is None:
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()
        return
    try:
        write_private(out, value, exclusive=True)
    except OSError as problem:
        raise BadSetting(setting="--out", problem=f"{out}: {problem.strerror}") from None
