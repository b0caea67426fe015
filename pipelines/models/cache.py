"""What a machine knows of its models from one start to the next, in a file that all its processes share.

Losing the file, or a torn one, costs reading the models again and nothing else. It is written whole and renamed into its
place; a lock beside it lets one process read models while the others wait for what it finds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog

from llmos.pipelines.models.hashing import FileRecord, ReadingStopped, Stamp
from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.places import Look

log = structlog.get_logger()

VERSION = 1
"""Of the file's format, and of what manifests are made of it: a file of another version is not read."""


LOCK_SECONDS = 0.05
"""Between two tries to get the lock, so that a process that is told to stop does not wait for another's reading."""


class DirectoryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A model directory as it was found."""

    name: str
    look: Look
    """Of all its files, before they were read."""
    boot: str
    """The machine's boot under which it was read; empty: something in it was too young to be sure of it."""
    read_at: float
    """When all bytes of the model were last read, in Unix seconds: of the file for which that is longest ago."""
    manifest: Manifest | None = None
    """None: it is damaged."""
    problem: str = ""
    """Why it must not be used."""
    was: str = ""
    """The identity of the whole model that it was before it was damaged."""
    files: dict[str, FileRecord] = {}
    """Those that were read, also of a damaged model: as far as they were whole."""

    def holds(self, name: str, look: Look, boot: str) -> bool:
        """Whether it is still so, provably."""
        return (self.name, self.look, self.boot) == (name, look, boot)

    @property
    def identity(self) -> str:
        """Of the model that it is, or was before it was damaged; empty where it never was a whole one."""
        return self.was if self.manifest is None else self.manifest.identity

    def is_of(self, identity: str) -> bool:
        """Whether it is a whole model with this identity."""
        return self.manifest is not None and self.manifest.identity == identity

    def in_quarantine(self, problem: str, boot: str) -> DirectoryRecord:
        """The same, damaged: no file of it is trusted, whoever reads it next reads all of it."""
        files = {path: msgspec.structs.replace(file, suspect=True) for path, file in self.files.items()}
        return msgspec.structs.replace(
            self, manifest=None, problem=problem, was=self.identity, files=files, boot=boot, read_at=time.time()
        )


class _File(msgspec.Struct):
    version: int
    directories: dict[str, DirectoryRecord] = {}


class ModelCache:
    """The file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def locked(self, stopped: threading.Event) -> Iterator[None]:
        """Holds the machine's lock on its models; waits while another process reads them.

        Where the lock's file cannot be made, there is no cache either, and every process reads for itself.

        Raises:
            ReadingStopped: `stopped` was set while it waited.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            log.warning("model_cache_unlocked", path=str(self.path), problem=str(problem))
            yield
            return
        try:
            _lock(lock, stopped, self.path)
            yield
        finally:
            os.close(lock)

    def stamp(self) -> Stamp | None:
        """The file's stamp, None where there is none: tells whether another process wrote it."""
        try:
            return Stamp.of(self.path.stat())
        except OSError:
            return None

    def read(self) -> dict[str, DirectoryRecord]:
        """The records by directory; none where the file is not there, torn, or of another version."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as problem:
            log.warning("model_cache_unreadable", path=str(self.path), problem=str(problem))
            return {}
        try:
            file = _DECODER.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            log.warning("model_cache_unreadable", path=str(self.path), problem=str(problem))
            return {}
        return file.directories if file.version == VERSION else {}

    def write(self, records: Mapping[str, DirectoryRecord]) -> None:
        """Puts the records in place of those that are there; where that fails, they are read again the next time."""
        data = _ENCODER.encode(_File(version=VERSION, directories=dict(records)))
        try:
            with tempfile.NamedTemporaryFile(dir=self.path.parent, prefix=f"{self.path.name}.", delete=False) as file:
                try:
                    file.write(data)
                    file.flush()
                    os.replace(file.name, self.path)
                except OSError:
                    os.unlink(file.name)
                    raise
        except OSError as problem:
            log.warning("model_cache_unwritten", path=str(self.path), problem=str(problem))


def _lock(lock: int, stopped: threading.Event, path: Path) -> None:
    waited = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not waited:
                log.info("models_read_elsewhere", path=str(path))
            waited = True
            if stopped.wait(LOCK_SECONDS):
                raise ReadingStopped from None


def _encode_path(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} is not in a record")


def _decode_path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(f"{kind.__name__} is not in a record")


_ENCODER = msgspec.json.Encoder(enc_hook=_encode_path)
_DECODER = msgspec.json.Decoder(_File, dec_hook=_decode_path)
