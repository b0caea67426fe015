"""What a worker takes from its topic and what it leaves; it ends when a later life claims the device."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.log.port import Log, Out, Place, Record
from llmos.infra.log.topics import spec_for
from llmos.infra.runtime.beside import run_beside
from llmos.pipelines.kinds.base import PartPlan
from llmos.pipelines.kinds.parts import seal_job
from llmos.schemas.base import Message, encode
from llmos.schemas.control import CancelTask, ModelOrder
from llmos.schemas.dead import DEAD
from llmos.schemas.errors import Fenced
from llmos.schemas.ids import epoch_of
from llmos.schemas.job import Task, Usage
from llmos.schemas.partials import PARTIALS
from llmos.schemas.sealed import SEALED
from llmos.schemas.tasks import EchoInput
from llmos.schemas.telemetry import TELEMETRY, Progress, TaskFailed, TasksStopped
from llmos.schemas.work import Claim, Work
from llmos.services.worker.held import HeldTasks
from llmos.services.worker.intake import Intake
from llmos.services.worker.publisher import Publisher
from llmos.services.worker.runners.events import Assignment, Pins, TaskName, TaskStopped
from llmos.services.worker.settling import Settler
from tests.kit.bench import Bench, on_bench
from tests.unit.services.worker.making import INCARNATION, work

pytestmark = pytest.mark.may_block  # time is virtual and nothing else runs on the loop

DEVICE = "node-0.cpu0"
PLACE = Place(f"work.{DEVICE}", 0)
CLAIM = Claim(device=DEVICE, node="node-0", pid=1)


class Engine:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Assignment | TaskName] = []

    def start(self) -> None:
        """Nothing to do."""

    def run(self, assignment: Assignment) -> None:
        """A task joins."""
        self.told.append(assignment)

    def stop(self, name: TaskName) -> None:
        """A task leaves."""
        self.told.append(name)

    def order(self, order: ModelOrder | Pins) -> None:
        """There are no models."""

    async def close(self, timeout: float) -> None:
        """Nothing to do."""


class Desk:
    """An intake whose device was claimed at offset 3."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        bench.broker.create([spec_for(bench.settings, PLACE.topic)])
        self.ctx = bench.context("worker")
        self.engine, self.held = Engine(), HeldTasks(60.0)
        self.publisher = Publisher(self.ctx, self.held, Settler(self.held, DEVICE, INCARNATION), DEVICE, INCARNATION)
        self.intake = Intake(self.ctx, self.held, self.engine, self.publisher, DEVICE, INCARNATION)

    def reads_from(self, log: Garbling) -> None:
        """Where the intake reads."""
        ctx = replace(self.ctx, log=log)
        self.intake = Intake(ctx, self.held, self.engine, self.publisher, DEVICE, INCARNATION)

    async def put(self, *messages: Message | bytes) -> None:
        """What the scheduler sends."""
        values = [message if isinstance(message, bytes) else encode(message) for message in messages]
        await self.bench.broker.connect("scheduler").emit(PLACE, [Out(b"k", value) for value in values])

    async def take(self, *messages: Message | bytes) -> None:
        """The device is claimed, these records come, and the worker is stopped when it has had the time to read them."""
        await self.put(*[CLAIM] * (INCARNATION + 1), *messages)
        await self.run()

    async def run(self) -> None:
        """Runs for a second."""
        asyncio.get_running_loop().call_later(1.0, self.ctx.stop.set)
        await run_beside(self.intake.run(), self.publisher.run())

    @property
    def runs(self) -> list[tuple[TaskName, Any]]:
        """(name, input) of the tasks that joined; a name alone is one that left."""
        return [(entry.name, entry.input.text) if isinstance(entry, Assignment) else (entry, None) for entry in self.engine.told]  # fmt: skip

    def sent(self, topic: str, codec: Any) -> list[Any]:
        """What went to a topic."""
        return [codec.decode(value) for value in self.bench.values(topic)]


def test_work_is_opened_and_run() -> None:
    """In order; each is held from then on."""

    async def main(bench: Bench) -> None:
        desk = Desk(bench)
        await desk.take(work(0, text="a"), work(1, text=["b", "c"]))
        assert desk.runs == [((0, 0, 0, 1), ["a"]), ((0, 1, 0, 1), ["b", "c"])]
        assert [task.work.task.s for task in desk.held] == [0, 1]
        assert desk.engine.told[0].kind == "echo"  # type: ignore[union-attr]
        assert desk.engine.told[0].deadline == work(0).deadline  # type: ignore[union-attr]

    on_bench(main)


@pytest.mark.parametrize(
    ("others", "runs"),
    [
        pytest.param([work(0, incarnation=2)], [], id="for an earlier life"),
        pytest.param([work(0, incarnation=4)], [], id="for a later life"),
        pytest.param([work(0), work(0)], [0], id="the same attempt again"),
        pytest.param([work(0, epoch=5), work(0, epoch=4)], [0], id="an earlier attempt"),
        pytest.param([work(0, epoch=epoch_of(7, 1)), work(1, epoch=epoch_of(6, 9))], [0], id="of a lower term"),
        pytest.param([work(0, epoch=epoch_of(7, 1)), work(1, epoch=epoch_of(8, 1))], [0, 1], id="of a higher term"),
        pytest.param(
            [work(0, epoch=epoch_of(9, 1), incarnation=2), work(1, epoch=1)], [1], id="a term for another life"
        ),
    ],
)
def test_what_is_not_ours_is_left(others: list[Work], runs: list[int]) -> None:
    """Another life, an older scheduler, an attempt that is at work already."""

    async def main(bench: Bench) -> None:
        desk = Desk(bench)
        await desk.take(*others)
        assert [name[1] for name, _ in desk.runs] == runs
        assert (bench.values("dead"), bench.values("telemetry")) == ([], [])

    on_bench(main)


def test_a_higher_epoch_replaces_the_attempt() -> None:
    """The old attempt leaves the engine before the new one joins."""

    async def main(bench: Bench) -> None:
        desk = Desk(bench)
        await desk.take(work(0, epoch=4, text="old"), work(0, epoch=5, text="new"))
        assert desk.runs == [((0, 0, 0, 4), ["old"]), ((0, 0, 0, 4), None), ((0, 0, 0, 5), ["new"])]
        assert [task.work.task.epoch for task in desk.held] == [5]

    on_bench(main)


def test_an_envelope_that_was_damaged_is_sent_again() -> None:
    """The checksum tells corruption from forgery: the scheduler hears that another attempt may mend it."""

    async def main(bench: Bench) -> None:
        desk = Desk(bench)
        damaged = work(0)
        part = msgspec.structs.replace(damaged.part, envelope=damaged.part.envelope[:-1] + b"\0")
        await desk.take(msgspec.structs.replace(damaged, part=part), work(1))
        (failed,) = desk.sent("telemetry", TELEMETRY)
        assert isinstance(failed, TaskFailed)
        assert (failed.task, failed.error.code, failed.incarnation) == (damaged.task, "corrupt", INCARNATION)
        assert [name[1] for name, _ in desk.runs] == [1]
        assert desk.held.at((0, 0, 0)) is None

    on_bench(main)


def _damaged(whole: Work) -> bytes:
    part = msgspec.structs.replace(whole.part, envelope=whole.part.envelope[:-1] + b"\0")
    return encode(msgspec.structs.replace(whole, part=part))


class Garbling:
    """Gives a record damaged the first `times` times it is read; counts the readers that were made."""

    def __init__(self, log: Log, offset: int, value: bytes, times: int) -> None:
        self._log = log
        self._offset = offset
        self._value = value
        self._times = times
        self.readers = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def reader(self, group: str | None = None) -> Any:
        """A reader whose first reads are damaged."""
        self.readers += 1
        reader = self._log.reader(group)
        read = reader.read

        async def garbled(timeout: float, max_records: int = 2000) -> dict[Place, list[Record]]:
            found = await read(timeout, max_records)
            return {place: [self._seen(record) for record in records] for place, records in found.items()}

        reader.read = garbled  # type: ignore[method-assign]
        return reader

    def _seen(self, record: Record) -> Record:
        if record.offset != self._offset or not self._times:
            return record
        self._times -= 1
        return record._replace(value=self._value)


@pytest.mark.parametrize(("times", "runs", "failed"), [(1, [0, 1], 0), (2, [1], 1)])
def test_a_damaged_record_is_read_once_more(times: int, runs: list[int], failed: int) -> None:
    """What was damaged on its way to us is whole at the second look; if not, the scheduler sends it again."""

    async def main(bench: Bench) -> None:
        desk = Desk(bench)
        log = Garbling(desk.ctx.log, INCARNATION + 1, _damaged(work(0)), times)
        desk.reads_from(log)
        await desk.take(work(0), work(1))
        assert [name[1] for name, _ in desk.runs] == runs
        assert len(desk.sent("telemetry", TELEMETRY)) == failed
        assert log.readers == 2

    on_bench(main)


def test_the_second_look_trusts_the_same_task_only() -> None:
    """Whatever else lies there by now is not what was asked for."""

    async def main(bench: Bench) -> None:
        desk = Desk(bench)
        log = Garbling(desk.ctx.log, INCARNATION + 1, _damaged(work(0, epoch=2)), 1)
        desk.reads_from(log)
        await desk.take(work(0, epoch=1))
        (message,) = desk.sent("telemetry", TELEMETRY)
        assert (desk.runs, message.task.epoch, message.error.code) == ([], 2, "corrupt")

    on_bench(main)


def test_what_is_forged_is_not_read_again() -> None:
    """It would be the same: one reader, and an answer at once."""

    async def main(bench: Bench) -> None:
        desk = Desk(bench)
        log = Garbling(desk.ctx.log, -1, b"", 0)
        desk.reads_from(log)
        await desk.take(_forged())
        assert log.readers == 1
        assert len(desk.sent("partials", PARTIALS)) == 1

    on_bench(main)


def _forged() -> Work:
    whole = work(0, text=["a", "b"])
    envelope = whole.part.envelope[:-1] + bytes([whole.part.envelope[-1] ^ 1])
    return msgspec.structs.replace(
        whole, part=msgspec.structs.replace(whole.part, envelope=envelope, crc32c=crc32c(envelope))
    )


def _of_another_pool() -> Work:
    whole = work(0)
    body = msgspec.msgpack.encode(EchoInput(text=["a", "b"]))
    job = SEALED.decode(seal_job(Keyring.memory(), whole.head, [PartPlan(0, 2, body, 0, 0, 0)], bytes(32)))
    return msgspec.structs.replace(whole, part=job.parts[0])


@pytest.mark.parametrize("make", [_forged, _of_another_pool])
def test_an_envelope_that_does_not_open_fails_for_good(make: Any) -> None:
    """No attempt can mend it: every item of the part ends with an error that says so."""

    async def main(bench: Bench) -> None:
        desk = Desk(bench)
        await desk.take(make())
        (outcome,) = desk.sent("partials", PARTIALS)
        assert [(item.output_index, item.error.code) for item in outcome.items] == [
            (0, "payload_unreadable"),
            (1, "payload_unreadable"),
        ]
        assert (desk.runs, len(desk.held)) == ([], 0)

    on_bench(main)


def test_an_input_that_is_none_fails_for_good() -> None:
    """What verify sealed was read by another version: the client hears what is wrong with it."""

    async def main(bench: Bench) -> None:
        desk = Desk(bench)
        whole = work(0)
        job = SEALED.decode(seal_job(desk.ctx.keyring, whole.head, [PartPlan(0, 1, b"\x80", 0, 0, 0)], bytes(32)))
        await desk.take(msgspec.structs.replace(whole, part=job.parts[0]))
        (outcome,) = desk.sent("partials", PARTIALS)
        assert [item.error.code for item in outcome.items] == ["invalid_request"]

    on_bench(main)


def test_a_later_claim_ends_this_life() -> None:
    """What comes behind it is the next life's; earlier claims are history."""

    async def main(bench: Bench) -> None:
        desk = Desk(bench)
        await desk.put(*[CLAIM] * (INCARNATION + 1), work(0), CLAIM, work(1))
        with pytest.raises(Fenced, match=DEVICE):
            await desk.run()
        assert [name[1] for name, _ in desk.runs] == [0]

    on_bench(main)


def test_an_unreadable_record_is_dead() -> None:
    """Those behind it are run all the same."""

    async def main(bench: Bench) -> None:
        desk = Desk(bench)
        await desk.take(b"\xc1", work(1))
        (letter,) = desk.sent("dead", DEAD)
        assert (letter.stage, letter.origin.topic, letter.error.code) == ("worker", PLACE.topic, "malformed")
        assert [name[1] for name, _ in desk.runs] == [1]

    on_bench(main)


def test_what_the_scheduler_ended_is_stopped() -> None:
    """All parts of the submission, at work or still to come; other submissions are left alone."""

    async def main(bench: Bench) -> None:
        desk = Desk(bench)
        await desk.put(*[CLAIM] * (INCARNATION + 1), work(0), work(0, part=1), work(1))
        running = asyncio.create_task(desk.run())
        await asyncio.sleep(0.1)
        desk.intake.cancel(CancelTask(partition=0, s=0))
        await desk.put(work(0, part=2), work(2))
        await running
        assert desk.runs[3:] == [((0, 0, 0, 1), None), ((0, 0, 1, 1), None), ((0, 2, 0, 1), ["hello"])]
        assert [task.work.task.s for task in desk.held] == [1, 2]

    on_bench(main)


def test_the_last_word_on_what_was_stopped_goes_out_at_once() -> None:
    """What the parts of a submission had used that left together is one record."""

    async def main(bench: Bench) -> None:
        desk = Desk(bench)
        running = asyncio.create_task(desk.publisher.run())
        used = Usage(tokens_in=3, tokens_out=4, device_seconds=0.5)
        desk.publisher.deliver([TaskStopped((0, 0, part, 1), used) for part in range(2)])
        await desk.publisher.idle()
        assert desk.sent("telemetry", TELEMETRY) == [
            TasksStopped(
                device=DEVICE, incarnation=INCARNATION, used=[Progress(Task(0, 0, part, 1), 3, 4, 0.5) for part in range(2)]
            )
        ]  # fmt: skip
        running.cancel()

    on_bench(main)
