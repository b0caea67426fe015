"""Which files of a model directory count, and what may not be there: pickles, code, links that lead out.

Hub caches are trees of links (`models--org--name/snapshots/<revision>/file` to `../../blobs/<hash>`), so a link may lead
out of its model's directory, as long as it stays inside of the directory that the settings name.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from llmos.pipelines.models.hashing import NOTHING_KNOWN, FileRecord, Hasher, Knowledge, Reading, Stamp
from llmos.pipelines.models.tensors import Tensor, read_tensor_file
from llmos.schemas.errors import ModelDamaged

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
JSON_BYTES = 64 * 1024 * 1024
"""The longest JSON file that is read whole, in bytes."""

PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})
"""Suffixes of files that are pickles or usually are; reading one can run code."""
CODE_KEYS = frozenset({"auto_map", "_attn_implementation_internal", "trust_remote_code"})
"""Configuration keys that ask for code from the model's author."""
CONFIGURATIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "chat_template.json",
)
"""Small files that decide how a model runs, in the model directory itself."""
CHAT_TEMPLATE = "chat_template.jinja"
"""How a conversation is written out for the model; else a field of tokenizer_config.json or chat_template.json."""
WEIGHTS = ".safetensors"
_HUB_HASH = re.compile(r"[0-9a-f]{64}")


class Contents:
    """A model directory, opened: every file is read once, and hashed as it is read."""

    def __init__(self, directory: Path, boundary: Path | None = None, known: Knowledge = NOTHING_KNOWN) -> None:
        """`boundary`: links may lead anywhere inside of it; by default it is the directory itself.

        Raises:
            ModelDamaged: the directory is not there, or not inside of the boundary.
        """
        self.directory = directory
        self.known = known
        self.records: dict[str, FileRecord] = {}
        """Each file that counts and was read, by its path in the directory."""
        try:
            self.root = directory.resolve(strict=True)
            self.boundary = (boundary or directory).resolve(strict=True)
        except (OSError, RuntimeError) as problem:
            raise self.damaged(str(problem)) from None
        if not self.root.is_relative_to(self.boundary):
            raise self.damaged(f"it leads out of {self.boundary}, to {self.root}")

    def damaged(self, problem: str) -> ModelDamaged:
        """The error to raise."""
        return ModelDamaged(directory=str(self.directory), problem=problem)

    def reject_unsafe(self) -> None:
        """Raises `ModelDamaged` for a pickle, or a link that leads out of the boundary or nowhere."""
        try:
            paths = list(walk(self.root))
        except OSError as problem:
            raise self.damaged(f"it cannot be listed: {problem}") from None
        for path in paths:
            relative = path.relative_to(self.root).as_posix()
            if path.is_symlink():
                self.inside(relative)
            if path.suffix.lower() in PICKLES:
                raise self.damaged(f"{relative} may be a pickle, which is never loaded; convert it to safetensors")

    def inside(self, relative: str) -> Path:
        """The file's place: below the directory, or where a link inside of the boundary leads. Raises `ModelDamaged`."""
        path = self.root / relative
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            raise self.damaged(f"{relative} is missing") from None
        if ".." in PurePosixPath(relative).parts or not target.is_relative_to(self.boundary):
            raise self.damaged(f"{relative} leads out of {self.boundary}, to {target}")
        return path

    def has(self, relative: str) -> bool:
        """Whether the file is there."""
        return (self.root / relative).is_file()

    def read(self, relative: str) -> bytes:
        """The bytes of a small file, noted as one that counts. Raises `ModelDamaged`."""
        path = self.inside(relative)
        try:
            with path.open("rb") as file:
                stamp = Stamp.of(os.fstat(file.fileno()))
                reading = Reading(stamp, self.known.boot)
                data = file.read(JSON_BYTES + 1)
                if len(data) > JSON_BYTES:
                    raise self.damaged(f"{relative} has more than {JSON_BYTES} bytes")
                hasher = Hasher()
                hasher.update(data)
                record = reading.record(*hasher.finish(), Stamp.of(os.fstat(file.fileno())))
        except (OSError, ValueError) as problem:
            raise self.damaged(f"{relative}: {problem}") from None
        self._note(relative, record)
        return data

    def tensors(self, relative: str) -> dict[str, Tensor]:
        """The tensors of a safetensors file, noted as one that counts. Raises `ModelDamaged`."""
        path = self.inside(relative)
        try:
            file = read_tensor_file(path, relative, self.known)
        except (OSError, ValueError) as problem:
            raise self.damaged(f"{relative}: {problem}") from None
        self._note(relative, file.record)
        return file.tensors

    def _note(self, relative: str, record: FileRecord) -> None:
        """Notes a file that was read, unless its bytes are not those that they should be.

        A model is known by its bytes, so other bytes are another model: whoever puts a new version in place of the old
        one gets just that. But bytes that changed while the file stayed the same by all that marks a new version are
        damage: weights of the same length in the very same place (a flipped bit, a torn write), or any file that was not
        modified as far as the file system knows (a disk that forgets). Files of a hub cache are named after their hash.
        """
        named = _HUB_HASH.fullmatch(name.name) if (name := _blob(self.root / relative)) else None
        if named and named[0] != record.sha256:
            raise self.damaged(f"{relative} does not have the SHA-256 that its file in the hub cache is named after")
        before = self.known.files.get(relative)
        if before is not None and before.sha256 != record.sha256 and self._comparable(before):
            then, now = before.stamp, record.stamp
            same_place = (then.inode, then.size) == (now.inode, now.size)
            if same_place and (relative.endswith(WEIGHTS) or then.mtime_ns == now.mtime_ns):
                raise self.damaged(
                    f"{relative} does not have the bytes any more that it had on {_day(before.read_at)}, in the same "
                    "place with the same length; if a new version was put there on purpose, rename the directory"
                )
        self.records[relative] = record

    def _comparable(self, before: FileRecord) -> bool:
        """A file that was still young when it was read may have been unfinished; a verification compares all the same."""
        return bool(before.boot) or self.known.since > 0

    def read_json(self, relative: str) -> Any:
        """The value in a JSON file, noted as one that counts. Raises `ModelDamaged`."""
        try:
            return msgspec.json.decode(self.read(relative))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise self.damaged(f"{relative} is not JSON: {problem}") from None

    def configuration(self, relative: str) -> Any:
        """The same, of a file that must not ask for code of its own."""
        value = self.read_json(relative)
        key = _code_key(value)
        if key is not None:
            raise self.damaged(f"{relative} asks for code that comes with the model ({key}); such code is never run")
        return value

    def mapping(self, relative: str) -> dict[str, Any]:
        """The same, of a file that holds a JSON object."""
        value = self.configuration(relative)
        if not isinstance(value, dict):
            raise self.damaged(f"{relative} is not a JSON object")
        return value


def walk(root: Path) -> Iterator[Path]:
    """Every file and every link below `root`; links are not followed, hidden folders are nobody's."""
    for folder, folders, files in os.walk(root, onerror=_fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(folder)
        yield from (here / name for name in folders if (here / name).is_symlink())
        yield from (here / name for name in sorted(files))


def _blob(path: Path) -> Path | None:
    """The file in a hub cache's `blobs` that a link leads to."""
    if not path.is_symlink():
        return None
    target = path.resolve()
    return target if target.parent.name == "blobs" and target.parent.parent.name.startswith("models--") else None


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def _fail(problem: OSError) -> None:
    raise problem


def _code_key(value: object) -> str | None:
    """The first key, at any depth, that asks for code."""
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, dict):
            found = CODE_KEYS & item.keys()
            if found:
                return min(found)
            rest.extend(item.values())
        elif isinstance(item, list):
            rest.extend(item)
    return None
