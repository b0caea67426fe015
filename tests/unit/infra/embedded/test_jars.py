"""Kafka's jars: nothing runs that is not what the committed list says."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmos.infra.embedded import jars
from llmos.schemas.errors import ChecksumMismatch, MissingTool


def write_lock(path: Path, content: bytes = b"the jar", with_sum: bool = True) -> Path:
    sha256 = f'sha256 = "{hashlib.sha256(content).hexdigest()}"' if with_sum else ""
    path.write_text(f'[[jar]]\ncoordinate = "org.example:thing:1.0"\n{sha256}\n')
    return path


def test_a_jar_with_its_recorded_sum_is_used(tmp_path: Path) -> None:
    """A jar that hashes to what the lock says is on the class path."""
    lock = write_lock(tmp_path / "lock.toml")
    (tmp_path / "thing-1.0.jar").write_bytes(b"the jar")
    assert jars.class_path(tmp_path, lock) == [tmp_path / "thing-1.0.jar"]


def test_a_changed_jar_is_refused(tmp_path: Path) -> None:
    """One changed byte in a cached jar stops the start, and the message names the file."""
    lock = write_lock(tmp_path / "lock.toml")
    (tmp_path / "thing-1.0.jar").write_bytes(b"the jar!")
    with pytest.raises(ChecksumMismatch, match=r"thing-1\.0\.jar"):
        jars.class_path(tmp_path, lock)


def test_a_changed_sum_is_refused(tmp_path: Path) -> None:
    """A sum changed in the lock stops the start just as a changed jar does."""
    lock = write_lock(tmp_path / "lock.toml", content=b"another jar")
    (tmp_path / "thing-1.0.jar").write_bytes(b"the jar")
    with pytest.raises(ChecksumMismatch, match="recorded"):
        jars.class_path(tmp_path, lock)


def test_a_removed_sum_is_refused(tmp_path: Path) -> None:
    """A jar without a sum is not passed, as jgo's own check would."""
    lock = write_lock(tmp_path / "lock.toml", with_sum=False)
    (tmp_path / "thing-1.0.jar").write_bytes(b"the jar")
    with pytest.raises(ChecksumMismatch, match="records no sum"):
        jars.class_path(tmp_path, lock)


@pytest.mark.parametrize(
    "text", ["", "jar = []", "not toml [", '[[jar]]\nsha256 = "00"', '[[jar]]\ncoordinate = "a:b"']
)
def test_an_unreadable_lock_is_refused(tmp_path: Path, text: str) -> None:
    """A lock that is empty, cut or misshapen lets nothing run."""
    (tmp_path / "lock.toml").write_text(text)
    with pytest.raises(ChecksumMismatch):
        jars.read_lock(tmp_path / "lock.toml")


def test_without_jgo_the_message_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be fetched, the error names the setting for a broker that runs already."""
    monkeypatch.setitem(sys.modules, "jgo.maven", None)
    with pytest.raises(MissingTool, match=r"kafka\.bootstrap"):
        jars.class_path(tmp_path, write_lock(tmp_path / "lock.toml"))


class Repository:
    """Stands in for `jgo.maven` and `jgo.parse`: gives the bytes it was made with, or fails as a cut network does."""

    def __init__(self, content: bytes | None) -> None:
        self.content = content
        self.asked: list[str] = []

    def Coordinate(self, groupId: str, artifactId: str, version: str) -> str:  # noqa: N802, N803
        return f"{artifactId}-{version}.jar"

    def MavenContext(self, repo_cache: Path, timeout: int) -> SimpleNamespace:  # noqa: N802
        def dependency(name: str) -> SimpleNamespace:
            return SimpleNamespace(artifact=SimpleNamespace(resolve=lambda: self.resolve(repo_cache / name)))

        return SimpleNamespace(create_dependency=dependency)

    def resolve(self, file: Path) -> Path:
        self.asked.append(file.name)
        if self.content is None:
            raise ConnectionError("no route")
        file.write_bytes(self.content)
        return file


def use(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setattr(jars, "resolver_modules", lambda: (repository, repository))
    return repository


def test_a_missing_jar_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing jar is fetched before the check, and the next start does without the network."""
    repository = use(Repository(b"the jar"), monkeypatch)
    lock = write_lock(tmp_path / "lock.toml")
    cache = tmp_path / "cache"
    assert jars.class_path(cache, lock) == jars.class_path(cache, lock) == [cache / "thing-1.0.jar"]
    assert repository.asked == ["thing-1.0.jar"]
    assert [file.name for file in cache.iterdir()] == ["thing-1.0.jar"]


def test_a_wrong_download_never_reaches_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came from the network with another sum is refused and not kept."""
    use(Repository(b"cut"), monkeypatch)
    with pytest.raises(ChecksumMismatch):
        jars.class_path(tmp_path / "cache", write_lock(tmp_path / "lock.toml"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_unreachable_repository_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network error becomes a message for the operator."""
    use(Repository(None), monkeypatch)
    with pytest.raises(MissingTool, match="no route"):
        jars.class_path(tmp_path / "cache", write_lock(tmp_path / "lock.toml"))


def test_the_committed_lock_is_whole() -> None:
    """The list that ships has a sum for each jar, no jar twice, the broker and its log binding, and no host."""
    found = jars.read_lock()
    names = [jar.file for jar in found]
    assert len(names) == len(set(names)) == 46
    assert {"kafka_2.13-4.3.1.jar", "slf4j-simple-1.7.36.jar"} <= set(names)
    assert "://" not in jars.LOCK.read_text()
