"""How a device's back end is found."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from llmos.pipelines.engine import device as device_module
from llmos.pipelines.engine.accelerator import AcceleratorDevice
from llmos.pipelines.engine.cpu import CpuDevice
from llmos.pipelines.engine.device import BACK_ENDS, GROUP, back_ends, open_device
from llmos.pipelines.engine.discovery import DISCOVERIES
from llmos.pipelines.engine.discovery import GROUP as DISCOVERY_GROUP
from llmos.pipelines.engine.emulated import EmulatedDevice
from llmos.schemas.errors import BadSetting


def test_an_unknown_back_end_is_named() -> None:
    """A device whose back end is not there is an error that lists those that are."""
    with pytest.raises(BadSetting, match=r"'tpu'.*cpu, cuda, emulated, mps, xpu"):
        open_device("tpu:0/1")


def test_ours_are_found_without_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that was made before they had entry points has them nevertheless."""
    monkeypatch.setattr(device_module, "entry_points", lambda group: [])
    assert {kind: point.load() for kind, point in back_ends().items()} == {
        "cpu": CpuDevice,
        "cuda": AcceleratorDevice,
        "emulated": EmulatedDevice,
        "mps": AcceleratorDevice,
        "xpu": AcceleratorDevice,
    }


def test_packages_bring_kinds_but_cannot_take_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point makes a kind known; one under a kind of ours changes nothing."""
    here = f"{__name__}:Other"
    points = [EntryPoint("other", here, GROUP), EntryPoint("cpu", here, GROUP)]
    monkeypatch.setattr(device_module, "entry_points", lambda group: points)
    known = back_ends()
    assert known["other"].value == here
    assert known["cpu"].load() is CpuDevice


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("no_such_module:Device", r"\(no_such_module:Device\) cannot be loaded: No module"),
        ("llmos.pipelines.engine.cpu:NoSuchDevice", r"cannot be loaded: .*NoSuchDevice"),
        ("llmos.pipelines.engine.cpu:share_of", r"is not a Device"),
    ],
)
def test_a_broken_package_is_told(monkeypatch: pytest.MonkeyPatch, value: str, problem: str) -> None:
    """What cannot be loaded, or is no device, is an error that names the entry point."""
    monkeypatch.setattr(device_module, "entry_points", lambda group: [EntryPoint("other", value, GROUP)])
    with pytest.raises(BadSetting, match=rf"'other' .*{problem}"):
        open_device("other:0/1")


def test_the_package_declares_what_the_tables_say() -> None:
    """pyproject.toml has the same back ends and discoveries."""
    declared = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())["project"]["entry-points"]
    assert declared[GROUP] == BACK_ENDS
    assert declared[DISCOVERY_GROUP] == DISCOVERIES
