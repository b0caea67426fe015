"""Kafka's jars: fetched once, and every one compared with its committed SHA-256 before each start.

The lock names coordinates and sums and no host. `jgo` fetches from the Maven repository that it is set up for; its own
check passes entries without a sum, so the comparison is made here.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llmos.schemas.errors import ChecksumMismatch, MissingTool

LOCK = Path(__file__).with_name("kafka.lock.toml")

DOWNLOAD = "45 MB"
"""All of them together."""
_CONNECT_SECONDS = 30
_ELSEWHERE = "set kafka.bootstrap to use a broker that runs already"


class Jar(NamedTuple):
    """A jar by its Maven coordinate, and what its bytes must hash to (hexadecimal)."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        """Its name in the cache."""
        return f"{self.artifact}-{self.version}.jar"


def read_lock(path: Path = LOCK) -> tuple[Jar, ...]:
    """The jars of the lock.

    Raises:
        ChecksumMismatch: the lock is unreadable, or a jar has no sum: nothing may run unchecked.
    """
    try:
        rows = tomllib.loads(path.read_text())["jar"]
        jars = tuple(_row(path, row) for row in rows)
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as problem:
        raise ChecksumMismatch(file=path, problem=f"the list of sums cannot be read ({problem})") from None
    if not jars:
        raise ChecksumMismatch(file=path, problem="the list of sums is empty")
    return jars


def _row(path: Path, row: dict[str, str]) -> Jar:
    group, artifact, version = row["coordinate"].split(":")
    sum_ = row.get("sha256", "")
    if len(sum_) != 64:
        raise ChecksumMismatch(file=f"{artifact}-{version}.jar", problem=f"{path.name} records no sum for it")
    return Jar(group, artifact, version, sum_)


def default_directory() -> Path:
    """The cache in the user's home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmos" / "jars"


def class_path(directory: Path | None = None, lock: Path = LOCK) -> list[Path]:
    """Checked jars, in the lock's order; what is missing in `directory` is fetched first. Blocks; call it in a thread.

    Raises:
        ChecksumMismatch: a jar is changed, or the lock has no sum for it.
        MissingTool: a jar cannot be obtained.
    """
    jars = read_lock(lock)
    place = directory or default_directory()
    missing = [jar for jar in jars if not (place / jar.file).is_file()]
    if missing:
        fetch(missing, place)
    for jar in jars:
        check(place / jar.file, jar)
    return [place / jar.file for jar in jars]


def check(file: Path, jar: Jar) -> None:
    """Raises `ChecksumMismatch` unless the bytes of `file` are those of `jar`."""
    found = digest(file)
    if found != jar.sha256:
        raise ChecksumMismatch(file=file, problem=f"found {found}, recorded {jar.sha256}")


def digest(file: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(jars: Sequence[Jar], directory: Path) -> None:
    """Brings jars into `directory`: each is checked before it gets its place there, so that a cut download never does.

    Raises:
        ChecksumMismatch: what came is not what the lock says.
        MissingTool: `jgo` is not installed, or the repository cannot be reached.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        maven, parse = resolver_modules()
        with tempfile.TemporaryDirectory(dir=directory, prefix="fetch-") as scratch:
            context = maven.MavenContext(repo_cache=Path(scratch), timeout=_CONNECT_SECONDS)
            for jar in jars:
                coordinate = parse.Coordinate(groupId=jar.group, artifactId=jar.artifact, version=jar.version)
                got = Path(context.create_dependency(coordinate).artifact.resolve())
                check(got, jar)
                got.replace(directory / jar.file)
    except (OSError, RuntimeError) as problem:  # requests' errors are OSErrors
        raise MissingTool(
            tool=f"Kafka ({len(jars)} jars are not in {directory})",
            remedy=f"fetching them failed ({type(problem).__name__}: {problem}); {_ELSEWHERE}",
        ) from problem


def resolver_modules() -> tuple[Any, Any]:
    """`jgo.maven` and `jgo.parse`, of the extra `embedded`: loaded only where something must be fetched.

    Raises:
        MissingTool: the extra is not installed.
    """
    try:
        return importlib.import_module("jgo.maven"), importlib.import_module("jgo.parse")
    except ImportError:
        raise MissingTool(tool="jgo", remedy=f"install llmos[embedded], which fetches Kafka, or {_ELSEWHERE}") from None
