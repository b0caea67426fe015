"""A task keeps away from the device that failed it."""

from __future__ import annotations

import pytest

from llmos.pipelines.scheduling.decision import Why
from llmos.pipelines.scheduling.filters.avoided import avoided
from tests.unit.pipelines.scheduling.making import ECHO, RULES, device, waiting


@pytest.mark.parametrize(("avoid", "why"), [("", None), ("a", Why("avoided", 1, 0)), ("b", None)])
def test_avoided(avoid: str, why: Why | None) -> None:
    """Only that device is refused."""
    assert avoided(device("a"), waiting(ECHO._replace(avoid=avoid), 1), RULES) == why
