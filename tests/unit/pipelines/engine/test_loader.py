"""Loads in a thread of their own: progress, ends, cancels, and what they leave behind."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from llmos.pipelines.engine.device import Device, open_device
from llmos.pipelines.engine.loader import Load, LoadCancelled, Loader, Opened
from llmos.pipelines.engine.loading import Plan, Sizes, open_model
from llmos.pipelines.models.manifest import Manifest
from llmos.schemas.errors import ModelDamaged

PATIENCE_SECONDS = 30.0
PLAN = Plan(Sizes(1), 1, 0, 0)


class Bench:
    """A loader and what was heard of it."""

    def __init__(self, opener: Callable[..., Opened] | None = None) -> None:
        self.woken = threading.Event()
        self.heard: list[tuple[int, int]] = []
        self.threads: set[str] = set()
        self.loader = Loader(open_device("cpu:0/1"), self.woken.set, opener)

    def begin(self, manifest: Manifest) -> Load:
        def report(done: int, of: int) -> None:
            self.threads.add(threading.current_thread().name)
            self.heard.append((done, of))

        load = Load(manifest, PLAN, report)
        self.loader.begin(load)
        return load

    def end(self) -> Load:
        assert self.loader.wait(PATIENCE_SECONDS)
        load = self.loader.ended()
        assert load is not None
        return load


def test_a_model_is_opened_beside(llama: Manifest) -> None:
    """In a thread of its own that uses one core; its progress is heard, its end wakes who waits, and it is told once."""
    threads: list[int] = []

    def opener(manifest: Manifest, device: Device, plan: Plan, progress: Any) -> Opened:
        threads.append(torch.get_num_threads())
        return open_model(manifest, device, plan.sizes, progress)

    bench = Bench(opener)
    torch.set_num_threads(2)
    begun = bench.begin(llama)
    load = bench.end()
    assert load is begun
    assert (load.opened is not None, load.problem) == (True, None)
    assert bench.woken.is_set()
    assert bench.threads == {"loader"}
    assert bench.heard[-1][0] == bench.heard[-1][1] == load.done_bytes == load.of_bytes > 0
    assert load.seconds > 0
    assert threads == [1]
    assert torch.get_num_threads() == 2, "that of other threads is theirs"
    assert bench.loader.ended() is None


def test_one_at_a_time(llama: Manifest) -> None:
    """A second one is a programming error; afterwards the next may begin."""
    hold = threading.Event()

    def opener(*_: Any) -> Opened:
        assert hold.wait(PATIENCE_SECONDS)
        raise OSError("gone")

    bench = Bench(opener)
    bench.begin(llama)
    assert not bench.loader.wait(0.0)
    with pytest.raises(ValueError, match="under way"):
        bench.begin(llama)
    hold.set()
    assert isinstance(bench.end().problem, OSError)
    bench.begin(llama)
    bench.end()


def test_a_cancelled_load_ends_at_its_next_bytes(llama: Manifest) -> None:
    """Without a model, and without a fault."""
    begun, go_on = threading.Event(), threading.Event()

    def opener(manifest: Manifest, device: Device, plan: Plan, progress: Any) -> Opened:
        begun.set()
        assert go_on.wait(PATIENCE_SECONDS)
        return open_model(manifest, device, plan.sizes, progress)

    bench = Bench(opener)
    load = bench.begin(llama)
    assert begun.wait(PATIENCE_SECONDS)
    load.cancel()
    go_on.set()
    assert isinstance(bench.end().problem, LoadCancelled)
    assert load.opened is None


def test_a_failed_load_holds_no_memory(llama: Manifest) -> None:
    """The problem is kept for those who wait; what was read until then is not."""
    read: list[weakref.ref[torch.Tensor]] = []

    def opener(*_: Any) -> Opened:
        weights = torch.zeros(10)
        read.append(weakref.ref(weights))
        try:
            raise ValueError("inner")
        except ValueError as problem:
            raise ModelDamaged(directory="d", problem="a flipped bit") from problem

    bench = Bench(opener)
    bench.begin(llama)
    load = bench.end()
    assert isinstance(load.problem, ModelDamaged)
    assert read[0]() is None
