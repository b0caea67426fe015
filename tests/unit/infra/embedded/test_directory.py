"""The state directory: one owner at a time, one layout, files that are never half written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmos.infra.embedded.directory import StateDirectory, holder, read_json, write_json
from llmos.infra.embedded.identity import is_alive, started_at
from llmos.infra.embedded.ports import free_port, is_free
from llmos.schemas.errors import AlreadyRunning, LayoutMismatch


def test_a_second_owner_is_refused(tmp_path: Path) -> None:
    """While one holds the directory a second one is told who does; afterwards it gets it."""
    first = StateDirectory.take(tmp_path / "state")
    assert holder(tmp_path / "state") == os.getpid()
    with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}"):
        StateDirectory.take(tmp_path / "state")
    first.release()
    first.release()
    assert holder(tmp_path / "state") is None
    StateDirectory.take(tmp_path / "state").release()


def test_a_dead_owner_holds_nothing(tmp_path: Path) -> None:
    """A process that ended without a goodbye leaves the directory free."""
    code = "import os, sys; from pathlib import Path; from llmos.infra.embedded.directory import StateDirectory\n"
    code += "StateDirectory.take(Path(sys.argv[1])); os._exit(0)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)
    assert holder(tmp_path) is None
    StateDirectory.take(tmp_path).release()


def test_another_layout_is_refused(tmp_path: Path) -> None:
    """Data of another layout is left alone, and the lock is free again."""
    StateDirectory.take(tmp_path).release()
    (tmp_path / "layout").write_text("999")
    with pytest.raises(LayoutMismatch, match="layout 999"):
        StateDirectory.take(tmp_path)
    assert holder(tmp_path) is None


def test_nobody_holds_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """Looking for the owner makes nothing."""
    assert holder(tmp_path / "none") is None
    assert list(tmp_path.iterdir()) == []


def test_a_broken_run_file_is_none(tmp_path: Path) -> None:
    """Whoever reads a run file gets an object or None."""
    write_json(tmp_path / "a.json", {"pid": 1})
    assert read_json(tmp_path / "a.json") == {"pid": 1}
    (tmp_path / "b.json").write_text("[1]")
    (tmp_path / "c.json").write_text('{"pid": ')
    assert [read_json(tmp_path / name) for name in ("b.json", "c.json", "d.json")] == [None, None, None]


def test_a_process_is_known_by_id_and_start() -> None:
    """We live; our id with another start time is somebody else; an id without a start time proves nothing."""
    here = {"pid": os.getpid(), "started_at": started_at(os.getpid())}
    assert is_alive(here)
    assert not is_alive(here | {"started_at": 1})
    assert not is_alive({"pid": os.getpid()})
    assert started_at(2**22 + 1) is None


def test_a_free_port_lies_below_outgoing_connections() -> None:
    """The port is free, is not one of those taken, and no outgoing connection gets it by chance."""
    port = free_port()
    assert is_free(port)
    assert 10_240 <= port < 32_768
    assert free_port(frozenset({port})) != port
