"""usage: what was used, summed from the receipts of all answers, and whether those are as the system signed them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from math import inf
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.table import Table

from llmos.cli import tables
from llmos.cli.options import Json
from llmos.cli.session import Session, run, session_of
from llmos.cli.since import since as read_since
from llmos.cli.units import UNKNOWN, duration
from llmos.cli.usage import BY, STATUSES, By, Filter, Row, Saved, Summing, as_object, columns
from llmos.cli.usage_reading import Saving, from_file, from_topic, load_public_keys
from llmos.infra.crypto.receipts import check_receipt
from llmos.infra.log.clock import WallClock
from llmos.schemas.errors import ReceiptForged, RecordError
from llmos.schemas.results import USAGE, Receipt

PUBLIC_KEYS = "public-keys.json"
"""In the state directory, written by the first start: anyone on the machine may read it."""
_IDENTITY_DIGITS = 12
TOLD = 10
"""Receipts that are not as they were signed and are told of one by one."""


def _known(value: list[str] | None) -> list[str] | None:
    for one in value or ():
        if one not in BY:
            raise typer.BadParameter(f"{one!r} is none of {', '.join(BY)}")
    return value


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this family."""
    app.command("usage")(usage_command)


def usage_command(
    context: typer.Context,
    tenant: Annotated[str, typer.Option(help="Only what this tenant used.")] = "",
    since: Annotated[str, typer.Option(help="Only answers not older: 30m, 2h, 7d, or a date (UTC).")] = "",
    until: Annotated[str, typer.Option(help="Only answers older than this.")] = "",
    by: Annotated[
        list[str] | None,
        typer.Option(metavar="|".join(BY), help="A row for each of these; repeatable.", callback=_known),
    ] = None,
    csv_: Annotated[bool, typer.Option("--csv", help="Comma-separated values, in base units.")] = False,
    json: Json = False,
    check: Annotated[
        bool, typer.Option("--check", help="Check every signature; those that are wrong are told of and not counted.")
    ] = False,
    public_keys: Annotated[
        Path | None,
        typer.Option(help=f"Keys to check with, of `llmos keys export`; else {PUBLIC_KEYS} of the state directory."),
    ] = None,
    partition: Annotated[list[int] | None, typer.Option(min=0, help="Only of this partition; repeatable.")] = None,
    save_: Annotated[
        Path | None, typer.Option("--save", help="Also write the receipts into this file, as they are.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Read receipts from a file that was saved, and not from the system.")
    ] = None,
) -> None:
    """Sum what was used, from the receipts of all answers: one for each submission, whatever became of it.

    For operators: all tenants' receipts lie on one topic, which tenants have no right to read.

    What --save writes can be summed and checked anywhere (--file), with the public keys alone.
    """
    session = session_of(context)
    now = WallClock().now()
    meant = Filter(tenant, _time(since, 0.0, now), _time(until, inf, now))
    groups = cast("list[By]", list(dict.fromkeys(by or ["tenant"])))
    summing = Summing(groups, meant)
    adding = Adding(summing, Checking(_public_keys(session, public_keys)) if check else None)
    if file is not None and save_ is not None:
        raise typer.BadParameter("--file and --save do not go together: what is in a file is saved already")
    if file is not None:
        adding.add(from_file(file))
    else:
        run(_read(session, adding, partition, meant.since, Saving(save_) if save_ else None))
    _show(session, summing, groups, csv_=csv_, json=json)
    if summing.verdicts["again"]:
        session.note(f"{summing.verdicts['again']} receipts are there more than once; each answer was counted once")
    if adding.unreadable:
        session.note(f"{adding.unreadable} records are no receipts")
    if adding.checking is not None:
        adding.checking.conclude(session.note)


class Checking:
    """Checks signatures, and remembers which are wrong."""

    def __init__(self, public: Mapping[str, bytes]) -> None:
        self._public = public
        self._checked = 0
        self._wrong = 0
        self._first: list[str] = []

    def is_forged(self, saved: Saved, receipt: Receipt) -> bool:
        """Whether it is not as it was signed, or lies where it does not belong."""
        self._checked += 1
        if saved.partition == receipt.partition and check_receipt(saved.record, self._public):
            return False
        self._wrong += 1
        if len(self._first) < TOLD:
            self._first.append(
                f"usage[{saved.partition}] offset {saved.offset}: job {receipt.job_id.hex()} of {receipt.tenant}: "
                + self._why(saved, receipt)
            )
        return True

    def _why(self, saved: Saved, receipt: Receipt) -> str:
        if not receipt.signature:
            return "it is not signed"
        if receipt.signing_key not in self._public:
            return f"it names the key {receipt.signing_key[:16]!r}, which is not among those given"
        if saved.partition != receipt.partition:
            return f"it belongs to partition {receipt.partition}"
        return "its signature is wrong"

    def conclude(self, note: Callable[[str], None]) -> None:
        """Says how it went. Raises `ReceiptForged` where a signature is wrong."""
        for problem in self._first:
            note(problem)
        if self._wrong:
            told = f", the first {TOLD} of them told above" if self._wrong > TOLD else ""
            raise ReceiptForged(count=self._wrong, of=self._checked, told=told)
        note(f"all {self._checked} receipts are as they were signed")


class Adding:
    """Adds up receipts as they are read."""

    def __init__(self, summing: Summing, checking: Checking | None) -> None:
        self._summing = summing
        self.checking = checking
        self.unreadable = 0
        """Records that are no receipts."""

    def add(self, receipts: Iterable[Saved]) -> None:
        """These too."""
        for saved in receipts:
            try:
                receipt: Receipt = USAGE.decode(saved.record)
            except RecordError:
                self.unreadable += 1
                continue
            meant = self._summing.means(receipt, saved.written_at)
            forged = meant and self.checking is not None and self.checking.is_forged(saved, receipt)
            self._summing.add(receipt, saved.written_at, forged)


async def _read(
    session: Session, adding: Adding, partitions: Sequence[int] | None, since: float, saving: Saving | None
) -> None:
    async with session.log() as log, aclosing(from_topic(log, partitions, since)) as reads:
        async for receipts in reads:
            adding.add(receipts)
            if saving is not None:
                await saving.write(receipts)


def _show(session: Session, summing: Summing, by: Sequence[By], *, csv_: bool, json: bool) -> None:
    rows = summing.rows()
    if csv_:
        written = io.StringIO()
        writer = csv.DictWriter(written, columns(by), lineterminator="\n")
        writer.writeheader()
        writer.writerows(as_object(row, by) for row in rows)
        typer.echo(written.getvalue(), nl=False)
    elif json:
        for row in rows:
            session.line(as_object(row, by))
    else:
        session.out.print(table(rows, summing.total(), by))


def table(rows: Sequence[Row], total: Row, by: Sequence[By]) -> Table:
    """The sums for people; where there are several, the last row is that of all."""
    names = [*by, "answers", *STATUSES, "items", "attempts", "tokens in", "tokens out", "device time"]
    cells = [[*(_short(name, of) for name, of in zip(row.group, by, strict=True)), *_sums(row)] for row in rows]
    if len(rows) > 1:
        cells.append(["all", *[""] * (len(by) - 1), *_sums(total)])
    return tables.table("usage", names, cells)


def _sums(row: Row) -> list[str]:
    statuses = [f"{row.by_status[status]:,}" if row.by_status[status] else "" for status in STATUSES]
    counts = [row.items, row.attempts, row.tokens_in, row.tokens_out]
    return [f"{row.answers:,}", *statuses, *(f"{count:,}" for count in counts), duration(row.device_seconds)]


def _short(name: str, by: By) -> str:
    return (name[:_IDENTITY_DIGITS] if by == "model" else name) or UNKNOWN


def _time(text: str, otherwise: float, now: float) -> float:
    return read_since(text, now) if text else otherwise


def _public_keys(session: Session, path: Path | None) -> Mapping[str, bytes]:
    return load_public_keys(path or session.settings().state_directory / PUBLIC_KEYS)
