"""What devices are called, how cores are shared out, and that a thread stays on its share."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch

from llmos.pipelines.engine.cpu import memory_bytes, share_of
from llmos.pipelines.engine.device import Device, open_device
from llmos.pipelines.engine.specs import DeviceSpec, device_label, parse_spec
from llmos.schemas.errors import BadSetting


@pytest.mark.parametrize(
    ("spec", "parsed", "label"),
    [
        ("cpu:0/1", DeviceSpec("cpu", 0, 1), "cpu0"),
        ("cpu:3/4", DeviceSpec("cpu", 3, 4), "cpu3"),
        ("cuda:1/8", DeviceSpec("cuda", 1, 8), "cuda1"),
    ],
)
def test_a_spec_names_its_device(spec: str, parsed: DeviceSpec, label: str) -> None:
    """Kind, share and number of shares are read, and the label is kind and share."""
    assert parse_spec(spec) == parsed
    assert device_label(spec) == label
    assert parse_spec(parsed.text) == parsed


@pytest.mark.parametrize(
    "spec", ["", "cpu", "cpu:", "cpu:0", "cpu:1/1", "cpu:2/1", "cpu:-1/2", "cpu:0/0", "CPU:0/1", "cpu:0/1 ", "cpu:a/b"]
)
def test_a_bad_spec_stops_the_start(spec: str) -> None:
    """What is not kind:k/n with k below n is an error that names the setting."""
    with pytest.raises(BadSetting, match=r"worker\.device"):
        parse_spec(spec)


def test_an_unknown_back_end_is_named() -> None:
    """A device whose back end is not there is an error that lists those that are."""
    with pytest.raises(BadSetting, match=r"'tpu'.*cpu"):
        open_device("tpu:0/1")


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


def test_memory_is_shared_out_too() -> None:
    """A share of two has half of what the process may use."""
    device = open_device("cpu:1/2")
    assert 0 < device.memory_bytes == memory_bytes() // 2
    assert (device.kind, device.label, device.spec) == ("cpu", "cpu1", "cpu:1/2")


def test_reading_a_spec_does_not_import_torch() -> None:
    """A node learns its devices' labels without torch."""
    code = "import sys; from llmos.pipelines.engine.specs import device_label; device_label('cpu:0/1'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
