"""The clauses of the five rules, each as a change that leaves it out: what a schedule must then find."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from llmos.infra.ledger.memory import MemoryLedger
from llmos.infra.log.memory import MemoryLog
from llmos.infra.log.port import Commit, Out, Place
from llmos.infra.stages import one_in_one_out, transactional
from llmos.infra.stages.answered import Answered, Marks
from llmos.infra.stages.derived import Derived, Watermark
from llmos.infra.stages.one_in_one_out import OneInOneOut
from llmos.infra.stages.origins import Origins
from llmos.schemas.control import Fence
from llmos.schemas.errors import Ambiguous, Fenced
from llmos.schemas.job import Task
from llmos.services.aggregator import app as aggregator
from llmos.services.aggregator import merger
from llmos.services.aggregator.merger import Merger
from llmos.services.scheduler.bindings import Bindings
from llmos.services.scheduler.cancels import Cancels
from llmos.services.scheduler.effects import Effects
from llmos.services.scheduler.fleet import Device

Patch = pytest.MonkeyPatch
CLAUSES: dict[str, Callable[[Patch], None]] = {}


def clause(change: Callable[[Patch], None]) -> Callable[[Patch], None]:
    """Registers a change under its name."""
    CLAUSES[change.__name__] = change
    return change


# Rule 1: one record in, one record out


@clause
def replays_are_dropped_by_origin(patch: Patch) -> None:
    """Every record counts as new."""
    patch.setattr(Origins, "accept", lambda self, origin: True)


@clause
def offsets_follow_acknowledgements(patch: Patch) -> None:
    """The read position is committed before what was made of it is acknowledged."""
    original = OneInOneOut._turn

    async def turn(self: Any, reader: Any, batches: Mapping[Place, Sequence[Any]]) -> None:
        for place, records in batches.items():
            self._sources[place].acknowledged = records[-1].offset + 1
        await self._commit(reader, force=True)
        await original(self, reader, batches)

    patch.setattr(OneInOneOut, "_turn", turn)


@clause
def nothing_later_before_it_is_acknowledged(patch: Patch) -> None:
    """A send whose end is unknown is given up, and the process goes on."""
    original = MemoryLog.emit

    async def send(log: Any, batches: Mapping[Place, Sequence[Out]]) -> None:
        for place, outs in batches.items():
            try:
                await original(log, place, outs)
            except Ambiguous:
                continue

    patch.setattr(one_in_one_out, "send", send)


@clause
def metadata_is_the_state_as_of_the_offset(patch: Patch) -> None:
    """The scheduler commits L with the origin map of its read position."""
    original = Watermark.commit

    def commit(self: Any) -> Commit:
        found = original(self)
        return Commit(found.offset, found.metadata.replace(self._origins_at_low.dump(), self._origins.dump()))

    patch.setattr(Watermark, "commit", commit)


# Rule 3: the first outcome wins


@clause
def the_first_outcome_wins(patch: Patch) -> None:
    """Every complete outcome is answered."""
    patch.setattr(Answered, "__contains__", lambda self, s: False)


@clause
def parts_keep_their_places(patch: Patch) -> None:
    """Commits are not held back by jobs whose other parts are still out."""
    patch.setattr(Merger, "held_from", lambda self, place: None)


# Rule 4: one transactional writer


@clause
def a_new_writer_fences_the_old(patch: Patch) -> None:
    """Every life has transactional ids of its own."""
    lives = iter(range(10**9))
    original = aggregator.producer_names
    patch.setattr(aggregator, "producer_names", lambda instance: [f"{n}-{next(lives)}" for n in original(instance)])


@clause
def receipts_are_read_from_v_at_start(patch: Patch) -> None:
    """V is the end of `usage`."""
    patch.setattr(Answered, "marks", lambda self: Marks(self.low, self._usage_end))


@clause
def producers_are_initialised_before_the_commit_is_read(patch: Patch) -> None:
    """The state is read while the old writer may still write."""
    original_run = transactional.Transactional.run
    original_recover = transactional.Transactional._recover

    async def run(self: Any) -> None:
        reader = self._ctx.log.reader(self._group)
        await original_recover(self, reader)
        await self._ctx.log.ends(self._places)

        async def keep(_: Any, new: Any) -> None:
            new.assign({place: source.position for place, source in self._sources.items()})

        patch.setattr(transactional.Transactional, "_recover", keep)
        await asyncio.sleep(1.0)
        await original_run(self)

    patch.setattr(transactional.Transactional, "run", run)


@clause
def an_unknown_commit_ends_the_process(patch: Patch) -> None:
    """After a transaction of unknown end the same answers are written again, in a new one."""
    original = transactional.Transactional._write

    async def write(self: Any, transactors: Any, ready: Any) -> None:
        try:
            await original(self, transactors, ready)
        except Fenced:
            raise
        except Ambiguous:
            fresh = [await self._ctx.log.transactor(name) for name in self._names[0]]
            await original(self, fresh, ready)

    patch.setattr(transactional.Transactional, "_write", write)


# Rule 5: the scheduler's state is derived


@clause
def l_is_the_lowest_unanswered(patch: Patch) -> None:
    """L is the read position."""

    def commit(self: Any) -> Commit:
        return Commit(self.position, f"{self._origins.dump()} U={self.usage_position}")

    patch.setattr(Watermark, "commit", commit)


@clause
def keys_are_bound(patch: Patch) -> None:
    """A repeated key is a job of its own."""
    patch.setattr(Bindings, "meet", lambda self, *args: None)


@clause
def bindings_are_read_back_at_start(patch: Patch) -> None:
    """Receipts of before the start bind nothing."""
    original = Derived.restore

    async def restore(self: Any, usage_since: Any) -> Any:
        bind = Bindings.receipt
        patch.setattr(Bindings, "receipt", lambda self, *args: None)
        try:
            return await original(self, usage_since)
        finally:
            patch.setattr(Bindings, "receipt", bind)

    patch.setattr(Derived, "restore", restore)


@clause
def unmatched_cancels_are_remembered(patch: Patch) -> None:
    """A cancel that meets no job is forgotten."""
    patch.setattr(Cancels, "remember", lambda self, *args: None)


@clause
def cancels_hit_submissions_made_no_later(patch: Patch) -> None:
    """A cancel hits whatever has its job id."""

    def hit(self: Any, head: Any) -> bool:
        return (head.tenant, head.job_id) in self._by_id

    patch.setattr(Cancels, "hit", hit)


# Signed requests are taken once


@clause
def nonces_are_kept_with_their_origin(patch: Patch) -> None:
    """A nonce that was seen is refused, also where the record that brought it is read again."""
    original = MemoryLedger._first

    def first(self: Any, one: Any, until: float) -> str:
        known = (one.tenant, one.nonce) in self._nonces
        found = original(self, one, until)
        return found + " before" if known else found

    patch.setattr(MemoryLedger, "_first", first)


# What was used is billed


@clause
def parts_done_before_a_verdict_are_billed(patch: Patch) -> None:
    """A verdict forgets the outcomes before it."""
    original = merger.answer_verdict
    patch.setattr(merger, "answer_verdict", lambda partition, verdict, now, _: original(partition, verdict, now))


@clause
def a_part_is_billed_once(patch: Patch) -> None:
    """By its outcome and by what the scheduler had heard of it."""
    original = merger.answer_verdict

    def answer(partition: int, verdict: Any, now: float, outcomes: Sequence[Any]) -> Any:
        others = []
        for outcome in outcomes:
            task = outcome.task
            others.append(msgspec.structs.replace(outcome, task=Task(partition, task.s, task.part + 1000, task.epoch)))
        return original(partition, verdict, now, others)

    patch.setattr(merger, "answer_verdict", answer)


# Devices that hang


@clause
def hangs_are_found_by_missing_progress(patch: Patch) -> None:
    """A worker whose heart beats is alive, whatever its step does."""
    patch.setattr(Device, "hung", lambda self, now: None if self.alive(now) else "silent")


@clause
def a_life_that_was_given_up_is_fenced(patch: Patch) -> None:
    """Nobody tells it: it hangs on, and its device stays away for ever."""
    original = Effects.control

    def control(self: Any, key: str, message: Any) -> None:
        if not isinstance(message, Fence):
            original(self, key, message)

    patch.setattr(Effects, "control", control)
