"""A recorded stretch of what the policy saw replays to the same decisions, bit by bit."""

from __future__ import annotations

from random import Random

import msgspec

from llmos.pipelines.scheduling.costs import Cost
from llmos.pipelines.scheduling.decide import decide, sight_of
from llmos.pipelines.scheduling.order import Key, key_of
from llmos.pipelines.scheduling.replay import WHOLE_EVERY, Recorder, replay, snapshots
from llmos.pipelines.scheduling.snapshot import Carried, DeviceView, Group, Rules, Snapshot, Waiting
from llmos.schemas.base import encode
from llmos.schemas.job import LANES
from llmos.schemas.telemetry import TELEMETRY, PolicyInput
from tests.unit.pipelines.scheduling.making import device

TURNS = WHOLE_EVERY + 300


class Stretch:
    """A system that lives at random: tasks come, devices take and finish them, models load, clocks run."""

    def __init__(self, seed: int, rules: Rules) -> None:
        self.random = Random(seed)
        self.rules = rules
        self.at = 1e9
        self.waiting: dict[Group, list[Key]] = {}
        self.devices = [self._device(name) for name in "abc"]
        self.carried = Carried()
        self.count = 0

    def _device(self, name: str) -> DeviceView:
        random = self.random
        return device(
            name,
            slots=4,
            window={"": 6, "echo": 9},
            models=frozenset({"m", "n"}),
            resident=frozenset(random.sample(["m", "n"], random.randrange(3))),
            resident_bytes=random.randrange(90),
            loading={"m": random.random()} if random.random() < 0.2 else {},
            utilisation=random.random() * 5,
            memory_pressure=random.random() * 0.6,
            costs={(model, kind): Cost(random.random(), random.random() / 100, random.random() / 10, random.random() / 100)
                   for model, kind in (("m", "generate"), ("n", "generate"), ("m", "embed"))},
        )  # fmt: skip

    def _change(self, one: DeviceView) -> DeviceView:
        random = self.random
        roll = random.random()
        if roll < 0.4:
            return one
        if roll < 0.5:
            return self._device(one.device)
        flying = {kind: random.randrange(7) for kind in ("generate", "echo", "embed") if random.random() < 0.6}
        return one._replace(
            alive=random.random() < 0.95, in_flight=flying,
            work_seconds={kind: count * random.random() for kind, count in flying.items()},
        )  # fmt: skip

    def turn(self) -> Snapshot:
        """The next snapshot."""
        random = self.random
        self.at += random.random()
        for _ in range(random.randrange(6)):
            kind, model = random.choice([("echo", ""), ("generate", "m"), ("generate", "n"), ("embed", "m")])
            self.count += 1
            made = key_of(
                random.choice(LANES), random.randrange(10), self.at + random.random() * 900, self.at, 0, self.count, 0,
                random.randrange(200), random.randrange(1, 99) if kind == "generate" else 0,
            )  # fmt: skip
            group = Group(kind, model, random.random() < 0.02, tenant=random.choice("xyz"), level=made.level)
            self.waiting.setdefault(group, []).append(made)
            self.waiting[group].sort()
        self.devices = [self._change(one) for one in self.devices]
        seen = [
            Waiting(group, keys, 30 if group.model else 0, len(keys), 35 if group.model else 0)
            for group, keys in self.waiting.items() if keys
        ]  # fmt: skip
        return Snapshot(seen, list(self.devices), self.rules, self.carried)


def record(seed: int, rules: Rules) -> tuple[list[PolicyInput], list[Snapshot]]:
    """A stretch as it travels: through the codec."""
    stretch, recorder = Stretch(seed, rules), Recorder(term=3)
    records, seen = [], []
    for turn in range(TURNS):
        snapshot = stretch.turn()
        decision = decide(snapshot, stretch.at)
        message = recorder.record(snapshot, decision, turn, stretch.at)
        records.append(TELEMETRY.decode(encode(message)))
        sight = sight_of(snapshot)
        seen.append(snapshot._replace(waiting=[w._replace(tasks=list(w.tasks[:sight])) for w in snapshot.waiting]))
        stretch.carried = decision.carried
        for chosen in decision.chosen:
            stretch.waiting[chosen.group].remove(chosen.task)
    return records, seen


def test_a_stretch_replays_bit_by_bit() -> None:
    """Hundreds of turns with loads, holds, deaths, ageing and shares: every decision comes out again, floats included."""
    records, _ = record(1, Rules(4.0, ageing_seconds=5.0, record=True))
    pairs = list(replay(records))
    assert len(pairs) == TURNS
    assert all(recorded == decided for recorded, decided in pairs)
    rules = {held.why.rule for recorded, _ in pairs for held in recorded.held}
    assert rules >= {"window", "sooner"}
    assert sum(len(recorded.chosen) for recorded, _ in pairs) > TURNS


def test_baselines_replay_too() -> None:
    """What is drawn at random is drawn again."""
    records, _ = record(2, Rules(4.0, policy="two-choices"))
    assert all(recorded == decided for recorded, decided in replay(records))


def test_a_reader_may_begin_late() -> None:
    """From the next whole snapshot on; snapshots come out as they went in."""
    records, seen = record(3, Rules(4.0))
    late = list(snapshots(records[10:]))
    assert [message.turn for message, _ in late] == list(range(WHOLE_EVERY, TURNS))
    assert [snapshot for _, snapshot in late] == seen[WHOLE_EVERY:]


def test_changes_are_small() -> None:
    """A turn in which nothing changed writes next to nothing."""
    stretch, recorder = Stretch(4, Rules(4.0)), Recorder(term=3)
    snapshot = stretch.turn()
    decision = decide(snapshot, stretch.at)
    first, second = (recorder.record(snapshot, decision, turn, stretch.at) for turn in range(2))
    assert (first.whole, second.whole) == (True, False)
    assert len(second.body) < 40 < len(first.body)
    assert msgspec.msgpack.decode(second.body)[0] == []


def test_another_policy_is_noticed() -> None:
    """A recorded decision that is not what the policy decides now comes out unequal."""
    records, _ = record(5, Rules(4.0))
    changed = msgspec.structs.replace(records[-1], at=records[-1].at + 1.0)
    assert any(recorded != decided for recorded, decided in replay([*records[:-1], changed]))
