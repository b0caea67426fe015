"""Keys rotate, and are destroyed, while sealed jobs are in flight and services crash: no job fails for it, until what it was
sealed under is destroyed before it was done; and what was destroyed opens nothing again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from llmos.infra.crypto.credentials import ReplyKey, ReplyKeys
from llmos.infra.crypto.envelope import parse
from llmos.infra.crypto.keyfile import changed, create_keyring, load_keyring
from llmos.infra.crypto.keyring import Keyring, Purpose
from llmos.infra.crypto.live import LOOK_SECONDS, LiveKeyring
from llmos.infra.log.port import Out, Place
from llmos.infra.simulation import run
from llmos.pipelines.kinds.parts import open_part
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.errors import EnvelopeRejected
from llmos.schemas.requests import Request
from llmos.schemas.results import RESULTS, Answer
from llmos.schemas.sealed import SEALED, Job
from tests.kit.sealing import opened_texts, sealed_request, signed
from tests.kit.world import TENANTS, World

# Time is virtual and nothing else runs on the loop: what blocks it, as reading the keyring does, delays nobody.
pytestmark = pytest.mark.may_block

STORM_SECONDS = 20.0
ROTATED: tuple[Purpose, ...] = ("pool", "ingress", "tenant", "control", "system", "receipt", "operator", "dead")
JOBS_KEYS: tuple[Purpose, ...] = ("pool", "ingress", "tenant")
"""Those that jobs are sealed under: rotated three times."""
PUBLISHED_SECONDS = 3.0
"""How long after a rotation clients still seal to the key of before."""
PATIENCE_SECONDS = 60.0


class Rotating:
    """A world whose services read a keyring's file, and the clients of its first tenant, which seal."""

    def __init__(self, seed: int, path: Path) -> None:
        self.path = path
        self.random = Random(seed)
        self.world = World(seed)
        self.world.breaks = 0.0
        self.world.keyring = create_keyring(path, TENANTS)
        self.world.keys_of = self._keys_of
        self.reply = ReplyKey.fresh()
        self.asked: dict[str, str] = {}
        """Text by request id."""
        self._log = self.world.broker.connect("client")
        self._public = self.world.keyring
        self._lives: list[LiveKeyring] = []

    def _keys_of(self, service: str) -> LiveKeyring:
        self._lives.append(LiveKeyring(self.path, service))
        return self._lives[-1]

    async def refresh(self) -> None:
        """What the process of a service does beside it; each looks at a time of its own."""
        while True:
            await asyncio.sleep(LOOK_SECONDS / 4)
            for keys in self._lives:
                if self.random.random() < 0.25:
                    keys.refresh()

    def look(self) -> None:
        """Every service looks at the keyring's file."""
        for keys in self._lives:
            keys.refresh()

    async def submit(self) -> Request:
        """One sealed echo."""
        name = f"r{len(self.asked)}"
        self.asked[name] = f"canary {name}"
        request = sealed_request(
            {"text": self.asked[name]},
            self._public,
            request_id=name,
            nonce=self.random.randbytes(16),
            reply_key=self.reply.public,
            submitted_at=self.world.clock.now(),
        )
        request = signed(request, self.world.secrets["demo"])
        place = Place(topics.REQUESTS["standard"], self.random.randrange(self.world.settings.kafka.partitions))
        await self._log.emit(place, [Out(None, encode(request))])
        return request

    def rotate(self, purpose: Purpose) -> None:
        """An operator rotates a key; clients hear of it later."""
        rotated = changed(self.path, lambda keys: keys.rotated(purpose, "demo" if purpose == "tenant" else ""))
        asyncio.get_running_loop().call_later(PUBLISHED_SECONDS, self._publish, rotated)

    def _publish(self, keys: Keyring) -> None:
        self._public = keys

    def destroy_retired(self) -> Keyring:
        """An operator destroys all keys that only open any more; that of `system` is kept, which tenants' secrets are
        wrapped under until they are wrapped anew."""
        entries = load_keyring(self.path).entries
        retired = [entry.id for entry in entries if entry.state == "decrypt_only" and entry.purpose != "system"]
        for key_id in retired:
            changed(self.path, lambda keys, key_id=key_id: keys.destroyed(key_id))  # type: ignore[misc]
        return load_keyring(self.path)

    def answers(self) -> dict[str, Answer]:
        """By request id."""
        stored = [entry for entries in self.world.broker.dump(topics.RESULTS).values() for entry in entries]
        found = [RESULTS.decode(entry.record.value) for entry in stored if entry.state == "committed"]
        return {answer.request_id: answer for answer in found}

    def sealed(self) -> list[Job]:
        """All jobs on `sealed`."""
        stored = [entry for entries in self.world.broker.dump(topics.SEALED).values() for entry in entries]
        return [message for message in (SEALED.decode(e.record.value) for e in stored) if isinstance(message, Job)]

    async def all_answered(self) -> dict[str, Answer]:
        """Once every submission has its answer."""
        await self._until(lambda: len(self.answers()) == len(self.asked))
        return self.answers()

    async def lies_on_sealed(self) -> None:
        """Once the first job is there."""
        await self._until(lambda: bool(self.sealed()))

    async def _until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not true():  # noqa: ASYNC110  time is virtual
                await asyncio.sleep(0.5)

    def check(self, answers: dict[str, Answer]) -> None:
        """All are completed, and each opens to its own text."""
        ended = {name: (answer.status, answer.error) for name, answer in answers.items()}
        assert ended == dict.fromkeys(self.asked, ("completed", None))
        keys = ReplyKeys([self.reply])
        assert {name: opened_texts(answer, keys) for name, answer in answers.items()} == {
            name: [text] for name, text in self.asked.items()
        }
        assert not self.world.unexpected

    async def end(self) -> None:
        """Ends all processes."""
        await self.world.end()


async def _clients(rotating: Rotating, seconds: float) -> None:
    end = rotating.world.clock.now() + seconds
    while rotating.world.clock.now() < end:
        await rotating.submit()
        await asyncio.sleep(rotating.random.expovariate(5.0))


async def _operator(rotating: Rotating) -> None:
    purposes = [*ROTATED, *JOBS_KEYS * 2]
    for purpose in rotating.random.sample(purposes, len(purposes)):
        await asyncio.sleep(rotating.random.uniform(0.0, 2.0))
        rotating.rotate(purpose)


async def _crashes(rotating: Rotating, seconds: float) -> None:
    end = rotating.world.clock.now() + seconds
    while rotating.world.clock.now() < end:
        await asyncio.sleep(rotating.random.expovariate(0.5))
        rotating.world.crash(rotating.random.choice(sorted(rotating.world.processes)))


@pytest.mark.parametrize("seed", range(4))
def test_no_job_fails_while_keys_rotate(seed: int, tmp_path: Path) -> None:
    """Every key of the system, in a random order, while services crash and clients still use the keys of before.

    Afterwards the retired keys are destroyed: what goes on, goes on, and of all jobs that were sealed under them none opens.
    """

    async def main() -> None:
        rotating = Rotating(seed, tmp_path / "keyring.json")
        await rotating.world.begin()
        rotating.world.start_all()
        refreshing = asyncio.create_task(rotating.refresh())
        crashes = asyncio.create_task(_crashes(rotating, STORM_SECONDS))
        operator = asyncio.create_task(_operator(rotating))
        await _clients(rotating, STORM_SECONDS)
        await crashes
        await operator
        rotating.check(await rotating.all_answered())
        before = rotating.sealed()
        keys = rotating.destroy_retired()
        rotating.look()
        await _clients(rotating, 2.0)
        rotating.check(await rotating.all_answered())
        _check_closed(before, keys)
        refreshing.cancel()
        await rotating.end()

    run(main, seed)


def _check_closed(jobs: list[Job], keys: Keyring) -> None:
    """What names destroyed keys alone opens no more."""
    erased = [job for job in jobs if not any(map(keys.has, _readers(job)))]
    assert erased
    for job in erased:
        with pytest.raises(EnvelopeRejected):
            open_part(keys, job.head, job.parts[0])


def _readers(job: Job) -> list[str]:
    return [key_id for key_id, _ in parse(job.parts[0].envelope).wrapped]


def test_what_was_sealed_under_a_destroyed_pool_key_fails_and_says_so(tmp_path: Path) -> None:
    """The job ends, once, with a reason; the next one is sealed under the new key and done."""

    async def main() -> None:
        rotating = Rotating(1, tmp_path / "keyring.json")
        await rotating.world.begin()
        rotating.world.start_all(devices=0)
        await rotating.submit()
        await rotating.lies_on_sealed()
        rotating.rotate("pool")
        rotating.destroy_retired()
        rotating.look()
        rotating.world.start_workers(1)
        answers = await rotating.all_answered()
        assert [(a.status, a.error and a.error.code) for a in answers.values()] == [("failed", "payload_unreadable")]
        await rotating.submit()
        late = (await rotating.all_answered())["r1"]
        assert (late.status, opened_texts(late, ReplyKeys([rotating.reply]))) == ("completed", ["canary r1"])
        await rotating.end()

    run(main)


def test_an_erased_tenants_jobs_open_for_nobody(tmp_path: Path) -> None:
    """With its own key destroyed the pool of its time still opens what lies on `sealed`; with that destroyed, too, no key of
    the whole ring does, while another tenant's jobs under its own key still open."""

    async def main() -> None:
        rotating = Rotating(2, tmp_path / "keyring.json")
        await rotating.world.begin()
        rotating.world.start_all()
        await rotating.submit()
        rotating.check(await rotating.all_answered())
        (job,) = rotating.sealed()
        keys = load_keyring(rotating.path)
        tenants, pool = keys.active("tenant", "demo").id, keys.active("pool").id
        assert _readers(job) == [tenants, pool]
        erased = changed(rotating.path, lambda keys: keys.destroyed(tenants, active=True))
        assert b"canary" in open_part(erased, job.head, job.parts[0]).input
        erased = changed(rotating.path, lambda keys: keys.rotated("pool").destroyed(pool))
        with pytest.raises(EnvelopeRejected):
            open_part(erased, job.head, job.parts[0])
        await rotating.end()

    run(main)
