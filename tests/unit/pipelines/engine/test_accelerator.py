"""Accelerators through `torch.accelerator`, which stands for hardware that is not here: what is asked of it, and when."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from llmos.pipelines.engine import accelerator as accelerator_module
from llmos.pipelines.engine.accelerator import AcceleratorDevice, choose_dtype
from llmos.pipelines.engine.device import open_device
from llmos.schemas.errors import BadSetting
from llmos.schemas.telemetry import DeviceLoad

GIB = 2**30


class Torch:
    """Two devices of a kind; notes what is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str | None, count: int = 2) -> None:
        self.asked: list[tuple[str, object]] = []
        here = None if kind is None else torch.device(kind)
        answers = {
            "current_accelerator": lambda check_available=False: here,
            "device_count": lambda: count,
            "set_device_index": lambda index: self.asked.append(("set", index)),
            "synchronize": lambda index: self.asked.append(("synchronize", index)),
            "empty_cache": lambda: self.asked.append(("empty", None)),
            "get_memory_info": lambda index: (10 * GIB, 80 * GIB),
            "memory_reserved": lambda index: 7 * GIB,
            "memory_allocated": lambda index: 4 * GIB,
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.accelerator, name, answer)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: not including_emulation)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"u-{index}"))
        monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 16 * GIB)
        monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 6 * GIB)
        monkeypatch.setattr(accelerator_module, "watch_nvidia", self.watch)
        self.load: DeviceLoad | None = DeviceLoad(utilisation=0.5)

    def watch(self, uuid: str, pid: int) -> object:
        self.asked.append(("watch", uuid))
        return None if self.load is None else SimpleNamespace(sample=lambda: self.load)


def test_a_cuda_device_is_the_one_with_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Index, memory and dtype are those of the second of two; NVML is asked by the device's own name."""
    fake = Torch(monkeypatch, "cuda")
    device = open_device("cuda:1/2")
    assert isinstance(device, AcceleratorDevice)
    assert (device.spec, device.kind, device.label) == ("cuda:1/2", "cuda", "cuda1")
    assert device.torch_device == torch.device("cuda", 1)
    assert device.memory_bytes == 80 * GIB
    assert device.dtype == torch.bfloat16
    assert device.dtypes == {torch.bfloat16, torch.float16, torch.float32}
    assert device.threads == max(1, len(os.sched_getaffinity(0)) // 2)
    assert ("watch", "GPU-u-1") in fake.asked
    assert device.load() == DeviceLoad(utilisation=0.5)


def test_calls_go_to_its_own_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Activation, synchronisation and the cache."""
    fake = Torch(monkeypatch, "cuda")
    device = open_device("cuda:1/2")
    fake.asked.clear()
    device.activate()
    device.synchronize()
    device.empty_cache()
    assert fake.asked == [("set", 1), ("synchronize", 1), ("empty", None)]
    assert torch.get_num_threads() == device.threads


def test_what_torch_keeps_for_reuse_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 GiB by the driver, and 3 GiB that torch has reserved and not given out."""
    Torch(monkeypatch, "cuda")
    assert open_device("cuda:0/2").free_bytes() == 13 * GIB


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_without_a_watch_the_load_is_memory_alone(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Another vendor's, or an NVIDIA device whose NVML is absent."""
    Torch(monkeypatch, kind).load = None
    assert open_device(f"{kind}:0/2").load() == DeviceLoad(memory_bytes=80 * GIB, memory_used_bytes=70 * GIB)


def test_mps_has_the_memory_that_metal_recommends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is the machine's; torch tells how much of it to use."""
    Torch(monkeypatch, "mps", count=1)
    device = open_device("mps:0/1")
    assert (device.memory_bytes, device.free_bytes()) == (16 * GIB, 10 * GIB)
    assert device.dtype == torch.float16


@pytest.mark.parametrize(
    ("here", "spec", "problem"),
    [
        (None, "cuda:0/1", "no cuda is here; torch sees none"),
        ("xpu", "cuda:0/1", "no cuda is here; torch sees xpu"),
        ("cuda", "cuda:2/3", "there are 2 of kind cuda"),
        ("cuda", "cuda:0/2?speed=1", "cuda has no option 'speed'"),
    ],
)
def test_what_is_not_here_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, here: str | None, spec: str, problem: str
) -> None:
    """Another kind, an index that is not there, an option: an error that says what there is."""
    Torch(monkeypatch, here)
    with pytest.raises(BadSetting, match=problem):
        open_device(spec)


@pytest.mark.parametrize(
    ("kind", "bfloat16", "dtype"),
    [
        ("cuda", True, torch.bfloat16),
        ("cuda", False, torch.float16),
        ("xpu", True, torch.bfloat16),
        ("mps", True, torch.float16),
    ],
)
def test_weights_are_bfloat16_where_that_is_fast(kind: str, bfloat16: bool, dtype: torch.dtype) -> None:
    """Else float16."""
    assert choose_dtype(kind, bfloat16) == dtype
