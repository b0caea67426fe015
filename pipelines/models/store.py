"""Directories of models: found, hashed, and verified again on demand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from llmos.pipelines.models.manifest import Manifest, make_manifest
from llmos.pipelines.models.shipped import packaged_models, shipped_models
from llmos.schemas.errors import BadSetting, ModelDamaged, ModelUnavailable

__all__ = ["ModelStore", "Scan", "shipped_models"]


class Scan(NamedTuple):
    """What a scan found."""

    models: dict[str, Manifest]
    """Whole models by identity; of two copies, the one that was found first."""
    damaged: list[tuple[Path, ModelDamaged]]
    """Directories that look like models and cannot be used, with the reason."""


class ModelStore:
    """The models in some directories. Every method blocks for as long as it reads; call it off the event loop."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self.directories = tuple(directories)
        self._models: dict[str, Manifest] = {}

    def scan(self) -> Scan:
        """Reads and hashes every model anew.

        Raises:
            BadSetting: one of the store's directories is not there.
        """
        models: dict[str, Manifest] = {}
        damaged = []
        packaged = packaged_models()
        for directory in self._candidates():
            package = packaged.get(directory.resolve())
            try:
                manifest = make_manifest(directory, package.name if package else directory.name)
            except ModelDamaged as problem:
                damaged.append((directory, problem))
                continue
            if package:
                manifest = msgspec.structs.replace(manifest, licence=package.licence)
            models.setdefault(manifest.identity, manifest)
        self._models = models
        return Scan(dict(models), damaged)

    def by_identity(self, identity: str) -> Manifest:
        """The manifest that the last scan made. Raises `ModelUnavailable` when it found no such model."""
        try:
            return self._models[identity]
        except KeyError:
            raise ModelUnavailable(
                model=identity, device="this node", problem="it is in none of its model directories"
            ) from None

    def verify(self, manifest: Manifest) -> None:
        """Hashes the model again. Raises `ModelDamaged` that names the file that changed."""
        now = {file.path: file for file in make_manifest(manifest.directory, manifest.name).files}
        then = {file.path: file for file in manifest.files}
        for path in sorted(now.keys() | then.keys()):
            if now.get(path) != then.get(path):
                change = "is new" if path not in then else "is gone" if path not in now else "has changed"
                raise ModelDamaged(directory=str(manifest.directory), problem=f"{path} {change} since it was scanned")

    def _candidates(self) -> Iterator[Path]:
        """A directory with a config.json is a model; otherwise each of its children that has one."""
        for directory in self.directories:
            if not directory.is_dir():
                raise BadSetting(setting="node.models_directories", problem=f"there is no directory {directory}")
            if (directory / "config.json").is_file():
                yield directory.absolute()
            else:
                yield from (
                    child.absolute()
                    for child in sorted(directory.iterdir())
                    if not child.name.startswith(".") and (child / "config.json").is_file()
                )
