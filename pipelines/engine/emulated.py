"""An emulated device: true models on a share of the CPU, slower than it, with memory of its own size, and faults by seed.

It ships for tests: what is slow, small or broken here is so in a way that a true device may be, and the same each time.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from llmos.pipelines.engine.cpu import CpuDevice
from llmos.pipelines.engine.device import Device
from llmos.pipelines.engine.emulation import Emulation, Fault, FaultSource, read_emulation
from llmos.pipelines.engine.interface import Decoder, TextModel
from llmos.pipelines.engine.kvcache import KvCache
from llmos.pipelines.engine.specs import DeviceSpec
from llmos.schemas.telemetry import DeviceLoad

T = TypeVar("T")

_DEBT_SECONDS = 0.002
"""Delays are slept when they add up to this: a shorter sleep would take longer than it should."""
_PROBE_CALLS = 33
"""Every so many calls one is made twice. Odd, since a model's calls come in pairs."""
_PROBE_WEIGHT = 0.25
"""Of the newest such measurement in their average."""


def _end_process() -> None:
    """As the kernel's out-of-memory killer would."""
    os.kill(os.getpid(), signal.SIGKILL)


class EmulatedDevice(Device):
    """The device. `sleep`, `clock` and `die` are what it waits, measures and ends with; tests give others."""

    def __init__(
        self,
        spec: DeviceSpec,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.perf_counter,
        die: Callable[[], None] = _end_process,
    ) -> None:
        emulation = read_emulation(spec)
        self._below = CpuDevice(spec._replace(kind="cpu", options=()))
        self.spec = spec.text
        self.kind = spec.kind
        self.label = spec.label
        self.threads = self._below.threads
        self.memory_bytes = emulation.memory_bytes or self._below.memory_bytes
        self.torch_device = self._below.torch_device
        self.dtype = self._below.dtype
        self.dtypes = self._below.dtypes
        self._memory = EmulatedMemory(self.memory_bytes, spec.label)
        self._pace = Pace(emulation, sleep, clock)
        self._injector = Injector(FaultSource(emulation, spec.share), emulation, self._pace, sleep, die)

    def activate(self) -> None:
        """Pins the calling thread, as the CPU's share does."""
        self._below.activate()

    def free_bytes(self) -> int:
        """Its memory less what its models and their caches hold; the CPU's own is not looked at."""
        return self._memory.free_bytes()

    def load(self) -> DeviceLoad:
        """The CPU share's, with this device's memory."""
        below = self._below.load()
        slow = self._pace.slow_phase()
        return DeviceLoad(
            utilisation=below.utilisation,
            own_utilisation=below.own_utilisation,
            memory_bytes=self.memory_bytes,
            memory_used_bytes=self.memory_bytes - self.free_bytes(),
            throttled="it is emulated to be hot" if slow > 1.0 else below.throttled,
            clock_fraction=below.clock_fraction / slow,
        )

    def wrap(self, model: Decoder) -> Decoder:
        """The model, slowed, within the memory, with faults. Raises `torch.OutOfMemoryError` where there is no room."""
        return EmulatedDecoder(model, self._memory, self._injector)

    def wrap_encoder(self, model: TextModel) -> TextModel:
        """The model, slowed, within the memory, with faults. Raises `torch.OutOfMemoryError` where there is no room."""
        return EmulatedTextModel(model, self._memory, self._injector)


class EmulatedMemory:
    """Counts what the models and caches of a device hold while they live. For any thread."""

    def __init__(self, total_bytes: int, label: str) -> None:
        self._total_bytes = total_bytes
        self._label = label
        self._model_bytes = 0
        self._caches: list[weakref.ref[KvCache]] = []
        self._lock = threading.Lock()

    def free_bytes(self) -> int:
        """What is left, in bytes."""
        with self._lock:
            alive = [(reference, cache) for reference in self._caches if (cache := reference()) is not None]
            self._caches = [reference for reference, _ in alive]
            held = self._model_bytes + sum(cache.resident_bytes for _, cache in alive)
        return max(0, self._total_bytes - held)

    def hold_model(self, holder: object, size: int) -> None:
        """Counts `size` bytes as long as `holder` lives. Raises `torch.OutOfMemoryError`."""
        self.want(size)
        with self._lock:
            self._model_bytes += size
        weakref.finalize(holder, self._give_back, size)

    def hold_cache(self, cache: KvCache) -> None:
        """Counts what a cache holds, as it grows."""
        with self._lock:
            self._caches.append(weakref.ref(cache))

    def want(self, size: int) -> None:
        """Raises `torch.OutOfMemoryError` where `size` more bytes are not there."""
        free = self.free_bytes()
        if size > free:
            raise torch.OutOfMemoryError(
                f"{self._label}: {size} bytes are wanted and {free} of {self._total_bytes} are free"
            )

    def _give_back(self, size: int) -> None:
        with self._lock:
            self._model_bytes -= size


class Pace:
    """Makes calls take longer: t seconds on the CPU become t/speed, in a slow phase `slow_factor` times that.

    A CPU that has slept is cold, and the next call takes up to three times as long as it would have: t is what a call takes
    when the one before it has just ended. What that is of the time measured is found out now and then by a second call,
    which for a model is harmless.
    """

    def __init__(self, emulation: Emulation, sleep: Callable[[float], None], clock: Callable[[], float]) -> None:
        self._emulation = emulation
        self._sleep = sleep
        self._clock = clock
        self._debt = 0.0
        self._slow_until = -1.0
        self._calls = 0
        self._warm_share = 1.0
        """Of the time that a call takes here, what it takes when the CPU is warm."""

    def begin_slow_phase(self) -> None:
        """Calls of the next `slow_seconds` are slow."""
        self._slow_until = self._clock() + self._emulation.slow_seconds

    def slow_phase(self) -> float:
        """How many times slower it is now: 1, or `slow_factor`."""
        return self._emulation.slow_factor if self._clock() < self._slow_until else 1.0

    def run(self, call: Callable[[], T]) -> T:
        """The call's result, after as long as it takes here."""
        factor = self.slow_phase() / self._emulation.speed
        if factor <= 1.0:
            return call()
        result, seconds = self._timed(call)
        self._debt += seconds * (self._warm_share * factor - 1.0)
        self._calls += 1
        if self._calls % _PROBE_CALLS == 0:
            warm = self._timed(call)[1]
            self._debt -= warm
            self._warm_share += _PROBE_WEIGHT * (min(1.0, warm / max(seconds, 1e-9)) - self._warm_share)
        if self._debt >= _DEBT_SECONDS:
            self._debt -= self._timed(lambda: self._sleep(self._debt))[1]
        return result

    def _timed(self, call: Callable[[], T]) -> tuple[T, float]:
        began = self._clock()
        result = call()
        return result, self._clock() - began


class Injector:
    """Runs calls of models at the device's pace, with its faults."""

    def __init__(
        self,
        source: FaultSource,
        emulation: Emulation,
        pace: Pace,
        sleep: Callable[[float], None],
        die: Callable[[], None],
    ) -> None:
        self._source = source
        self._hang_seconds = emulation.hang_seconds
        self.pace = pace
        self._sleep = sleep
        self._die = die

    def run(self, tokens: Sequence[Sequence[int]], call: Callable[[], T]) -> tuple[T, tuple[int, ...]]:
        """The result of a call that reads `tokens`, a row for each sequence, and the rows of it that are to be NaN.

        Raises:
            torch.OutOfMemoryError, RuntimeError: the fault that it meets.
        """
        fault = self._source.draw(tokens)
        if fault is not None:
            self._before(fault)
        result = self.pace.run(call)
        return result, fault.rows if fault is not None and fault.kind == "nan" else ()

    def _before(self, fault: Fault) -> None:
        if fault.kind == "oom":
            raise torch.OutOfMemoryError("an emulated device has no memory for this call")
        if fault.kind == "kernel":
            raise RuntimeError("a kernel of an emulated device failed")
        if fault.kind == "hang":
            self._sleep(self._hang_seconds)
        elif fault.kind == "slow":
            self.pace.begin_slow_phase()
        elif fault.kind == "die":
            self._die()


class EmulatedDecoder:
    """A decoder on an emulated device."""

    def __init__(self, model: Decoder, memory: EmulatedMemory, injector: Injector) -> None:
        memory.hold_model(self, model.resident_bytes)
        self._model = model
        self._memory = memory
        self._injector = injector

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""
        return self._model.vocabulary

    @property
    def context(self) -> int:
        """The most tokens of a sequence, prompt included."""
        return self._model.context

    @property
    def resident_bytes(self) -> int:
        """Bytes that its weights and tables hold."""
        return self._model.resident_bytes

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that the cache holds for each position of each slot."""
        return self._model.kv_bytes_per_token

    def new_cache(self, slots: int, tokens: int) -> KvCache:
        """An empty cache, which grows within the device's memory."""
        cache = self._model.new_cache(slots, tokens)
        self._memory.hold_cache(cache)
        return cache

    def prefill(self, tokens: Sequence[int], cache: KvCache, slot: int, start: int) -> torch.Tensor:
        """As the model does it. Raises `torch.OutOfMemoryError` and whatever a fault raises."""
        self._room(cache, slot + 1, start + len(tokens))
        hidden, spoilt = self._injector.run([tokens], lambda: self._model.prefill(tokens, cache, slot, start))
        return spoil(hidden, range(len(hidden)) if spoilt else ())

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], cache: KvCache, first_slot: int = 0
    ) -> torch.Tensor:
        """As the model does it. Raises `torch.OutOfMemoryError` and whatever a fault raises."""
        self._room(cache, first_slot + len(tokens), max(positions) + 1)
        rows = [[token] for token in tokens]
        hidden, spoilt = self._injector.run(rows, lambda: self._model.decode(tokens, positions, cache, first_slot))
        return spoil(hidden, spoilt)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """As the model does it; slower, without faults."""
        return self._injector.pace.run(lambda: self._model.logits(hidden))

    def _room(self, cache: KvCache, slots: int, tokens: int) -> None:
        if slots > cache.slots or tokens > cache.tokens:
            self._memory.want(
                cache.bytes_for(max(slots, cache.slots), max(tokens, cache.tokens)) - cache.resident_bytes
            )


class EmulatedTextModel:
    """A model that reads texts on an emulated device."""

    def __init__(self, model: TextModel, memory: EmulatedMemory, injector: Injector) -> None:
        memory.hold_model(self, model.resident_bytes)
        self._model = model
        self._injector = injector

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""
        return self._model.vocabulary

    @property
    def resident_bytes(self) -> int:
        """Bytes that its weights and tables hold."""
        return self._model.resident_bytes

    def hidden_states(self, batch: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """As the model does it. Raises whatever a fault raises."""
        (hidden, there), spoilt = self._injector.run(batch, lambda: self._model.hidden_states(batch))
        return spoil(hidden, spoilt), there


def spoil(values: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """`values` with NaN in these rows; untouched where there are none."""
    if not rows:
        return values
    spoilt = values.clone()
    spoilt[list(rows)] = float("nan")
    return spoilt
