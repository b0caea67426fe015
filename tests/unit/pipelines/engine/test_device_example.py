"""The example of a back end: built, installed, found by its entry points, and held to what every device must do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
EXAMPLE = ROOT / "examples" / "device_backend"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the built package in it, as an installer leaves it."""
    work = tmp_path_factory.mktemp("example")
    source, target = work / "source", work / "target"
    shutil.copytree(EXAMPLE, source)
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    made = subprocess.run(
        [sys.executable, "-c", build, str(work)], cwd=source, timeout=60, check=True, capture_output=True, text=True
    )
    with zipfile.ZipFile(work / made.stdout.split()[-1]) as wheel:
        wheel.extractall(target)
    return target


def run(installed: Path, code: str, **environment: str) -> str:
    """What a process prints that has the package installed."""
    path = os.pathsep.join([str(installed), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        timeout=100,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_is_found_and_conforms(installed: Path) -> None:
    """Its kind is known by the entry point alone, and it passes the kit, computing in its own dtype."""
    code = """
from llmos.pipelines.engine.conformance import check_device
from llmos.pipelines.engine.device import open_device
device = open_device("toy:1/2?memory=3000000000")
check_device(device)
print(type(device).__module__, device.label, device.memory_bytes, device.dtype)
"""
    assert run(installed, code).split() == ["llmos_toy_device", "toy1", "3000000000", "torch.float64"]


def test_a_node_finds_the_example_without_torch(installed: Path) -> None:
    """Discovery gives the specs that its function says, and imports no torch."""
    code = """
import sys
from llmos.pipelines.engine.discovery import discover
print([spec for spec in discover() if spec.startswith("toy")], "torch" in sys.modules)
"""
    assert run(installed, code, TOY_DEVICES="2").splitlines()[-1] == "['toy:0/2', 'toy:1/2'] False"
