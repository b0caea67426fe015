"""The manifest of a model directory: its identity, its files with their hashes, its sizes, and what it can do."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import msgspec

from llmos.pipelines.models.contents import CONFIGURATIONS, INDEX, SINGLE, Contents
from llmos.pipelines.models.tensors import DTYPES, Tensor, read_tensor_file
from llmos.schemas.limits import Name

ARCHITECTURES = {"LlamaForCausalLM": "generate", "BertModel": "embed"}
"""Architectures that run here, and the task kind of each."""
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


def make_manifest(directory: Path, name: str) -> Manifest:
    """Reads and hashes the model in `directory`. Blocks for about as long as reading its files takes.

    Of the weights those count that `transformers` would load: `model.safetensors`, else the shards that
    `model.safetensors.index.json` names, else the only safetensors file there is.

    Raises:
        ModelDamaged: a file is missing, cut off, not well-formed or unsafe, or the name is not one.
    """
    contents = Contents(directory)
    contents.reject_unsafe()
    configurations = _configurations(contents)
    config = configurations["config.json"]
    tensors = _weights(contents)
    architecture = _architecture(contents, config)
    kinds = _kinds(contents, architecture, configurations.get("modules.json"))
    if contents.has("tokenizer.json"):
        contents.read("tokenizer.json")
    elif kinds:
        raise contents.damaged("tokenizer.json is missing")
    _check_name(contents, name)
    files = [ModelFile(path, size, sha256) for path, (size, sha256) in sorted(contents.hashes.items())]
    whole_number = _required if kinds else _optional
    return Manifest(
        identity=identity_of(files),
        name=name,
        directory=contents.root,
        architecture=architecture,
        model_type=_text(config.get("model_type")),
        kinds=kinds,
        files=files,
        parameters=sum(tensor.parameters for tensor in tensors.values()),
        weight_bytes=sum(tensor.end - tensor.begin for tensor in tensors.values()),
        dtype=_main_dtype(tensors.values()),
        context_tokens=_context_tokens(contents, configurations, bool(kinds)),
        vocabulary=whole_number(contents, config, "vocab_size"),
        hidden_size=whole_number(contents, config, "hidden_size"),
        licence=_licence(contents.root / "README.md"),
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


def _kinds(contents: Contents, architecture: str, modules: object) -> list[str]:
    kind = ARCHITECTURES.get(architecture)
    stages = {stage["type"].rpartition(".")[2] for stage in _stages(contents, modules)}
    if kind is None or (kind == "embed" and not stages <= EMBEDDING_STAGES):
        return []
    return [kind]


def _architecture(contents: Contents, config: Mapping[str, Any]) -> str:
    value = config.get("architectures") or []
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise contents.damaged("config.json: architectures is not a list of names")
    return value[0][:128] if value else ""


def _weights(contents: Contents) -> dict[str, Tensor]:
    if contents.has(SINGLE):
        return _tensors(contents, SINGLE)
    if contents.has(INDEX):
        return _shards(contents)
    found = sorted(path.name for path in contents.root.glob("*.safetensors"))
    if len(found) != 1:
        several = f"it has {len(found)} safetensors files and no {INDEX}"
        raise contents.damaged(several if found else f"it has no weights ({SINGLE} or {INDEX})")
    return _tensors(contents, found[0])


def _tensors(contents: Contents, relative: str) -> dict[str, Tensor]:
    """The tensors of one file, noted as one that counts."""
    path = contents.inside(relative)
    try:
        file = read_tensor_file(path)
    except (OSError, ValueError) as problem:
        raise contents.damaged(f"{relative}: {problem}") from None
    contents.hashes[relative] = (file.size, file.sha256)
    return file.tensors


def _shards(contents: Contents) -> dict[str, Tensor]:
    """The tensors of all shards, which must be where the index says, each once."""
    try:
        places = msgspec.convert(contents.read_json(INDEX), _Index).weight_map
    except msgspec.ValidationError as problem:
        raise contents.damaged(f"{INDEX}: {problem}") from None
    found: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        if PurePosixPath(shard).suffix != ".safetensors" or ".." in PurePosixPath(shard).parts:
            raise contents.damaged(f"{INDEX} names {shard!r}, which is no shard")
        for name, tensor in _tensors(contents, shard).items():
            if places.get(name) != shard:
                raise contents.damaged(f"{shard} holds {name!r}, which {INDEX} places elsewhere or nowhere")
            found[name] = tensor
    missing = places.keys() - found.keys()
    if missing or not places:
        raise contents.damaged(f"{INDEX} names tensors that no shard holds: {', '.join(sorted(missing)[:3])}")
    return found


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def _main_dtype(tensors: Iterable[Tensor]) -> str:
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[DTYPES[tensor.dtype][0]] += tensor.end - tensor.begin
    return sizes.most_common(1)[0][0] if sizes else ""


def _context_tokens(contents: Contents, configurations: Mapping[str, Any], needed: bool) -> int:
    """What the positions allow, and an encoder's own shorter limit, if it has one."""
    config = configurations["config.json"]
    tokens = (_required if needed else _optional)(contents, config, "max_position_embeddings")
    sentence = configurations.get("sentence_bert_config.json")
    shorter = _optional(contents, sentence, "max_seq_length") if isinstance(sentence, dict) else 0
    return min(tokens, shorter) if tokens and shorter else tokens


def _required(contents: Contents, config: Mapping[str, Any], field: str) -> int:
    value = _optional(contents, config, field)
    if value < 1:
        raise contents.damaged(f"config.json: {field} is {config.get(field)!r} and not a whole number of at least 1")
    return value


def _optional(contents: Contents, config: Mapping[str, Any], field: str) -> int:
    value = config.get(field)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


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
