"""The scheduler's policies on two unequal devices: the same arrivals under each, in rounds, its scheduler started anew for each."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.harness import Row, percentile
from benchmarks.serving.models import SMALL, prompts
from benchmarks.serving.pipeline import Arrival, Outcome, arrivals, highest_rate
from benchmarks.serving.switching import switchable
from llmos.client import GenerateInput, Task

DEFAULT = "completion"
BASELINES = ("round-robin", "random", "shortest-queue", "two-choices", "least-work")
DEVICES = ["emulated:0/2?speed=0.3", "emulated:1/2?speed=0.1"]
"""Speeds of 1 to 1/3. Both are below the machine's own, so that the devices are what is short, not the cores that the rest of
the system runs on."""
LOAD = 0.6
"""Of the highest rate that both devices keep up."""
ROUNDS = 2
"""Each policy is measured so often, in the order of the list and then in the opposite one; the latencies are put together."""
SECONDS = 20.0
WARM_SECONDS = 5.0
"""Arrivals before those that count: the scheduler measures the devices by them."""
LARGEST_SHARE_OF_ROUND_ROBIN = "<= 0.667"
PROBED = 200
IN_FLIGHT = 48
SEED = 11


async def run(console: Console) -> list[Row]:
    """All figures of this part; takes about six minutes."""
    overrides = {"node": {"devices": DEVICES}, "worker": {"slots": 4}}
    policies = [DEFAULT, *BASELINES]
    found: dict[str, list[Outcome]] = {policy: [] for policy in policies}
    with tempfile.TemporaryDirectory(prefix="llmos-bench-") as directory:
        async with switchable(Path(directory) / "state", **overrides) as (client, switch):
            await switch(DEFAULT)
            await highest_rate(client, _tasks(PROBED // 2), IN_FLIGHT)
            rate = LOAD * await highest_rate(client, _tasks(PROBED), IN_FLIGHT)
            console.print(f"{rate:.1f} requests/s are {LOAD:.0%} of what both devices can do", style="dim")
            for number in range(ROUNDS):
                for policy in policies if number % 2 == 0 else reversed(policies):
                    await switch(policy)
                    await arrivals(client, _planned(rate, WARM_SECONDS, SEED))
                    outcome = await arrivals(client, _planned(rate, SECONDS, SEED + 1 + number))
                    found[policy].append(outcome)
                    p50, p99 = (percentile(outcome.latencies, share) for share in (0.5, 0.99))
                    console.print(f"round {number + 1}, {policy}: p50 {p50:.3f} s, p99 {p99:.3f} s", style="dim")
    return _rows({policy: _together(outcomes) for policy, outcomes in found.items()}, rate)


def _together(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(
        [latency for outcome in outcomes for latency in outcome.latencies],
        sum(outcome.sent for outcome in outcomes),
        sum(outcome.seconds for outcome in outcomes),
    )


def _tasks(count: int, seed: int = SEED) -> list[Task]:
    """Requests of unequal length: short ones are many, long ones few."""
    texts = prompts(16, 32)
    draw = random.Random(seed)
    lengths = draw.choices([8, 16, 32, 64], [4, 3, 2, 1], k=count)
    return [
        Task(
            "generate", GenerateInput(prompt=draw.choice(texts), max_tokens=length), SMALL, timeout=120.0, events="none"
        )
        for length in lengths
    ]


def _planned(rate: float, seconds: float, seed: int) -> list[Arrival]:
    """Poisson arrivals: the gaps between them are exponential."""
    draw = random.Random(seed)
    times: list[float] = []
    at = draw.expovariate(rate)
    while at < seconds:
        times.append(at)
        at += draw.expovariate(rate)
    return [Arrival(at, task) for at, task in zip(times, _tasks(len(times), seed), strict=True)]


def _rows(found: dict[str, Outcome], rate: float) -> list[Row]:
    ours = found[DEFAULT]
    rows = []
    for policy in BASELINES:
        theirs = found[policy]
        note = f"at {rate:.1f}/s; completed {ours.completed:.1%} and {theirs.completed:.1%}"
        for share in (0.5, 0.99):
            target = LARGEST_SHARE_OF_ROUND_ROBIN if policy == "round-robin" and share == 0.99 else ""
            values = (percentile(outcome.latencies, share) * 1000 for outcome in (ours, theirs))
            value, peer_value = values
            what = f"{DEFAULT}: p{share * 100:.0f}"
            rows.append(Row(what, value, "ms", policy, peer_value, target, note))
        rows.append(
            Row(
                f"{DEFAULT}: answers",
                _answers_per_second(ours), "1/s", policy, _answers_per_second(theirs), "", note,
            )
        )  # fmt: skip
    return rows


def _answers_per_second(outcome: Outcome) -> float:
    return len(outcome.latencies) / outcome.seconds
