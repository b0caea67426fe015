"""The wheel that users install, built as they get it: from the sdist."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# Building runs processes and reads files; nothing here is on a loop.
pytestmark = pytest.mark.may_block


def _build(target: str, source: Path, out: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)],
        cwd=source, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return next(out.glob("*.whl" if target == "wheel" else "*.tar.gz"))


def build_wheel(out: Path) -> Path:
    """The wheel, built in `out` from the sdist."""
    with tarfile.open(_build("sdist", ROOT, out)) as archive:
        archive.extractall(out / "source", filter="data")
    return _build("wheel", next((out / "source").iterdir()), out)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("dist"))


def test_the_wheel_holds_everything_that_is_imported_or_read(wheel: Path) -> None:
    """Every module, Lua script and shipped model of the checkout is in the wheel, and nothing lies beside `llmos`."""
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        "llmos/py.typed",
        "llmos/infra/embedded/kafka.lock.toml",
        "llmos/models/shakespeare-decoder/model.safetensors",
    }
    for folder in ("schemas", "infra", "pipelines", "services", "llmos/client", "llmos/cli"):
        prefix = "" if folder.startswith("llmos/") else "llmos/"
        for pattern in ("*.py", "*.lua"):
            wanted |= {prefix + path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob(pattern)}
    assert wanted <= names, sorted(wanted - names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"llmos"}


def test_the_installed_wheel_works_outside_of_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """From the unpacked wheel alone the command answers and finds the model that ships."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import llmos, sys; from llmos.cli import main; from llmos.pipelines.models.store import ModelStore, shipped_models;"
        "print(llmos.__file__); print([m.name for m in ModelStore(shipped_models()).scan().models.values()])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
    assert "shakespeare-decoder" in done.stdout
