"""What a task costs, measured and predicted: means, prompt tokens, decode steps over the batch, priors, drift of the speed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.pipelines.scheduling.costs import Cost, Service, service_of
from llmos.pipelines.scheduling.fitting import CostMeter, Delta, delta_of, expected_seconds
from llmos.pipelines.scheduling.pooling import pooled
from llmos.pipelines.scheduling.speed import Speed
from llmos.schemas.telemetry import Served

GENERATE = ("m", "generate")
FULL = Cost(9.0, 0.01, 0.1, 0.02, 0.5, 0.9)


@pytest.mark.parametrize(
    ("cost", "tokens", "batch", "service"),
    [
        (Cost(3.0), (10, 0), 1, Service(3.0, 3.0)),
        (Cost(3.0), (10, 20), 4, Service(3.0, 3.0)),
        (Cost(3.0, 0.01), (10, 0), 1, Service(0.1, 0.1)),
        (Cost(3.0, 0.01), (0, 0), 1, Service(3.0, 3.0)),
        (FULL, (100, 20), 1, Service(1.0 + 10 * 0.1, 1.0 + 10 * 0.1)),
        (FULL, (100, 20), 4, Service(1.0 + 10 * 0.16, 1.0 + 10 * 0.16 / 4)),
        (FULL, (100, 0), 4, Service(1.0, 1.0)),
        (FULL.slower(2.0), (100, 20), 1, Service(4.0, 4.0)),
    ],
)
def test_service(cost: Cost, tokens: tuple[int, int], batch: int, service: Service) -> None:
    """Prompt and expected output by what was measured; the mean where tokens tell nothing."""
    assert service_of(cost, *tokens, batch) == (pytest.approx(service.seconds), pytest.approx(service.work_seconds))


def served(**fields: float) -> Served:
    return Served(model="m", kind="generate", **fields)  # type: ignore[arg-type]


def test_deltas_are_differences() -> None:
    """Counters count since the worker's start; one that went back counts nothing."""
    before = served(tasks=3, busy_seconds=5.0, tokens_out=7, decode_steps=10, decode_tokens=20, decode_seconds=1.0)
    after = served(tasks=5, busy_seconds=6.0, tokens_out=17, decode_steps=14, decode_tokens=30, decode_seconds=0.5)
    assert delta_of(before, after) == Delta(2, 1.0, 10, 0, 0.0, 4, 10, 0.0)
    assert delta_of(None, before) == Delta(3, 5.0, 7, 0, 0.0, 10, 20, 1.0)


def decoded(batch: int, first: float, each: float, steps: int = 20) -> Delta:
    return Delta(0, 0.0, 0, 0, 0.0, steps, steps * batch, steps * (first + each * (batch - 1)))


@given(
    st.lists(st.integers(1, 16), min_size=4, max_size=30).filter(lambda batches: max(batches) - min(batches) > 3),
    st.floats(0.01, 0.5),
    st.floats(0.0, 0.5),
)
def test_a_line_is_found(batches: list[int], first: float, share: float) -> None:
    """From batches of different sizes a and b come out; the step of any batch seen is predicted well."""
    each = first * share
    meter = CostMeter(30.0, 0.0)
    for i, batch in enumerate(batches):
        meter.served(decoded(batch, first, each), i * 0.5)
    cost = meter.cost(None)
    for batch in batches:
        step = cost.step_seconds + cost.sequence_seconds * (batch - 1)
        assert step == pytest.approx(first + each * (batch - 1), rel=0.2)


def test_one_size_of_batch_still_splits() -> None:
    """Where all batches were alike the step is right there, and the slope is the prior's."""
    meter = CostMeter(30.0, 0.0)
    for i in range(10):
        meter.served(decoded(8, 0.1, 0.01), i * 0.5)
    cost = meter.cost(Cost(0.0, 0.0, 0.2, 0.02))
    assert meter.cost(None).step_seconds + 7 * meter.cost(None).sequence_seconds == pytest.approx(0.17)
    assert cost.confidence > 0.7


def test_confidence_grows_with_the_evidence() -> None:
    """Nothing: the prior alone; a little: in between; much: what was measured."""
    meter, prior = CostMeter(30.0, 0.0), Cost(8.0)
    assert (meter.cost(prior).task_seconds, meter.confidence) == (8.0, 0.0)
    meter.served(Delta(4, 4.0, 0, 0, 0.0, 0, 0, 0.0), 0.0)
    assert (meter.cost(prior).task_seconds, meter.confidence) == (pytest.approx(4.5), 0.5)
    meter.served(Delta(400, 400.0, 0, 0, 0.0, 0, 0, 0.0), 0.0)
    assert meter.cost(prior).task_seconds == pytest.approx(1.0, rel=0.1)
    assert meter.confidence > 0.98


def test_confidence_fades() -> None:
    """What was measured long ago is believed less than what others measure now."""
    meter = CostMeter(10.0, 0.0)
    meter.served(Delta(16, 16.0, 0, 0, 0.0, 0, 0, 0.0), 0.0)
    meter.served(Delta(0, 0.0, 0, 0, 0.0, 0, 0, 0.0), 40.0)
    assert meter.confidence == pytest.approx(1.0 / 5.0)


def test_the_output_fraction_is_measured() -> None:
    """Tokens that came over tokens that were allowed, task by task."""
    meter = CostMeter(30.0, 0.0)
    for _ in range(3):
        meter.asked(100, 0.0)
    meter.served(Delta(2, 1.0, 50, 0, 0.0, 1, 1, 1.0), 0.0)
    assert meter.cost(None).output_fraction == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("cost", "delta", "seconds"),
    [
        (Cost(2.0), Delta(3, 9.0, 0, 0, 0.0, 0, 0, 0.0), (6.0, 9.0)),
        (FULL, decoded(3, 0.2, 0.04, 10), (pytest.approx(1.4), pytest.approx(2.8))),
        (FULL, Delta(0, 0.0, 0, 100, 3.0, 0, 0, 0.0), (1.0, 3.0)),
        (FULL, Delta(3, 9.0, 0, 0, 0.0, 0, 0, 0.0), (0.0, 0.0)),
        (Cost(0.0), Delta(3, 9.0, 0, 0, 0.0, 0, 0, 0.0), (0.0, 0.0)),
    ],
)
def test_expected_against_taken(cost: Cost, delta: Delta, seconds: tuple[float, float]) -> None:
    """Steps and tokens where they are known, else whole tasks."""
    assert expected_seconds(cost, delta) == seconds


def test_a_drop_is_believed_after_three_heartbeats() -> None:
    """A third of the speed three times in a row is the speed; so is its return."""
    speed = Speed(3.0, 30.0, 0.0)
    for beat in range(3):
        speed.saw(0.17, 0.5, 0.5 * beat)
    assert speed.value(1.0) == pytest.approx(0.34)
    for beat in range(3):
        speed.saw(0.5, 0.5, 2 + 0.5 * beat)
    assert speed.value(3.0) == pytest.approx(1.0)


def test_one_slow_step_is_no_drop() -> None:
    """A single bad sample among good ones moves the speed by its share of three busy seconds."""
    speed = Speed(3.0, 30.0, 0.0)
    for beat in range(10):
        speed.saw(0.1 if beat == 5 else 0.5, 0.5, 0.5 * beat)
    assert 0.85 < speed.value(5.0) < 1.0


def test_an_idle_device_gets_its_chance_again() -> None:
    """What nobody measures any more fades: half of the loss in a half-life."""
    speed = Speed(3.0, 30.0, 0.0)
    for beat in range(3):
        speed.saw(0.25, 0.5, 0.5 * beat)
    assert speed.value(1.0 + 30.0) == pytest.approx(0.75)
    speed.saw(0.0, 1.0, 31.0)
    assert speed.value(31.0) == pytest.approx(0.75), "a sample without expectation says nothing"


def test_priors_come_from_others_at_ones_own_pace() -> None:
    """A device twice as slow as the others in what all run expects a new model to take twice as long."""
    pool = pooled(
        {
            "a": {
                ("x", "generate"): Cost(1.0, 0.0, 0.1, 0.0, 0.5, 1.0),
                GENERATE: Cost(2.0, 0.01, 0.2, 0.02, 0.25, 0.5),
            },
            "b": {("x", "generate"): Cost(3.0, 0.0, 0.3, 0.0, 0.5, 1.0)},
            "c": {},
        }
    )
    slow, fresh = pool.prior("b", GENERATE), pool.prior("c", GENERATE)
    assert slow is not None
    assert fresh is not None
    assert pool.pace == {"a": pytest.approx(0.5), "b": pytest.approx(1.5), "c": 1.0}
    assert (fresh.step_seconds, fresh.output_fraction, fresh.confidence) == (0.2, 0.25, 0.0)
    assert slow.step_seconds == pytest.approx(0.3)
    assert pool.prior("c", ("y", "generate")) is None


def test_sequences_of_one_task_run_side_by_side() -> None:
    """Eight outputs of 20 tokens take as many steps as one of them, in a batch of eight; more than fit, in turns."""
    eight = service_of(FULL, 100, 8 * 20, 8, 8)
    assert eight == (pytest.approx(1.0 + 10 * 0.24), pytest.approx(1.0 + 10 * 0.24))
    assert service_of(FULL, 100, 8 * 20, 4, 8).seconds == pytest.approx(1.0 + 20 * 0.16)
    assert service_of(FULL, 100, 2 * 20, 4, 2) == (pytest.approx(1.0 + 10 * 0.16), pytest.approx(1.0 + 10 * 0.16 / 2))
