"""Every back end that is here passes the kit, and the kit finds what is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from llmos.pipelines.engine.conformance import CHECKS, NotConforming, check_device, make_decoder, run_check
from llmos.pipelines.engine.cpu import CpuDevice
from llmos.pipelines.engine.device import Device, open_device
from llmos.pipelines.engine.interface import Decoder, TextModel
from llmos.pipelines.engine.kvcache import KvCache
from llmos.pipelines.engine.specs import parse_spec
from llmos.schemas.telemetry import DeviceLoad

SPECS = ["cpu:0/1", "cpu:0/2", "emulated:0/1", "emulated:1/2?speed=0.5&memory=2000000"]


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("spec", SPECS)
def test_ours_conform(spec: str, name: str) -> None:
    """The CPU whole and shared; the emulated device at full speed, and slowed in little memory."""
    run_check(name, open_device(spec))


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator that torch knows is here")
@pytest.mark.parametrize("name", CHECKS)
def test_the_accelerator_conforms(name: str) -> None:
    """The one that is here, whatever its kind."""
    present = torch.accelerator.current_accelerator()
    assert present is not None
    run_check(name, open_device(f"{present.type}:0/{torch.accelerator.device_count()}"))


class Misspelt(CpuDevice):
    """Says another label than its spec."""

    def __init__(self) -> None:
        super().__init__(parse_spec("cpu:0/1"))
        self.label = "cpu7"


class Boastful(Misspelt):
    """Has more free than it has."""

    def free_bytes(self) -> int:
        return self.memory_bytes + 1


class Overloaded(Misspelt):
    """Is busier than it can be."""

    def load(self) -> DeviceLoad:
        return DeviceLoad(utilisation=1.5)


class Greedy(Misspelt):
    """Computes with more threads than it says."""

    def activate(self) -> None:
        torch.set_num_threads(self.threads + 1)


class Unsynchronized(Misspelt):
    """Fails where there is nothing to wait for."""

    def synchronize(self) -> None:
        raise RuntimeError("no stream")


class Shifted(Misspelt):
    """Changes what models give."""

    def wrap(self, model: Decoder) -> Decoder:
        return _Shifted(model)

    def wrap_encoder(self, model: TextModel) -> TextModel:
        return _ShiftedText(model)


class Forgetful(Misspelt):
    """Reads every prompt from its beginning, and decodes the first of a batch only."""

    def wrap(self, model: Decoder) -> Decoder:
        return _Forgetful(model)


class _Wrapped:
    def __init__(self, model: Decoder) -> None:
        self.model = model
        self.vocabulary, self.context = model.vocabulary, model.context
        self.resident_bytes, self.kv_bytes_per_token = model.resident_bytes, model.kv_bytes_per_token

    def new_cache(self, slots: int, tokens: int) -> KvCache:
        return self.model.new_cache(slots, tokens)

    def prefill(self, tokens: Sequence[int], cache: KvCache, slot: int, start: int) -> torch.Tensor:
        return self.model.prefill(tokens, cache, slot, start)

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], cache: KvCache, first_slot: int = 0
    ) -> torch.Tensor:
        return self.model.decode(tokens, positions, cache, first_slot)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.logits(hidden)


class _Shifted(_Wrapped):
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.logits(hidden) + 1.0


class _Forgetful(_Wrapped):
    def prefill(self, tokens: Sequence[int], cache: KvCache, slot: int, start: int) -> torch.Tensor:
        return self.model.prefill(tokens, cache, slot, 0)

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], cache: KvCache, first_slot: int = 0
    ) -> torch.Tensor:
        first = self.model.decode(tokens[:1], positions[:1], cache, first_slot)
        return first.expand(len(tokens), -1)


class _ShiftedText:
    def __init__(self, model: TextModel) -> None:
        self.model = model
        self.vocabulary, self.resident_bytes = model.vocabulary, model.resident_bytes

    def hidden_states(self, batch: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, there = self.model.hidden_states(batch)
        return hidden + 1.0, there


@pytest.mark.parametrize(
    ("device", "name", "problem"),
    [
        (Misspelt, "describes_itself", "its label is 'cpu7', not 'cpu0'"),
        (Greedy, "activates_a_thread", "threads compute"),
        (Boastful, "tells_its_memory", "are free"),
        (Overloaded, "tells_its_load", r"utilisation is 1\.5"),
        (Unsynchronized, "synchronizes", "no stream"),
        (Shifted, "computes_as_the_reference", "off by"),
        (Forgetful, "reads_in_pieces", "off by"),
        (Forgetful, "decodes_together", "off by"),
        (Shifted, "wraps_models_of_texts", "differs"),
    ],
)
def test_what_is_wrong_is_found(device: type[Device], name: str, problem: str) -> None:
    """Each check fails for a device that breaks what it is for, and says device, check and what is wrong."""
    with pytest.raises(NotConforming, match=rf"cpu:0/1: {name}: .*{problem}"):
        run_check(name, device())  # type: ignore[call-arg]


def test_all_checks_run_together() -> None:
    """The first that fails is told."""
    with pytest.raises(NotConforming, match="describes_itself"):
        check_device(Misspelt())


def test_the_reference_is_always_the_same() -> None:
    """Random weights by a seed of their own: what a back end is compared with does not change from run to run."""
    torch.manual_seed(1)
    first = make_decoder(None, torch.float32)
    torch.manual_seed(2)
    second = make_decoder(None, torch.float32)
    hidden = [model.prefill([1, 2, 3], model.new_cache(1, 8), 0, 0) for model in (first, second)]
    assert torch.equal(*hidden)
