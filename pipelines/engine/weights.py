"""The bytes of a model as tensors, hashed as they are read: what is used is what was verified, not a second reading."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import torch

from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.tensors import DTYPES, HEADER_BYTES, parse_header
from llmos.schemas.errors import ModelDamaged

CHUNK_BYTES = 4 * 1024 * 1024
"""Read and hashed at a time at most, in bytes; progress is told about as often."""
Progress = Callable[[int, int], None]
"""Told (bytes read, bytes in all)."""


def read_verified(manifest: Manifest, path: str) -> bytes:
    """The bytes of the manifest's file `path`.

    Raises:
        ModelDamaged: the file is not in the manifest, cannot be read, or has another size or SHA-256.
    """
    with _VerifiedFile(manifest, path, _nobody) as file:
        return bytes(file.read(file.size))


def read_json(manifest: Manifest, path: str) -> dict[str, Any]:
    """A verified JSON object. Raises `ModelDamaged`."""
    try:
        value: dict[str, Any] = msgspec.json.decode(read_verified(manifest, path), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise ModelDamaged(directory=manifest.directory, problem=f"{path}: {problem}") from problem
    return value


def has_file(manifest: Manifest, path: str) -> bool:
    """Whether the manifest lists `path`."""
    return any(entry.path == path for entry in manifest.files)


def load_weights(manifest: Manifest, progress: Progress | None = None) -> dict[str, torch.Tensor]:
    """All tensors of the model's safetensors files, each in memory of its own, as they are stored.

    Beside the tensors no copy of a file is made. `progress` is told the bytes read and the bytes in all.

    Raises:
        ModelDamaged: a file is not as the manifest says, or is not well-formed.
        MemoryError, RuntimeError: there is no memory for it.
    """
    # what lies in folders belongs to other parts
    files = [file for file in manifest.files if file.path.endswith(".safetensors") and "/" not in file.path]
    total, done, told = sum(file.size for file in files), 0, 0

    def report(count: int) -> None:
        nonlocal done, told
        done += count
        if progress is not None and (done - told >= CHUNK_BYTES or done == total):
            told = done
            progress(done, total)

    weights: dict[str, torch.Tensor] = {}
    for file in files:
        tensors = _read_tensors(manifest, file.path, report)
        twice = weights.keys() & tensors.keys()
        if twice:
            raise ModelDamaged(directory=manifest.directory, problem=f"{file.path}: {min(twice)} is there twice")
        weights |= tensors
    if not weights:
        raise ModelDamaged(directory=manifest.directory, problem="it has no weights in safetensors files")
    return weights


def _read_tensors(manifest: Manifest, path: str, report: Callable[[int], None]) -> dict[str, torch.Tensor]:
    with _VerifiedFile(manifest, path, report) as file:
        try:
            length = int.from_bytes(file.read(8), "little")
            if min(length, HEADER_BYTES) + 8 > file.size:
                raise ValueError("it is cut off within its header")
            entries = parse_header(bytes(file.read(min(length, HEADER_BYTES))), file.size - 8 - length)
        except ValueError as problem:
            file.finish()  # where the bytes are not those of the manifest, that is what is wrong
            raise ModelDamaged(directory=manifest.directory, problem=f"{path}: {problem}") from problem
        tensors = {}
        for name, entry in sorted(entries.items(), key=lambda item: item[1].begin):
            tensors[name] = torch.empty(entry.shape, dtype=getattr(torch, DTYPES[entry.dtype][0]))
            if entry.end > entry.begin:
                file.read_into(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return tensors


class _VerifiedFile:
    """A file of a manifest that is read once from its beginning to its end, and hashed on the way.

    Nothing of it may be used before the block around it was left without an error.
    """

    def __init__(self, manifest: Manifest, path: str, report: Callable[[int], None]) -> None:
        entry = next((entry for entry in manifest.files if entry.path == path), None)
        if entry is None:
            raise ModelDamaged(directory=manifest.directory, problem=f"it has no file {path}")
        self.size = entry.size
        self._sha256 = entry.sha256
        self._manifest = manifest
        self._path = path
        self._report = report
        self._digest = hashlib.sha256()
        self._read = 0

    def __enter__(self) -> _VerifiedFile:
        try:
            self._file = (self._manifest.directory / self._path).open("rb", buffering=0)
        except OSError as problem:
            raise self._damaged(str(problem)) from problem
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: object, trace: object) -> None:
        with self._file:
            if kind is None:
                self.finish()

    def read(self, count: int) -> bytearray:
        """The next `count` bytes, fewer only where the manifest's size ends. Raises `ModelDamaged`."""
        data = bytearray(max(0, min(count, self.size - self._read)))
        self.read_into(memoryview(data))
        return data

    def read_into(self, view: memoryview) -> None:
        """Fills `view` with what comes next. Raises `ModelDamaged`."""
        done = 0
        while done < len(view):
            try:
                count = self._file.readinto(view[done : done + CHUNK_BYTES])
            except OSError as problem:
                raise self._damaged(str(problem)) from problem
            if not count:
                raise self._damaged(f"it does not have {self.size} bytes any more")
            self._digest.update(view[done : done + count])
            done += count
            self._report(count)
        self._read += done

    def finish(self) -> None:
        """Reads what is left. Raises `ModelDamaged` where it is not the file that the manifest lists."""
        while self._read < self.size:
            self.read(CHUNK_BYTES)
        if self._file.read(1):
            raise self._damaged(f"it does not have {self.size} bytes any more")
        if self._digest.hexdigest() != self._sha256:
            raise self._damaged("it does not have its SHA-256")

    def _damaged(self, problem: str) -> ModelDamaged:
        return ModelDamaged(directory=self._manifest.directory, problem=f"{self._path}: {problem}")


def _nobody(count: int) -> None:
    """Told of progress that nobody follows."""


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
        """The tensor, on the device and in its dtype, and from now on the taker's no more.

        Raises:
            ModelDamaged: it is not there, or is of another shape.
        """
        tensor = self._weights.pop(name, None)
        if tensor is None:
            raise ModelDamaged(directory=self._directory, problem=f"tensor {name} is missing")
        if tuple(tensor.shape) != shape:
            raise ModelDamaged(
                directory=self._directory,
                problem=f"tensor {name} has shape {tuple(tensor.shape)} and not {shape}",
            )
        return tensor.to(self._device, self._dtype).contiguous()

    def finish(self, ignored: Callable[[str], bool]) -> None:
        """Raises `ModelDamaged` where a tensor was not used: the model is not what this code computes."""
        left = [name for name in self._weights if not ignored(name)]
        self._weights.clear()
        if left:
            raise ModelDamaged(
                directory=self._directory, problem=f"tensor {min(left)} is not one that this engine knows"
            )


def tensor_bytes(tensors: Iterable[torch.Tensor | None]) -> int:
    """Bytes of the distinct storages behind `tensors`, packed ones too: what they truly hold in memory."""
    sizes: dict[int, int] = {}
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.is_mkldnn:
            sizes[id(tensor)] = int(torch.ops.mkldnn._nbytes(tensor))
        else:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())
