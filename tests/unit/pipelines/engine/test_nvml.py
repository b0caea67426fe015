"""What is made of NVML's answers, and that its absence is one."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from llmos.pipelines.engine import nvml
from llmos.pipelines.engine.nvml import NvidiaWatch, discover, open_nvml, throttled, visible, watch_nvidia


class _Error(Exception):
    """NVMLError."""


class Library(ModuleType):
    """pynvml with one device, which does what the test says."""

    NVMLError = _Error
    NVMLError_NotSupported = type("NotSupported", (_Error,), {})
    NVMLError_NoPermission = type("NoPermission", (_Error,), {})
    NVMLError_NotFound = type("NotFound", (_Error,), {})
    NVML_CLOCK_SM = 1

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.processes: list[Any] = []
        self.reasons = 0
        self.absent = self.lost = False
        self.unsupported = False

    def nvmlInit(self) -> None:  # noqa: N802
        if self.absent:
            raise _Error("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != "GPU-1":
            raise self.NVMLError_NotFound("Not Found")
        return "handle"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802
        if self.lost:
            raise _Error("GPU is lost")
        return SimpleNamespace(total=80, used=20)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=75)

    def nvmlDeviceGetProcessUtilization(self, handle: str, since: int) -> list[Any]:  # noqa: N802
        if not self.processes:
            raise self.NVMLError_NotFound("Not Found")
        return [row for row in self.processes if row.timeStamp > since]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:  # noqa: N802
        if self.unsupported:
            raise self.NVMLError_NotSupported("Not Supported")
        return self.reasons

    def nvmlDeviceGetClockInfo(self, handle: str, which: int) -> int:  # noqa: N802
        return 900

    def nvmlDeviceGetMaxClockInfo(self, handle: str, which: int) -> int:  # noqa: N802
        if self.unsupported:
            raise self.NVMLError_NotSupported("Not Supported")
        return 1800


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library()
    monkeypatch.setitem(sys.modules, "pynvml", made)
    open_nvml.cache_clear()
    monkeypatch.setattr(nvml, "torch_has_cuda", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield made
    open_nvml.cache_clear()


def process(pid: int, share: int, at: int = 1) -> Any:
    return SimpleNamespace(pid=pid, smUtil=share, timeStamp=at)


def test_each_device_that_cuda_shows_is_found(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """By index; what CUDA_VISIBLE_DEVICES hides is not."""
    assert discover() == ["cuda:0/2", "cuda:1/2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert discover() == ["cuda:0/1"]


def test_nothing_is_found_where_something_is_missing(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch without CUDA cannot open them; without a driver or without the package there are none."""
    monkeypatch.setattr(nvml, "torch_has_cuda", lambda: False)
    assert discover() == []
    monkeypatch.setattr(nvml, "torch_has_cuda", lambda: True)
    library.absent = True
    open_nvml.cache_clear()
    assert discover() == []
    assert watch_nvidia("GPU-1", 1) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    open_nvml.cache_clear()
    assert discover() == []


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        (None, 4),
        ("", 0),
        ("0", 1),
        ("2,0", 2),
        ("0, 1,3", 3),
        ("-1", 0),
        ("0,-1,1", 1),
        ("0,9,1", 1),
        ("GPU-8932f937,1", 2),
        ("MIG-0", 1),
        ("none", 0),
    ],
)
def test_cuda_shows_the_devices_before_the_first_that_is_none(wanted: str | None, shown: int) -> None:
    """As its own documentation says of CUDA_VISIBLE_DEVICES."""
    assert visible(4, wanted) == shown


def test_a_device_is_watched(library: Library) -> None:
    """Utilisation, memory and clocks are those of the driver; another device is not known."""
    watch = watch_nvidia("GPU-1", 7)
    assert watch is not None
    load = watch.sample()
    assert (load.utilisation, load.memory_bytes, load.memory_used_bytes, load.clock_fraction) == (0.75, 80, 20, 0.5)
    assert load.throttled == ""
    assert watch_nvidia("GPU-2", 7) is None


def test_other_processes_are_told_from_ones_own(library: Library) -> None:
    """Shares of the latest sample of each; who takes much of the device is told as its throttling."""
    watch = NvidiaWatch(library, "handle", 7)
    assert watch.sample().own_utilisation == 0.75, "nothing is known of processes: it counts as this worker's"
    library.processes = [process(7, 90, 1), process(7, 20, 2), process(8, 40, 2)]
    load = watch.sample()
    assert load.own_utilisation == 0.2
    assert load.throttled == "somebody else uses it"
    library.processes = [process(8, 10, 3)]
    load = watch.sample()
    assert (load.own_utilisation, load.throttled) == (0.0, "")


def test_process_ids_of_another_name_space_are_not_taken_for_others(library: Library) -> None:
    """In a container the driver may know this process by another number."""
    library.processes = [process(4242, 90)]
    load = NvidiaWatch(library, "handle", 7).sample()
    assert (load.own_utilisation, load.throttled) == (0.75, "")


@pytest.mark.parametrize(
    ("reasons", "others", "words"),
    [
        (0x0, 0.0, ""),
        (0x1, 0.0, ""),
        (0x20, 0.0, "it is hot"),
        (0x40, 0.9, "it is hot"),
        (0x4, 0.0, "it is at its power limit"),
        (0x80, 0.0, "it is at its power limit"),
        (0x8, 0.0, "its hardware slows it down"),
        (0x1, 0.31, "somebody else uses it"),
        (0x1, 0.29, ""),
    ],
)
def test_why_it_is_slow(reasons: int, others: float, words: str) -> None:
    """Idle and user-set clocks are no reason."""
    assert throttled(reasons, others) == words


def test_what_a_device_cannot_say_has_a_default(library: Library) -> None:
    """An older card tells neither reasons nor its highest clock."""
    library.unsupported = True
    load = NvidiaWatch(library, "handle", 7).sample()
    assert (load.throttled, load.clock_fraction) == ("", 1.0)


def test_a_driver_that_fails_is_told(library: Library) -> None:
    """The heartbeat goes out, and says that nothing is known."""
    library.lost = True
    load = NvidiaWatch(library, "handle", 7).sample()
    assert load.throttled == "its driver does not answer: GPU is lost"
    assert load.memory_bytes == 0
