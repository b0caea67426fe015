"""Directories of models: found, hashed once, watched, verified again on demand, and put in quarantine when damaged."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

from llmos.infra.settings.tree import Settings
from llmos.pipelines.models.cache import DirectoryRecord, ModelCache
from llmos.pipelines.models.examining import examine, youngest_ns
from llmos.pipelines.models.hashing import Knowledge, Stamp, boot_id
from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.places import Look, Place, look_at, places_in
from llmos.pipelines.models.shipped import packaged_models, shipped_models
from llmos.schemas.errors import BadSetting, ModelDamaged, ModelUnavailable

__all__ = ["Damaged", "ModelStore", "Scan", "shipped_models", "store_of"]


P = ParamSpec("P")
T = TypeVar("T")

CACHE = "models.json"
"""The cache's file in the state directory."""


class Damaged(NamedTuple):
    """A directory that looks like a model and must not be used."""

    directory: Path
    problem: ModelDamaged
    name: str = ""


class Scan(NamedTuple):
    """What a scan found."""

    models: dict[str, Manifest]
    """Whole models by identity; of two copies, the one that was found first."""
    damaged: list[Damaged]
    read_at: float = 0.0
    """When all bytes were last read (Unix seconds): of the directory for which that is longest ago; 0 without any."""


class ModelStore:
    """The models in some directories. Every method but `by_identity` may block for as long as it reads; call it off the
    event loop.

    With a `cache`, what provably did not change since it was read is not read again, by this process or another.
    """

    def __init__(self, directories: Sequence[Path], cache: Path | None = None) -> None:
        self.directories = tuple(directories)
        self._cache = ModelCache(cache) if cache is not None else None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._records: dict[str, DirectoryRecord] = {}
        """By directory, in the order in which they are found."""
        self._seen: dict[str, Look] = {}
        """At the last look."""
        self._quiet: set[str] = set()
        """Directories that were the same at the last look as at the one before."""
        self._cache_stamp: Stamp | None = None
        self._scanned = False
        self._models: dict[str, Manifest] = {}

    def scan(self, settle_seconds: float = 0.0) -> Scan:
        """Looks at every directory, and reads the models that are new or changed.

        With `settle_seconds`, directories are left as they were while something in them still changes: a copy that is
        not finished is no damage. Still changing is what was not the same at the last two looks (`changed`), or, before
        the first one, a damaged model of which something is younger than that.

        Raises:
            BadSetting: at the first scan, one of the store's directories is not there.
        """
        return self._take(0.0, settle_seconds)

    def changed(self) -> bool:
        """Whether a scan would find something new that has been the same for two looks; reads no file of a model."""
        with self._lock:
            looks = {str(place.directory): look_at(place) for place in self._places()}
            self._quiet = {key for key, look in looks.items() if look == self._seen.get(key)}
            self._seen = looks
            if self._cache is not None and self._cache.stamp() != self._cache_stamp:
                return True  # another process found something
            if self._records.keys() - looks.keys():
                return True
            return any(not self._is_read(key, looks[key]) for key in self._quiet)

    def by_identity(self, identity: str) -> Manifest:
        """The manifest of a whole model. Raises `ModelUnavailable` when the last scan found no such model."""
        try:
            return self._models[identity]
        except KeyError:
            raise self._unavailable(identity) from None

    def verify_all(self, since: float | None = None, settle_seconds: float = 0.0) -> Scan:
        """A scan that reads all bytes again, but for those that were read since then (Unix seconds; none: now)."""
        return self._take(time.time() if since is None else since, settle_seconds)

    def verify(self, identity: str, since: float | None = None) -> Scan:
        """Reads all bytes of one model again, also of one in quarantine.

        Raises:
            ModelDamaged: it has not the bytes that it had; it is in quarantine then, or another model.
            ModelUnavailable: the last scan found no such model, nor what was left of it.
        """
        then = {key: record for key, record in self._records.items() if record.identity == identity}
        if not then:
            raise self._unavailable(identity)
        found = self._take(time.time() if since is None else since, 0.0, only=identity)
        for key, before in then.items():
            now = self._records.get(key)
            if now is None or not now.is_of(identity):
                raise ModelDamaged(directory=key, problem=_difference(before, now))
        return found

    def quarantine(self, identity: str, problem: str) -> Scan:
        """Puts a model in quarantine that was found damaged when it was used, for every process that shares the cache,
        until its files change or are verified. Where another copy of it is whole, that one is used from now on."""
        with self._lock, self._shared() as stored:
            if identity in self._models:
                key = self._key_of(identity)
                record = self._records[key].in_quarantine(problem, boot_id())
                self._records = {**self._records, key: record}
                self._keep(stored, stored | {key: record})
            return self._found()

    def stop(self) -> None:
        """Whatever reads ends soon, with `ReadingStopped`: for when the process ends."""
        self._stopped.set()

    async def in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of a call of this store, made in a thread. When it is cancelled, reading stops: an event loop waits
        for its threads when it closes."""
        try:
            return await asyncio.to_thread(call, *args, **kwargs)
        except asyncio.CancelledError:
            self.stop()
            raise

    def _take(self, since: float, settle_seconds: float, only: str | None = None) -> Scan:
        """Reads what is not known; what is known but was read before `since` as well, of all models or `only` of one."""
        with self._lock, self._shared() as stored:
            records, unsettled = {}, {}
            for place in self._places():
                key = str(place.directory)
                before = stored.get(key) or self._records.get(key)
                again = since if only is None or (before is not None and before.identity == only) else 0.0
                record = self._read(place, before, again, settle_seconds)
                if record is not None:
                    records[key] = record
                elif before is not None:
                    unsettled[key] = before
            self._records = records
            self._scanned = True
            roots = [root.absolute() for root in self.directories if root.is_dir()]
            others = {
                key: record
                for key, record in stored.items()
                if not any(Path(key).is_relative_to(root) for root in roots)
            }
            self._keep(stored, others | unsettled | records)
            return self._found()

    def _read(
        self, place: Place, before: DirectoryRecord | None, since: float, settle_seconds: float
    ) -> DirectoryRecord | None:
        """The record of a place, new or as before; None: it has not settled, and this process knows nothing of it."""
        key, look, boot = str(place.directory), look_at(place), boot_id()
        if before is not None and before.holds(place.name, look, boot) and before.read_at >= since:
            return before
        as_read = before is not None and before.look == look
        quiet = key in self._quiet and self._seen[key] == look
        if settle_seconds and self._seen and not (as_read or quiet):
            return self._records.get(key)
        began = time.time()
        files, was = (before.files, before.identity) if before is not None else ({}, "")
        record = examine(place, look, Knowledge(files, boot, since, self._stopped.is_set), was)
        young = youngest_ns(look) / 1e9 > began - settle_seconds
        if record.problem and settle_seconds and not self._seen and young:
            return None
        return record

    def _is_read(self, key: str, look: Look) -> bool:
        """Whether the last scan took what is there now, and so late that the look proves it."""
        record = self._records.get(key)
        return record is not None and record.look == look and bool(record.boot)

    def _places(self) -> Iterator[Place]:
        packaged = packaged_models()
        for directory in self.directories:
            if directory.is_dir():
                for place in places_in(directory):
                    package = packaged.get(place.directory.resolve())
                    yield place._replace(name=package.name, licence=package.licence) if package else place
            elif not self._scanned:
                raise BadSetting(setting="node.models_directories", problem=f"there is no directory {directory}")

    @contextlib.contextmanager
    def _shared(self) -> Iterator[dict[str, DirectoryRecord]]:
        """What the machine knows, while nobody else changes it."""
        if self._cache is None:
            yield {}
            return
        with self._cache.locked(self._stopped):
            yield self._cache.read()

    def _keep(self, stored: dict[str, DirectoryRecord], records: dict[str, DirectoryRecord]) -> None:
        """Takes the records of this process as what there is, and writes down what the machine knows if that is new."""
        models: dict[str, Manifest] = {}
        for record in self._records.values():
            if record.manifest is not None:
                models.setdefault(record.manifest.identity, record.manifest)
        self._models = models
        if self._cache is not None:
            if records != stored:
                self._cache.write(records)
            self._cache_stamp = self._cache.stamp()

    def _key_of(self, identity: str) -> str:
        return next(key for key, record in self._records.items() if record.is_of(identity))

    def _unavailable(self, identity: str) -> ModelUnavailable:
        return ModelUnavailable(model=identity, device="this node", problem="it is in none of its model directories")

    def _found(self) -> Scan:
        damaged = [
            Damaged(Path(key), ModelDamaged(directory=key, problem=record.problem), record.name)
            for key, record in self._records.items()
            if record.manifest is None
        ]
        read_at = min((record.read_at for record in self._records.values()), default=0.0)
        return Scan(dict(self._models), damaged, read_at)


def store_of(settings: Settings) -> ModelStore:
    """The models of this machine: those that ship, those that the settings name; known in the state directory."""
    return ModelStore([*shipped_models(), *settings.node.models_directories], settings.state_directory / CACHE)


def _difference(then: DirectoryRecord, now: DirectoryRecord | None) -> str:
    """What became of a model: names a file that is not as it was, where that can be known."""
    if now is None:
        return "it is gone"
    if now.manifest is None:
        return now.problem
    if then.manifest is None:
        return "it is another model now"
    before, after = ({file.path: file for file in record.files} for record in (then.manifest, now.manifest))
    path = next(path for path in sorted(before.keys() | after.keys()) if before.get(path) != after.get(path))
    change = "is new" if path not in before else "is gone" if path not in after else "has changed"
    return f"{path} {change} since it was scanned"
