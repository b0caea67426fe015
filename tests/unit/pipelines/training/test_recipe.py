"""The schedule and the bounds of a recipe."""

from __future__ import annotations

import itertools

import pytest

from llmos.pipelines.training.recipe import Recipe
from llmos.schemas.errors import OperatorError


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine() -> None:
    """It starts near nothing, peaks at the end of the warm-up, is half way in the middle and ends where it should."""
    recipe = Recipe(steps=1101, warmup_steps=100, peak_rate=1.0, final_rate=0.2)
    rates = [recipe.rate(step) for step in range(recipe.steps)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[49] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(1.0)
    assert max(rates) == pytest.approx(1.0)
    assert rates[600] == pytest.approx(0.6)
    assert rates[-1] == pytest.approx(0.2)
    assert all(a >= b for a, b in itertools.pairwise(rates[100:]))


@pytest.mark.parametrize("change", [{"heads": 3}, {"kv_heads": 3}, {"vocabulary": 256}, {"steps": 0}, {"batch": 0}])
def test_a_recipe_that_cannot_be_trained_is_refused(change: dict[str, int]) -> None:
    """Sizes that do not divide and empty schedules are found before anything runs."""
    with pytest.raises(OperatorError, match="cannot be trained"):
        Recipe(**change)
