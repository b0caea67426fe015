"""How cores and memory are shared out, and that a thread stays on its share."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from llmos.infra.telemetry.host import memory
from llmos.pipelines.engine.cpu import fast_dtypes, share_of
from llmos.pipelines.engine.device import Device, open_device
from llmos.schemas.errors import BadSetting


@pytest.mark.parametrize(
    ("cores", "shares"),
    [
        ([0, 1, 2, 3], [[0, 1], [2, 3]]),
        ([0, 2, 5], [[0], [2, 5]]),
        ([7], [[7], [7], [7]]),
        ([4, 6], [[4], [6], [4]]),
    ],
)
def test_cores_are_shared_out(cores: list[int], shares: list[list[int]]) -> None:
    """Shares are disjoint and use every core while there are enough; beyond that cores are shared; none is empty."""
    assert [share_of(cores, k, len(shares)) for k in range(len(shares))] == shares


def test_an_activated_thread_stays_on_its_share() -> None:
    """Activation pins the calling thread and its torch threads, and nobody else."""
    device: Device = open_device("cpu:0/2")
    seen: list[tuple[set[int], int]] = []

    def run() -> None:
        device.activate()
        seen.append((os.sched_getaffinity(0), torch.get_num_threads()))

    before = os.sched_getaffinity(0)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout=30)
    assert seen == [(set(share_of(sorted(before), 0, 2)), device.threads)]
    assert os.sched_getaffinity(0) == before
    assert open_device("cpu:1/2").threads == len(share_of(sorted(before), 1, 2))


def test_what_another_thread_sets_does_not_slow_an_activated_one() -> None:
    """A load computes with one thread; an engine that has not computed yet keeps all that its share has."""
    device = open_device("cpu:0/1")
    if device.threads < 2:
        pytest.skip("one core: there is nothing to lose")
    found: list[int] = []

    def engine() -> None:
        device.activate()
        load = threading.Thread(target=torch.set_num_threads, args=(1,))
        load.start()
        load.join()
        found.append(torch.get_num_threads())

    before = torch.get_num_threads()
    try:
        thread = threading.Thread(target=engine)
        thread.start()
        thread.join()
    finally:
        torch.set_num_threads(before)
    assert found == [device.threads]


def test_memory_is_shared_out_too() -> None:
    """A share of two has half of what the process may use, and of that is free what this process does not hold."""
    device = open_device("cpu:1/2")
    assert 0 < device.memory_bytes == memory().total // 2
    assert (device.kind, device.label, device.spec) == ("cpu", "cpu1", "cpu:1/2")
    load = device.load()
    assert load.memory_bytes == device.memory_bytes
    assert load.memory_used_bytes > 0
    assert device.free_bytes() <= max(0, device.memory_bytes - load.memory_used_bytes // 2)


def test_bfloat16_is_fast_where_the_cpu_multiplies_it() -> None:
    """Weights are float32 unless a model wants what else is fast."""
    assert fast_dtypes(bfloat16=True) == {torch.float32, torch.bfloat16}
    assert fast_dtypes(bfloat16=False) == {torch.float32}
    device = open_device("cpu:0/1")
    assert device.dtype == torch.float32 in device.dtypes


def test_the_cpu_has_no_options() -> None:
    """An option is refused, not ignored."""
    with pytest.raises(BadSetting, match="cpu has no option 'speed'"):
        open_device("cpu:0/1?speed=0.5")
