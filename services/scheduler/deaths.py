"""Worker deaths per task, kept in `epochs` so that a task that kills workers is found across restarts."""

from __future__ import annotations

from llmos.infra.log.port import Out, Place
from llmos.infra.stages.sending import Outbox
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.epochs import Deaths
from llmos.services.scheduler.jobs import LiveJob, LiveTask, TaskName

EPOCHS = Place(topics.EPOCHS, 0)


class DeathLedger:
    """Counts deaths; what changed goes to the outbox, to be sent before anything else of the turn."""

    def __init__(self) -> None:
        self._counts: dict[TaskName, int] = {}
        self.outbox = Outbox()

    def restore(self, key: str, message: Deaths | None) -> None:
        """A record of `epochs`; None is a tombstone."""
        name = _name_of(key)
        if message is None:
            self._counts.pop(name, None)
        else:
            self._counts[name] = message.deaths

    def of(self, name: TaskName) -> int:
        """Deaths under this task so far."""
        return self._counts.get(name, 0)

    def died(self, task: LiveTask) -> int:
        """A worker died under `task`; gives the new count."""
        partition, s, part = task.name
        count = self._counts[task.name] = self.of(task.name) + 1
        self.outbox.put(
            EPOCHS, Out(_key_of(task.name), encode(Deaths(partition=partition, s=s, part=part, deaths=count)))
        )
        return count

    def ended(self, job: LiveJob) -> None:
        """The job has its receipt: its counts are dropped."""
        for task in job.tasks:
            self._drop(task.name)

    def sweep(self, answered: set[tuple[int, int]]) -> None:
        """Drops the counts of jobs that were answered while nobody looked."""
        for name in [name for name in self._counts if name[:2] in answered]:
            self._drop(name)

    def names(self) -> set[tuple[int, int]]:
        """(partition, s) of all jobs with deaths."""
        return {(partition, s) for partition, s, _ in self._counts}

    def _drop(self, name: TaskName) -> None:
        if self._counts.pop(name, None) is not None:
            self.outbox.put(EPOCHS, Out(_key_of(name), None))


def _key_of(name: TaskName) -> bytes:
    return "deaths:{}:{}:{}".format(*name).encode()


def is_death_key(key: bytes | None) -> bool:
    """Whether a record of `epochs` counts deaths."""
    return (key or b"").startswith(b"deaths:")


def _name_of(key: str) -> TaskName:
    _, partition, s, part = key.split(":")
    return int(partition), int(s), int(part)
