"""A text and a recipe that train in a second."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from llmos.pipelines.training.recipe import Recipe

ROOT = Path(__file__).parents[4]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Another number of threads may add in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The beginning of the example text."""
    text = gzip.decompress((ROOT / "examples/data/tinyshakespeare.txt.gz").read_bytes())
    (tmp_path / "plays.txt").write_bytes(text[:20_000])
    return tmp_path / "plays.txt"


@pytest.fixture
def recipe() -> Recipe:
    """Twelve steps of a model with 8,000 parameters, with a checkpoint that falls between two evaluations."""
    return Recipe(
        vocabulary=300,
        hidden_size=16,
        layers=1,
        heads=2,
        kv_heads=1,
        intermediate_size=32,
        context=16,
        batch=4,
        steps=12,
        warmup_steps=2,
        evaluate_every=6,
        checkpoint_every=4,
    )
