"""Redis: which server program is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmos.infra.embedded.redis_server import find_server, version_of
from llmos.schemas.errors import MissingTool


def pretend(path: Path, version: str) -> Path:
    """A program that prints what `redis-server --version` prints."""
    path.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=00000000:0 malloc=libc bits=64'\n")
    path.chmod(0o755)
    return path


def test_the_one_on_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that the machine has goes before the package's."""
    server = pretend(tmp_path / "redis-server", "7.2.4")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert version_of(server) == (7, 2)
    assert find_server() == server


def test_one_that_is_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old redis-server gives way to a valkey-server."""
    pretend(tmp_path / "redis-server", "5.0.14")
    valkey = pretend(tmp_path / "valkey-server", "8.0.1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_server() == valkey


def test_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the setting for a server that runs already."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingTool, match=r"redis\.url"):
        find_server()
