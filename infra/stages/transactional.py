"""Rules 3 and 4: the one transactional writer. First outcome wins; the answer and its receipt appear together or not at all.

Start: initialise the producers (fences the old ones and ends their transactions) → settle what a killed broker forgot →
read the commit → read `usage` from V to its end as of now → take turns. A turn: read `partials`, let the merger make
answers of complete outcomes, write them in one transaction with one of two producers used in turn, commit plainly when due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from llmos.infra.log.port import Commit, Out, Place, Reader, Record, Refusal, Transactor, Unwritable
from llmos.infra.runtime.context import Context
from llmos.infra.stages.answered import Answered, Marks
from llmos.infra.stages.backlog import Reached
from llmos.infra.stages.catching_up import read_to_end
from llmos.infra.stages.ownership import RECOMMIT_SECONDS, starts
from llmos.schemas import topics
from llmos.schemas.errors import Ambiguous, RecordError
from llmos.schemas.results import USAGE, Receipt


@dataclass(slots=True)
class Ready:
    """An answer to be written: what goes to `results`, to `usage`, and the copy for `reply_to`."""

    place: Place
    """Its partition of `partials`."""
    s: int
    result: Out
    receipt: Out
    copy: tuple[Place, Out] | None = None


class Merger(Protocol):
    """Makes answers of outcomes; keeps what is not complete yet."""

    async def feed(self, place: Place, records: Sequence[Record], answered: Answered) -> list[Ready]:
        """The answers that `records` complete. Nothing is made for s in `answered`, nor twice for one s."""

    def held_from(self, place: Place) -> int | None:
        """The offset of the first record of a job whose parts are still out; commits are held back there."""

    def without_copy(self, ready: Ready, refusal: Refusal) -> Ready:
        """The same answer when `reply_to` cannot be written; the receipt says why."""

    async def answered(self, written: Sequence[Ready]) -> None:
        """These are committed."""


@dataclass(slots=True)
class _Source:
    answered: Answered
    position: int
    read_to: float = 0.0
    committed: tuple[int, str] = (-1, "")
    committed_at: float = 0.0


class Transactional:
    """Runs one merger over the partitions it owns."""

    def __init__(
        self, ctx: Context, group: str, partitions: Sequence[int], names: Sequence[Sequence[str]], merger: Merger
    ) -> None:
        """`names`: transactional ids; the first two are this instance's own, the others are fenced at start."""
        self._ctx = ctx
        self._group = group
        self._places = [Place(topics.PARTIALS, p) for p in partitions]
        self._names = names
        self._merger = merger
        self._sources: dict[Place, _Source] = {}
        self._turn = 0

    async def run(self) -> None:
        """Takes turns until `ctx.stop` is set, then commits and returns."""
        ctx = self._ctx
        own, foreign = self._names[0], self._names[1]
        written = [Place(topic, p.partition) for topic in (topics.RESULTS, topics.USAGE) for p in self._places]
        for name in foreign:
            transactor = await ctx.log.transactor(name)
            await transactor.settle(written)
            await transactor.close()
        transactors = [await ctx.log.transactor(name) for name in own]
        for transactor in transactors:
            await transactor.settle(written)
        reader = ctx.log.reader(self._group)
        try:
            await self._recover(reader)
            await self._commit(reader, force=True)
            ctx.health.ready()
            limit = ctx.settings.aggregator.transaction_answers
            while not ctx.stop.is_set():
                batches = await reader.read(timeout=0.5, max_records=limit)
                ready: list[Ready] = []
                for place, records in batches.items():
                    source = self._sources[place]
                    ready += await self._merger.feed(place, records, source.answered)
                    source.position, source.read_to = records[-1].offset + 1, records[-1].timestamp
                if ready:
                    await self._write(transactors, ready)
                await self._commit(reader, force=False)
                ctx.health.progress(self._group)
            await self._commit(reader, force=True)
        finally:
            await reader.close()
            for transactor in transactors:
                await transactor.close()

    def reached(self) -> dict[Place, Reached]:
        """How far partials are read."""
        return {place: Reached(source.position, source.read_to) for place, source in self._sources.items()}

    async def _recover(self, reader: Reader) -> None:
        found = await starts(self._ctx.log, self._group, self._places)
        for place, commit in found.items():
            self._sources[place] = _Source(Answered(Marks.load(commit.metadata)), commit.offset)
        usage = [Place(topics.USAGE, place.partition) for place in self._places]
        begins = await self._ctx.log.begins(usage)
        from_ = {
            place: max(
                begins[place], self._sources[Place(topics.PARTIALS, place.partition)].answered.marks().usage_from
            )
            for place in usage
        }
        await read_to_end(self._ctx, from_, self._note)
        reader.assign({place: commit.offset for place, commit in found.items()})

    def _note(self, record: Record) -> None:
        try:
            receipt: Receipt = USAGE.decode(record.value)
        except RecordError:
            # Written by nobody of ours (the topic is the aggregator's): it answers no submission.
            return
        self._sources[Place(topics.PARTIALS, record.place.partition)].answered.note(receipt.s, record.offset)

    async def _write(self, transactors: Sequence[Transactor], ready: list[Ready]) -> None:
        batches: dict[Place, list[Out]] = {}
        order: dict[Place, list[Ready]] = {}
        for answer in ready:
            p = answer.place.partition
            batches.setdefault(Place(topics.RESULTS, p), []).append(answer.result)
            batches.setdefault(Place(topics.USAGE, p), []).append(answer.receipt)
            order.setdefault(Place(topics.USAGE, p), []).append(answer)
            if answer.copy is not None:
                batches.setdefault(answer.copy[0], []).append(answer.copy[1])
        transactor = transactors[self._turn % len(transactors)]
        self._turn += 1
        try:
            offsets = await transactor.transact(batches)
        except Unwritable as refused:
            await self._spare(transactors, ready, refused)
            return
        for place, answers in order.items():
            for i, answer in enumerate(answers):
                self._sources[answer.place].answered.note(answer.s, offsets[place] + i)
        await self._merger.answered(ready)

    async def _spare(self, transactors: Sequence[Transactor], ready: list[Ready], refused: Unwritable) -> None:
        """A `reply_to` that cannot be written never blocks a partition: the answers go without their copies.

        What refuses everything is not tried again; else each topic is tried by itself, and at last each answer.
        """
        refusals = refused.refusals
        copies = {answer.copy[0] for answer in ready if answer.copy is not None}
        if not copies.issuperset(refusals):
            raise Ambiguous(operation="writing answers", problem=str(refused))
        together: list[Ready] = []
        apart: dict[Place, list[Ready]] = {}
        for answer in ready:
            refusal = None if answer.copy is None else refusals.get(answer.copy[0])
            if answer.copy is None or refusal is None:
                together.append(answer)
            elif refusal.whole or len(ready) == 1:
                together.append(self._merger.without_copy(answer, refusal))
            else:
                apart.setdefault(answer.copy[0], []).append(answer)
        if together:
            await self._write(transactors, together)
        by_itself = not together and len(apart) == 1
        for answers in apart.values():
            for part in [[answer] for answer in answers] if by_itself else [answers]:
                await self._write(transactors, part)

    async def _commit(self, reader: Reader, *, force: bool) -> None:
        now = asyncio.get_running_loop().time()
        interval = self._ctx.settings.aggregator.commit_seconds
        due: dict[Place, Commit] = {}
        for place, source in self._sources.items():
            age = now - source.committed_at
            if not force and age < interval:
                continue
            held = self._merger.held_from(place)
            offset = source.position if held is None else min(held, source.position)
            metadata = source.answered.marks().dump()
            if (offset, metadata) != source.committed or age >= RECOMMIT_SECONDS:
                due[place] = Commit(offset, metadata)
        if not due:
            return
        await reader.commit(due)
        for place, commit in due.items():
            self._sources[place].committed = (commit.offset, commit.metadata)
            self._sources[place].committed_at = now
