"""The credits of lanes: what fits, and when a paused lane goes on."""

from __future__ import annotations

import pytest

from llmos.infra.ledger.port import LaneUse, Limit, Limits
from llmos.pipelines.admission.credits import fits, may_resume
from llmos.schemas.job import LANES, Lane

LIMITS = Limits({"interactive": Limit(2, 100), "standard": Limit(2, 100), "batch": Limit(1, 50)}, Limit(2, 60))
Use = dict[Lane, LaneUse]


def use(**lanes: tuple[int, int]) -> Use:
    return {lane: LaneUse(*held) for lane, held in lanes.items()}  # type: ignore[misc]


@pytest.mark.parametrize(
    ("held", "lane", "size", "fit"),
    [
        pytest.param(use(), "standard", 10, True, id="nothing is held"),
        pytest.param(use(), "batch", 10_000, True, id="an empty lane takes anything"),
        pytest.param(use(interactive=(9, 900)), "batch", 10_000, True, id="whatever the others hold"),
        pytest.param(use(standard=(1, 50)), "standard", 50, True, id="its own credits to the last"),
        pytest.param(use(standard=(2, 50)), "standard", 10, True, id="one job of the overflow"),
        pytest.param(use(standard=(4, 50)), "standard", 10, False, id="no job of the overflow left"),
        pytest.param(use(standard=(1, 100)), "standard", 60, True, id="all bytes of the overflow"),
        pytest.param(use(standard=(1, 100)), "standard", 61, False, id="a byte more"),
        pytest.param(use(standard=(3, 50), batch=(2, 50)), "standard", 1, False, id="the others have the overflow"),
        pytest.param(use(standard=(1, 50), batch=(3, 110)), "standard", 50, True, id="own credits need no overflow"),
        pytest.param(use(standard=(2, 50), batch=(1, 111)), "standard", 1, False, id="bytes of the overflow are gone"),
    ],
)
def test_fits(held: Use, lane: Lane, size: int, fit: bool) -> None:
    """Own credits first, then what all lanes share; an empty lane always."""
    assert fits(held, lane, size, LIMITS) is fit


@pytest.mark.parametrize(
    ("jobs", "size", "fraction", "goes_on"),
    [
        pytest.param(0, 0, 1.0, True, id="nothing held"),
        pytest.param(10, 0, 0.2, False, id="full"),
        pytest.param(9, 0, 0.2, False, id="too few free"),
        pytest.param(8, 0, 0.2, True, id="the fraction is free"),
        pytest.param(9, 0, 0.01, True, id="one whole job is enough for a small fraction"),
        pytest.param(10, 0, 0.01, False, id="but it must be a whole one"),
        pytest.param(1, 801, 0.2, False, id="too few bytes free"),
        pytest.param(1, 800, 0.2, True, id="enough bytes free"),
        pytest.param(1, 1, 1.0, False, id="everything must be free"),
    ],
)
def test_may_resume(jobs: int, size: int, fraction: float, goes_on: bool) -> None:
    """A lane of 10 jobs and 1,000 bytes goes on when that fraction of both is free again, not at the first credit."""
    limits = Limits({lane: Limit(10, 1000) for lane in LANES}, Limit(0, 0))
    assert may_resume(use(standard=(jobs, size), batch=(99, 99_999)), "standard", limits, fraction) is goes_on


@pytest.mark.parametrize(
    ("held", "goes_on"),
    [
        pytest.param(use(standard=(10, 0)), True, id="own credits full, the overflow free"),
        pytest.param(use(standard=(12, 0)), True, id="half of the overflow free"),
        pytest.param(use(standard=(13, 0)), False, id="too little of the overflow free"),
        pytest.param(use(standard=(10, 0), batch=(13, 0)), False, id="others hold the overflow"),
        pytest.param(use(standard=(10, 1000), batch=(1, 1051)), False, id="others hold its bytes"),
        pytest.param(use(standard=(5, 0), batch=(14, 0)), True, id="own credits free, the overflow full"),
    ],
)
def test_a_lane_goes_on_when_the_overflow_is_free(held: Use, goes_on: bool) -> None:
    """Half of 4 jobs and 100 bytes that all lanes share, as they use it together."""
    limits = Limits({lane: Limit(10, 1000) for lane in LANES}, Limit(4, 100))
    assert may_resume(held, "standard", limits, 0.5) is goes_on
