"""Loads one model at a time in a thread of its own, beside whatever the engine thread does."""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable
from typing import TypeAlias

import psutil
import torch

from llmos.pipelines.engine.decoder import Engine
from llmos.pipelines.engine.device import Device
from llmos.pipelines.engine.encoder import Encoder
from llmos.pipelines.engine.loading import Plan, open_model
from llmos.pipelines.models.manifest import Manifest

Opened: TypeAlias = Engine | Encoder
Opener: TypeAlias = Callable[[Manifest, Device, Plan, Callable[[int, int], None]], Opened]


class LoadCancelled(Exception):
    """Nobody wants the model any more."""


class Load:
    """A load under way. The thread that asked reads it; the loader's thread writes it."""

    def __init__(self, manifest: Manifest, plan: Plan, report: Callable[[int, int], None]) -> None:
        self.manifest = manifest
        self.plan = plan
        self.done_bytes = 0
        self.of_bytes = manifest.weight_bytes
        self.opened: Opened | None = None
        self.problem: Exception | None = None
        """What ended it without a model; `LoadCancelled` where that was wished."""
        self.seconds = 0.0
        self.gained_bytes = 0
        """What the process (on the CPU) or the device had less of at the end, whatever else ran meanwhile counted too."""
        self._report = report
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """It ends at its next piece of bytes; where none comes any more, it ends as it would have."""
        self._cancelled.set()

    def progress(self, done: int, of: int) -> None:
        """For the loader's thread: so many bytes are read. Raises `LoadCancelled`."""
        self.done_bytes, self.of_bytes = done, of
        if self._cancelled.is_set():
            raise LoadCancelled
        self._report(done, of)


class Loader:
    """Owned by the engine thread: the loads' threads inherit its cores."""

    def __init__(self, device: Device, wake: Callable[[], None], opener: Opener | None = None) -> None:
        """`wake` is called in the loader's thread when a load has ended."""
        self._device = device
        self._wake = wake
        self._open_model = opener or _open
        self._ended: queue.SimpleQueue[Load] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, load: Load) -> None:
        """Begins a load. Raises `ValueError` where another one is under way."""
        if self._thread is not None:
            raise ValueError("a load is under way")
        self._thread = threading.Thread(target=self._run, args=(load,), name="loader", daemon=True)
        self._thread.start()

    def wait(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds for the load under way to end; whether none is under way any more."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self._thread is None or not self._thread.is_alive()

    def ended(self) -> Load | None:
        """The load that has ended since the last call."""
        try:
            load = self._ended.get_nowait()
        except queue.Empty:
            return None
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        return load

    def _run(self, load: Load) -> None:
        began, before = time.perf_counter(), self._used_bytes()
        try:
            self._device.activate()
            if self._device.torch_device.type == "cpu":
                # one thread, whatever the share: the cores are wanted by those that generate meanwhile
                torch.set_num_threads(1)
            load.opened = self._open_model(load.manifest, self._device, load.plan, load.progress)
        except Exception as problem:  # noqa: BLE001  whatever it was, those that wait for the model are told
            load.problem = problem
            _let_go_of_frames(problem)
        load.seconds = time.perf_counter() - began
        load.gained_bytes = self._used_bytes() - before
        self._ended.put(load)
        self._wake()

    def _used_bytes(self) -> int:
        """What is in use, in bytes, up to a constant."""
        if self._device.torch_device.type == "cpu":
            return int(psutil.Process().memory_info().rss)
        return -self._device.free_bytes()


def _open(manifest: Manifest, device: Device, plan: Plan, progress: Callable[[int, int], None]) -> Opened:
    return open_model(manifest, device, plan.sizes, progress)


def _let_go_of_frames(problem: BaseException | None) -> None:
    """The frames where it was raised hold the weights that were read so far; the problem outlives them."""
    while problem is not None:
        if problem.__traceback__ is not None:
            traceback.clear_frames(problem.__traceback__)
        problem = problem.__cause__ or problem.__context__
