"""The five rules on the log in memory, with the services' own code: random schedules keep every promise, and each
clause of the rules matters: leave it out, and some schedule finds it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from tests.kit.clauses import CLAUSES
from tests.kit.schedule import play

# Time is virtual and nothing else runs on the loop: what blocks it, as reading the settings does, delays nobody.
pytestmark = pytest.mark.may_block

SCHEDULES = 300
BLOCKS = 12
TRIES = 60
"""Schedules in which a clause that was left out must be found."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Some million events of simulated services are nobody's business."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("block", range(BLOCKS))
@pytest.mark.timeout(300)
def test_every_submission_has_exactly_one_right_answer(block: int) -> None:
    """Crashes, zombies, two of each service, late and lost writes, repeated keys, cancels, Redis gone: no promise breaks."""
    for seed in range(block, SCHEDULES, BLOCKS):
        broken = play(seed)
        assert not broken, f"seed {seed} (play it again with tests.kit.schedule.play({seed})): " + "; ".join(broken[:5])


def test_a_seed_plays_the_same_schedule_again() -> None:
    """What a failing seed shows can be looked at again."""
    with pytest.MonkeyPatch.context() as patch:
        CLAUSES["the_first_outcome_wins"](patch)
        assert play(1) == play(1) != []


@pytest.mark.parametrize("clause", CLAUSES)
@pytest.mark.timeout(300)
def test_a_clause_left_out_is_found(clause: str) -> None:
    """Without this clause of the rules some schedule loses, doubles or mixes up an answer."""
    for seed in range(TRIES):
        with pytest.MonkeyPatch.context() as patch:
            CLAUSES[clause](patch)
            if play(seed):
                return
    pytest.fail(f"{TRIES} schedules did not notice that {clause} was left out")
