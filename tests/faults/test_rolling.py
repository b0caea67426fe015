"""A rolling restart under load, in the simulated world: no job fails, none is done twice for it, nobody counts a death."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from tests.kit.rolling import roll

# Time is virtual and nothing else runs on the loop: what blocks it, as reading the settings does, delays nobody.
pytestmark = pytest.mark.may_block


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The events of simulated services are nobody's business."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("seed", range(8))
def test_no_job_notices_a_rolling_restart(seed: int) -> None:
    """Each device is drained, waited for and started anew, and takes work again by itself; then each service likewise."""
    assert not roll(seed)
