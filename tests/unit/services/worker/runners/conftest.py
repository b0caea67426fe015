"""The shipped models on one CPU device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from llmos.pipelines.engine.device import open_device
from llmos.pipelines.engine.residents import ResidentModels
from llmos.pipelines.models.store import ModelStore, shipped_models
from tests.unit.services.worker.runners.making import Bench

GENEROUS = 1 << 30


@pytest.fixture(scope="session")
def store() -> ModelStore:
    """The models that ship."""
    store = ModelStore(shipped_models())
    assert not store.scan().damaged
    return store


@pytest.fixture(scope="session")
def identities(store: ModelStore) -> dict[str, str]:
    """Name → identity."""
    return {manifest.name: manifest.identity for manifest in store.scan().models.values()}


@pytest.fixture(scope="session")
def decoder(identities: dict[str, str]) -> str:
    """The shipped decoder."""
    return identities["shakespeare-decoder"]


@pytest.fixture(scope="session")
def encoder(identities: dict[str, str]) -> str:
    """The shipped encoder."""
    return identities["minilm-l6-v2"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_residents(store: ModelStore) -> Callable[..., ResidentModels]:
    """Residents of a device; the store is scanned once."""

    def make(slots: int = 4, budget: int = GENEROUS) -> ResidentModels:
        return ResidentModels(open_device("cpu:0/1"), store, budget, slots, embed_batch=8)

    return make


@pytest.fixture(scope="module")
def shared(make_residents: Any, decoder: str, encoder: str) -> ResidentModels:
    """Residents that the tests of a file share, both models loaded: that costs most of their time."""
    residents: ResidentModels = make_residents()
    Bench(residents).load(decoder, encoder)
    return residents


@pytest.fixture
def bench(shared: ResidentModels) -> Bench:
    """Fresh measurements over shared models."""
    return Bench(shared)
