"""Which devices a node has, and what their workers are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmos.infra.settings import load
from llmos.schemas.errors import BadSetting
from llmos.services.node.devices import devices, worker_specs


def test_each_share_of_the_cpu_is_a_device(tmp_path: Path) -> None:
    """Names hold the node's; each worker is told its share, and a file and a log of its own."""
    settings = load(state_directory=tmp_path, node={"name": "n1", "cpu_devices": 3, "devices": []})
    assert devices(settings, []) == {"n1.cpu0": "cpu:0/3", "n1.cpu1": "cpu:1/3", "n1.cpu2": "cpu:2/3"}
    spec = worker_specs(settings)["n1.cpu1"]
    assert spec.command[1:] == ("-m", "llmos", "run", "worker")
    assert spec.log == tmp_path / "logs" / "worker-n1.cpu1.log"
    assert spec.environment is not None
    assert spec.environment["LLMOS_WORKER__DEVICE"] == "cpu:1/3"
    assert spec.environment["LLMOS_TELEMETRY__PORT"] == "0"


@pytest.mark.parametrize(
    ("node", "found", "expected"),
    [
        ({"cpu_devices": 0}, [], {}),
        (
            {"cpu_devices": 1},
            ["cuda:0/2", "cuda:1/2"],
            {"n.cpu0": "cpu:0/1", "n.cuda0": "cuda:0/2", "n.cuda1": "cuda:1/2"},
        ),
        ({"devices": ["xpu:0/1"]}, ["cuda:0/1"], {"n.xpu0": "xpu:0/1"}),
        (
            {"devices": ["cpu:0/2", "emulated:1/2?speed=0.5&seed=7"]},
            [],
            {"n.cpu0": "cpu:0/2", "n.emulated1": "emulated:1/2?speed=0.5&seed=7"},
        ),
    ],
)
def test_named_devices_go_before_those_that_are_found(
    node: dict[str, object], found: list[str], expected: dict[str, str]
) -> None:
    """Nothing named: the CPU's shares and what was found; else exactly what was named, options and all."""
    assert devices(load(node={"name": "n", **node}), found) == expected


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        (["cpu"], r"kind:k/n"),
        (["cpu:0/1", "cpu:0/2"], r"cpu:0/1 and cpu:0/2 would both be n\.cpu0"),
        (["emulated:0/2", "emulated:0/2?speed=0.5"], r"both be n\.emulated0"),
    ],
)
def test_devices_that_cannot_be_stop_the_start(named: list[str], problem: str) -> None:
    """What is no spec, and two devices of one name, are errors that name the setting."""
    with pytest.raises(BadSetting, match=rf"node\.devices.*{problem}"):
        devices(load(node={"name": "n", "devices": named}), [])


def test_a_worker_reads_its_device_as_the_node_wrote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options survive the way through the environment."""
    spec = "emulated:0/1?speed=0.33&memory=2000000000&faults=nan:0.01,oom:0.02&seed=7"
    environment = worker_specs(load(state_directory=tmp_path, node={"devices": [spec]}))["node-0.emulated0"].environment
    assert environment is not None
    for name, value in environment.items():
        if name.startswith("LLMOS_"):
            monkeypatch.setenv(name, value)
    assert load().worker.device == spec


def test_workers_drain_within_the_nodes_own_time(tmp_path: Path) -> None:
    """A worker is given less time to drain than the node has, so that the node sees it end."""
    settings = load(state_directory=tmp_path, telemetry={"drain_seconds": 10.0})
    (spec, *_) = worker_specs(settings).values()
    assert spec.environment is not None
    assert float(spec.environment["LLMOS_TELEMETRY__DRAIN_SECONDS"]) == 8.0
