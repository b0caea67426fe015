"""The bytes of a model, hashed as they are read, as tensors: what is parsed is what was verified, not a second reading."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import torch

from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.tensors import DTYPES, Tensor, parse_header
from llmos.schemas.errors import ModelDamaged

CHUNK_BYTES = 4 * 1024 * 1024
"""Read and hashed at a time, in bytes; progress is told as often."""
Progress = Callable[[int, int], None]
"""Told (bytes read, bytes in all)."""


def read_verified(manifest: Manifest, path: str, report: Callable[[int], None] | None = None) -> bytearray:
    """The bytes of the manifest's file `path`; `report` is told how many bytes each chunk had.

    Raises:
        ModelDamaged: the file is not in the manifest, cannot be read, or has another size or SHA-256.
    """
    entry = next((entry for entry in manifest.files if entry.path == path), None)
    if entry is None:
        raise ModelDamaged(directory=manifest.directory, problem=f"it has no file {path}")
    size = entry.size
    data, digest, done = bytearray(size), hashlib.sha256(), 0
    view = memoryview(data)
    try:
        with (manifest.directory / path).open("rb", buffering=0) as file:
            while done < size and (count := file.readinto(view[done : done + CHUNK_BYTES])):
                digest.update(view[done : done + count])
                done += count
                if report is not None:
                    report(count)
            longer = bool(file.read(1))
    except OSError as problem:
        raise ModelDamaged(directory=manifest.directory, problem=f"{path}: {problem}") from problem
    if done < size or longer:
        raise ModelDamaged(directory=manifest.directory, problem=f"{path} does not have {size} bytes any more")
    if digest.hexdigest() != entry.sha256:
        raise ModelDamaged(directory=manifest.directory, problem=f"{path} does not have its SHA-256")
    return data


def read_json(manifest: Manifest, path: str) -> dict[str, Any]:
    """A verified JSON object. Raises `ModelDamaged`."""
    try:
        value: dict[str, Any] = msgspec.json.decode(bytes(read_verified(manifest, path)), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise ModelDamaged(directory=manifest.directory, problem=f"{path}: {problem}") from problem
    return value


def has_file(manifest: Manifest, path: str) -> bool:
    """Whether the manifest lists `path`."""
    return any(entry.path == path for entry in manifest.files)


def load_weights(manifest: Manifest, progress: Progress | None = None) -> dict[str, torch.Tensor]:
    """All tensors of the model's safetensors files, as views of the bytes that were hashed.

    A view keeps its whole file in memory: copy what is to stay and drop the rest. `progress` is told the bytes read
    and the bytes in all.

    Raises:
        ModelDamaged: a file is not as the manifest says, or is not well-formed.
    """
    files = [file for file in manifest.files if file.path.endswith(".safetensors")]
    total, done = sum(file.size for file in files), 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    weights: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            tensors = parse_safetensors(read_verified(manifest, file.path, report))
        except ValueError as problem:
            raise ModelDamaged(directory=manifest.directory, problem=f"{file.path}: {problem}") from problem
        twice = weights.keys() & tensors.keys()
        if twice:
            raise ModelDamaged(directory=manifest.directory, problem=f"{file.path}: {min(twice)} is there twice")
        weights |= tensors
    if not weights:
        raise ModelDamaged(directory=manifest.directory, problem="it has no weights in safetensors files")
    return weights


def parse_safetensors(data: bytearray) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file as views of `data`. Raises `ValueError` where it is not well-formed."""
    body = 8 + int.from_bytes(data[:8], "little")
    if len(data) < body:
        raise ValueError("it is cut off within its header")
    entries = parse_header(bytes(data[8:body]), len(data) - body)
    return {name: _view(data, entry, body + entry.begin) for name, entry in entries.items()}


def _view(data: bytearray, entry: Tensor, offset: int) -> torch.Tensor:
    dtype: torch.dtype = getattr(torch, DTYPES[entry.dtype][0])
    count = math.prod(entry.shape)
    if count == 0:
        return torch.empty(entry.shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype, count=count, offset=offset).reshape(entry.shape)


class WeightTaker:
    """Takes the tensors of a checkpoint one by one, so that at the end nothing was missed and nothing is left over."""

    def __init__(
        self, weights: dict[str, torch.Tensor], directory: object, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._weights = weights
        self._directory = directory
        self._device = device
        self._dtype = dtype

    def has(self, name: str) -> bool:
        """Whether the checkpoint still holds `name`."""
        return name in self._weights

    def take(self, name: str, *shape: int) -> torch.Tensor:
        """A copy of the tensor, on the device and in its dtype. Raises `ModelDamaged` where it is not there, or is of another shape."""
        tensor = self._weights.pop(name, None)
        if tensor is None:
            raise ModelDamaged(directory=self._directory, problem=f"tensor {name} is missing")
        if tuple(tensor.shape) != shape:
            raise ModelDamaged(
                directory=self._directory,
                problem=f"tensor {name} has shape {tuple(tensor.shape)} and not {shape}",
            )
        return tensor.to(self._device, self._dtype, copy=True).contiguous()

    def optional(self, name: str, *shape: int) -> torch.Tensor | None:
        """The tensor, None where the checkpoint has none. Raises `ModelDamaged`."""
        return self.take(name, *shape) if self.has(name) else None

    def finish(self, ignored: Callable[[str], bool]) -> None:
        """Raises `ModelDamaged` where a tensor was not used: the model is not what this code computes."""
        left = [name for name in self._weights if not ignored(name)]
        self._weights.clear()
        if left:
            raise ModelDamaged(
                directory=self._directory, problem=f"tensor {min(left)} is not one that this engine knows"
            )


def tensor_bytes(tensors: Iterable[torch.Tensor | None]) -> int:
    """Bytes of the distinct storages behind `tensors`: what they truly hold in memory."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in tensors
        if tensor is not None
    }
    return sum(storages.values())
