"""Tokens are drawn from the distribution that the request describes, by the request's own seed."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from llmos.pipelines.engine.sampling import Sampler
from llmos.schemas.tasks import GenerateInput

LOGITS = torch.log(torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15]))


def request(**fields: float) -> GenerateInput:
    return GenerateInput(prompt="", **fields)  # type: ignore[arg-type]


def draws(count: int, **fields: float) -> Counter[int]:
    sampler = Sampler(request(**fields))
    return Counter(sampler.pick(LOGITS) for _ in range(count))


def test_temperature_zero_takes_the_likeliest() -> None:
    """Without temperature there is no chance."""
    assert draws(20) == {1: 20}


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 1}, {1}),
        ({"top_p": 0.6}, {1, 3}),
        ({"top_p": 0.71}, {1, 3, 4}),
        ({"top_p": 0.01}, {1}),
        ({"top_k": 3, "top_p": 0.5}, {1, 3}),
        ({"top_k": 1_000_000}, {0, 1, 2, 3, 4}),
        ({}, {0, 1, 2, 3, 4}),
    ],
)
def test_only_what_is_kept_is_drawn(fields: dict[str, float], kept: set[int]) -> None:
    """top_k and top_p leave out the unlikely, and everything kept turns up."""
    assert set(draws(300, temperature=1.0, **fields)) == kept


def test_frequencies_follow_the_temperature() -> None:
    """At temperature 0.5 the odds are the squares; 4,000 draws lie within four standard deviations."""
    count = 4000
    probabilities = torch.softmax(LOGITS / 0.5, 0).tolist()
    drawn = draws(count, temperature=0.5, seed=3)
    for token, p in enumerate(probabilities):
        assert abs(drawn[token] - count * p) < 4 * (count * p * (1 - p)) ** 0.5


def test_equal_seeds_draw_equal_tokens() -> None:
    """The seed decides, and another one draws otherwise."""

    def drawn(seed: int) -> list[int]:
        sampler = Sampler(request(temperature=1.0, seed=seed))
        return [sampler.pick(LOGITS) for _ in range(30)]

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)
    assert drawn(2**63 - 1) == drawn(2**63 - 1)


def test_a_tiny_temperature_does_not_overflow() -> None:
    """Next to nothing is the likeliest token, not an error."""
    assert draws(20, temperature=1e-30) == {1: 20}
