"""The manifest of a model directory: its identity, its files with their hashes, its sizes, and what it can do."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import msgspec

from llmos.pipelines.models.architectures import ability_of
from llmos.pipelines.models.contents import CHAT_TEMPLATE, CONFIGURATIONS, INDEX, SINGLE, WEIGHTS, Contents
from llmos.pipelines.models.sizes import read_sizes, whole_number
from llmos.pipelines.models.tensors import DTYPES, Tensor
from llmos.schemas.limits import Name

EMBEDDING_STAGES = frozenset({"Transformer", "Pooling", "Normalize"})
"""Stages of modules.json that run here."""
_FRONT_MATTER_LICENCE = re.compile(r"\A---\n(?:(?!---).*\n)*?license:[ \t]*([A-Za-z0-9._+-]+)[ \t]*\n")
_CARD_CHARACTERS = 64 * 1024


class ModelFile(NamedTuple):
    """A file that counts: its path in the directory, size in bytes, SHA-256 in hex."""

    path: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a model directory is. Two directories with the same files have the same identity, whatever their names."""

    identity: str
    """SHA-256 in hex over the sorted paths and hashes of `files`; see `identity_of`."""
    name: str
    directory: Path
    architecture: str
    """The first of the configuration's architectures; empty when it names none."""
    model_type: str
    kinds: list[str]
    """Task kinds that it can do here; empty: nothing here can run it."""
    files: list[ModelFile]
    """Every file that decides what the model computes, sorted by path."""
    parameters: int
    weight_bytes: int
    """Bytes of all tensors, as stored."""
    dtype: str
    """The dtype of most bytes, by torch's name."""
    context_tokens: int
    """Tokens that the model can see at once; 0: unknown."""
    vocabulary: int
    hidden_size: int
    licence: str
    """As its card says; empty: it does not."""
    chunks: dict[str, list[str]] = {}
    """Of each weight file, by its path: SHA-256 in hex of each 16 MiB (`hashing.CHUNK_BYTES`), in order, so that reading
    can verify as it goes."""
    kv_bytes_per_token: int = 0
    """Keys and values of one token of one sequence in `dtype`; 0: it keeps none."""
    chat: bool = False
    """It has a template for conversations."""
    native: bool = True
    """An engine of llmos runs it; else, where it has a kind, the slower one of `transformers`."""


def make_manifest(directory: Path, name: str) -> Manifest:
    """Reads and hashes the model in `directory`. Blocks for about as long as reading its files takes.

    Raises:
        ModelDamaged: a file is missing, cut off, not well-formed or unsafe, or the name is not one.
    """
    return read_manifest(Contents(directory), name)


def read_manifest(contents: Contents, name: str) -> Manifest:
    """The same of a directory that was opened; `contents.records` has what was read, also when this raises.

    Of the weights those count that `transformers` would load: `model.safetensors`, else the shards that
    `model.safetensors.index.json` names, else the only safetensors file there is.

    Raises:
        ModelDamaged: a file is missing, cut off, not well-formed or unsafe, or the name is not one.
    """
    _check_name(contents, name)
    contents.reject_unsafe()
    configurations = _configurations(contents)
    config = configurations["config.json"]
    architecture = _architecture(contents, config)
    kind, native = ability_of(architecture)
    if kind == "embed" and not _stages_run_here(contents, configurations.get("modules.json")):
        kind = None
    sizes = read_sizes(contents, config, architecture, kind, native)
    chat = _chat(contents, configurations)
    _read_tokenizer(contents, needed=kind is not None)
    tensors = _weights(contents)
    dtype, itemsize = _main_dtype(tensors.values())
    records = sorted(contents.records.items())
    files = [ModelFile(path, record.stamp.size, record.sha256) for path, record in records]
    return Manifest(
        identity=identity_of(files),
        name=name,
        directory=contents.root,
        architecture=architecture,
        model_type=_text(config.get("model_type")),
        kinds=[kind] if kind else [],
        files=files,
        parameters=sum(tensor.parameters for tensor in tensors.values()),
        weight_bytes=sum(tensor.end - tensor.begin for tensor in tensors.values()),
        dtype=dtype,
        context_tokens=_context_tokens(configurations, sizes.context_tokens),
        vocabulary=sizes.vocabulary,
        hidden_size=sizes.hidden_size,
        licence=_licence(contents.root / "README.md"),
        chunks={path: record.chunks for path, record in records if path.endswith(WEIGHTS)},
        kv_bytes_per_token=sizes.kv_numbers_per_token * itemsize,
        chat=chat and kind == "generate",
        native=native,
    )


def identity_of(files: Iterable[ModelFile]) -> str:
    """SHA-256 in hex over `path NUL sha256 LF` of every file, sorted by path."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.path}\0{file.sha256}\n".encode())
    return digest.hexdigest()


def _configurations(contents: Contents) -> dict[str, Any]:
    """Every configuration by its path, config.json among them."""
    values: dict[str, Any] = {"config.json": contents.mapping("config.json")}
    others = [name for name in CONFIGURATIONS if name != "config.json" and contents.has(name)]
    for name in others:
        values[name] = contents.configuration(name)
    for stage in _stages(contents, values.get("modules.json")):
        path = (PurePosixPath(stage["path"]) / "config.json").as_posix()
        if path not in values and contents.has(path):
            values[path] = contents.configuration(path)
    return values


def _stages(contents: Contents, modules: object) -> list[dict[str, str]]:
    """The stages of modules.json: each with a type and a path."""
    try:
        return [{"type": stage.type, "path": stage.path} for stage in msgspec.convert(modules or [], list[_Stage])]
    except msgspec.ValidationError as problem:
        raise contents.damaged(f"modules.json: {problem}") from None


class _Stage(msgspec.Struct):
    type: str
    path: str


def _stages_run_here(contents: Contents, modules: object) -> bool:
    """An embedding that would pass through another stage must not be made without it."""
    return {stage["type"].rpartition(".")[2] for stage in _stages(contents, modules)} <= EMBEDDING_STAGES


def _chat(contents: Contents, configurations: Mapping[str, Any]) -> bool:
    """Whether it has a chat template, wherever `transformers` would find one."""
    if contents.has(CHAT_TEMPLATE):
        contents.read(CHAT_TEMPLATE)
        return True
    for name in ("tokenizer_config.json", "chat_template.json"):
        place = configurations.get(name)
        template = place.get("chat_template") if isinstance(place, dict) else None
        if isinstance(template, list):  # several, by name
            return any(isinstance(one, dict) and one.get("name") == "default" for one in template)
        if template is not None:
            return isinstance(template, str)
    return False


def _read_tokenizer(contents: Contents, needed: bool) -> None:
    if contents.has("tokenizer.json"):
        contents.read("tokenizer.json")
    elif needed:
        raise contents.damaged(
            "tokenizer.json is missing; `AutoTokenizer.from_pretrained(…).save_pretrained(…)` of transformers makes one "
            "from the tokenizer files of an older model"
        )


def _architecture(contents: Contents, config: Mapping[str, Any]) -> str:
    value = config.get("architectures") or []
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise contents.damaged("config.json: architectures is not a list of names")
    return value[0][:128] if value else ""


def _weights(contents: Contents) -> dict[str, Tensor]:
    if contents.has(SINGLE):
        return contents.tensors(SINGLE)
    if contents.has(INDEX):
        return _shards(contents)
    found = sorted(path.name for path in contents.root.glob("*.safetensors"))
    if len(found) != 1:
        several = f"it has {len(found)} safetensors files and no {INDEX}"
        raise contents.damaged(several if found else f"it has no weights ({SINGLE} or {INDEX})")
    return contents.tensors(found[0])


def _shards(contents: Contents) -> dict[str, Tensor]:
    """The tensors of all shards, which must be where the index says, each once."""
    try:
        places = msgspec.convert(contents.read_json(INDEX), _Index).weight_map
    except msgspec.ValidationError as problem:
        raise contents.damaged(f"{INDEX}: {problem}") from None
    found: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        if PurePosixPath(shard).suffix != WEIGHTS or ".." in PurePosixPath(shard).parts:
            raise contents.damaged(f"{INDEX} names {shard!r}, which is no shard")
        for name, tensor in contents.tensors(shard).items():
            if places.get(name) != shard:
                raise contents.damaged(f"{shard} holds {name!r}, which {INDEX} places elsewhere or nowhere")
            found[name] = tensor
    missing = places.keys() - found.keys()
    if missing or not places:
        raise contents.damaged(f"{INDEX} names tensors that no shard holds: {', '.join(sorted(missing)[:3])}")
    return found


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def _main_dtype(tensors: Iterable[Tensor]) -> tuple[str, int]:
    """The dtype of most bytes, by torch's name, and the bytes of a number of it."""
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.end - tensor.begin
    if not sizes:
        return "", 0
    name, bits = DTYPES[sizes.most_common(1)[0][0]]
    return name, bits // 8


def _context_tokens(configurations: Mapping[str, Any], tokens: int) -> int:
    """What the positions allow, and an encoder's own shorter limit, if it has one."""
    sentence = configurations.get("sentence_bert_config.json")
    shorter = whole_number(sentence, "max_seq_length") if isinstance(sentence, dict) else 0
    return min(tokens, shorter) if tokens and shorter else tokens


def _text(value: object) -> str:
    return value[:128] if isinstance(value, str) else ""


def _check_name(contents: Contents, name: str) -> None:
    try:
        msgspec.convert(name, Name)
    except msgspec.ValidationError as problem:
        raise contents.damaged(f"{name!r} cannot be a model's name: {problem}; rename the directory") from None


def _licence(card: Path) -> str:
    """The licence in the card's front matter. A card decides nothing, so a missing or odd one is no damage."""
    try:
        with card.open(encoding="utf-8", errors="replace") as file:
            found = _FRONT_MATTER_LICENCE.match(file.read(_CARD_CHARACTERS))
    except OSError:
        return ""
    return found[1] if found else ""
