"""Manifests of whole models, and the damage that a directory can have."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llmos.pipelines.models.contents import INDEX, SINGLE
from llmos.pipelines.models.manifest import Manifest, make_manifest
from llmos.schemas.errors import ModelDamaged


def edit(path: Path, **values: object) -> None:
    """Sets fields of a JSON object in a file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def shard(directory: Path) -> None:
    """Splits the model's weights into two shards with an index."""
    tensors = load_file(directory / SINGLE)
    (directory / SINGLE).unlink()
    places = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(places.values()):
        save_file({name: tensors[name] for name, place in places.items() if place == file}, directory / file)
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def problem_of(directory: Path) -> str:
    """What is wrong with a directory."""
    with pytest.raises(ModelDamaged) as caught:
        make_manifest(directory, "decoder")
    assert str(directory) in str(caught.value)
    return str(caught.value)


def test_the_shipped_decoder_is_what_its_files_say(decoder_manifest: Manifest) -> None:
    """Every number comes from the configuration or the tensors, and every hash is that of the file."""
    manifest = decoder_manifest
    config = json.loads((manifest.directory / "config.json").read_text())
    tensors = load_file(manifest.directory / SINGLE)
    assert manifest.kinds == ["generate"]
    assert (manifest.architecture, manifest.model_type) == ("LlamaForCausalLM", "llama")
    assert (manifest.dtype, manifest.licence) == ("float32", "apache-2.0")
    assert manifest.parameters == sum(tensor.size for tensor in tensors.values())
    assert manifest.weight_bytes == sum(tensor.nbytes for tensor in tensors.values())
    assert manifest.context_tokens == config["max_position_embeddings"]
    assert (manifest.vocabulary, manifest.hidden_size) == (config["vocab_size"], config["hidden_size"])
    for path, size, sha256 in manifest.files:
        data = (manifest.directory / path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (size, sha256)
    assert [file.path for file in manifest.files] == [
        "config.json",
        "generation_config.json",
        SINGLE,
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_identity_is_that_of_the_content(decoder: Path, decoder_manifest: Manifest) -> None:
    """A copy under another name is the same model; cards do not count; one changed byte makes another model."""
    (decoder / "README.md").unlink()
    (decoder / "notes.txt").write_text("mine")
    assert make_manifest(decoder, "other").identity == decoder_manifest.identity
    config = (decoder / "config.json").read_text()
    (decoder / "config.json").write_text(config + "\n")
    assert make_manifest(decoder, "other").identity != decoder_manifest.identity


def test_a_flipped_byte_of_a_weight_is_another_identity(decoder: Path, decoder_manifest: Manifest) -> None:
    """A weight's bits cannot be judged alone, so they are in the identity."""
    data = bytearray((decoder / SINGLE).read_bytes())
    data[-1] ^= 1
    (decoder / SINGLE).write_bytes(data)
    assert make_manifest(decoder, "decoder").identity != decoder_manifest.identity


def test_shards_are_read_through_their_index(decoder: Path, decoder_manifest: Manifest) -> None:
    """Two shards hold what the one file held, and the index counts as a file."""
    shard(decoder)
    manifest = make_manifest(decoder, "decoder")
    assert manifest.parameters == decoder_manifest.parameters
    assert manifest.weight_bytes == decoder_manifest.weight_bytes
    assert {INDEX, "model-00001-of-00002.safetensors"} <= {file.path for file in manifest.files}


def test_an_unknown_architecture_is_whole_and_does_nothing(decoder: Path) -> None:
    """Not every model runs here; one that does not is no damage, even without the fields that ours have."""
    (decoder / "config.json").write_text(json.dumps({"architectures": ["Other"], "model_type": "other"}))
    manifest = make_manifest(decoder, "decoder")
    assert (manifest.kinds, manifest.architecture, manifest.context_tokens) == ([], "Other", 0)


def test_a_link_within_the_directory_is_allowed(decoder: Path, decoder_manifest: Manifest) -> None:
    """Only links that lead out are refused."""
    (decoder / SINGLE).rename(decoder / "blob")
    (decoder / SINGLE).symlink_to("blob")
    assert make_manifest(decoder, "decoder").identity == decoder_manifest.identity


def _link_out(directory: Path) -> None:
    shutil.move(directory / SINGLE, directory.parent / "elsewhere")
    (directory / SINGLE).symlink_to("../elsewhere")


def _link_folder_out(directory: Path) -> None:
    (directory / "more").symlink_to(directory.parent)


def _truncate(directory: Path) -> None:
    data = (directory / SINGLE).read_bytes()
    (directory / SINGLE).write_bytes(data[:-100])


def _lie(directory: Path) -> None:
    data = (directory / SINGLE).read_bytes()
    (directory / SINGLE).write_bytes(data.replace(b'"data_offsets":[0,', b'"data_offsets":[4,', 1))


def _lose_shard(directory: Path) -> None:
    shard(directory)
    (directory / "model-00002-of-00002.safetensors").unlink()


def _move_tensor(directory: Path) -> None:
    shard(directory)
    index = json.loads((directory / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = "model-00001-of-00002.safetensors"
    index["weight_map"]["model.embed_tokens.weight"] = "model-00002-of-00002.safetensors"
    (directory / INDEX).write_text(json.dumps(index))


def _lose_tensor(directory: Path) -> None:
    shard(directory)
    index = json.loads((directory / INDEX).read_text())
    index["weight_map"]["model.more"] = "model-00001-of-00002.safetensors"
    (directory / INDEX).write_text(json.dumps(index))


def _shard_outside(directory: Path) -> None:
    shutil.move(directory / SINGLE, directory.parent / "x.safetensors")
    (directory / INDEX).write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))


def _second_weights(directory: Path) -> None:
    shutil.move(directory / SINGLE, directory / "a.safetensors")
    save_file({"a": np.zeros(1)}, directory / "b.safetensors")


def _deep_key(directory: Path) -> None:
    edit(directory / "tokenizer_config.json", extra=[{"auto_map": {"AutoTokenizer": "x.Y"}}])


def _stage_outside(directory: Path) -> None:
    (directory.parent / "config.json").write_text("{}")
    (directory / "modules.json").write_text(json.dumps([{"type": "a.Pooling", "path": ".."}]))


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (_truncate, "model.safetensors: its tensors need"),
    (_lie, "model.safetensors: tensor"),
    (_link_out, "model.safetensors leads out of"),
    (_link_folder_out, "more leads out of"),
    (_lose_shard, "model-00002-of-00002.safetensors is missing"),
    (_move_tensor, "places elsewhere"),
    (_lose_tensor, "no shard holds: model.more"),
    (_shard_outside, "names '../x.safetensors', which is no shard"),
    (_second_weights, "it has 2 safetensors files"),
    (_deep_key, "(auto_map)"),
    (_stage_outside, "leads out of"),
    (lambda d: (d / SINGLE).unlink(), "it has no weights"),
    (lambda d: (d / SINGLE).write_bytes(b""), "cut off within its header"),
    (lambda d: (d / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    (lambda d: (d / "config.json").unlink(), "config.json is missing"),
    (lambda d: (d / "config.json").write_text("{"), "config.json is not JSON"),
    (lambda d: (d / "config.json").write_text("[]"), "config.json is not a JSON object"),
    (lambda d: (d / "broken").symlink_to("nothing"), "broken is missing"),
    (lambda d: (d / "loop").symlink_to("loop"), "loop is missing"),
    (lambda d: (d / "pytorch_model.bin").write_bytes(b""), "pytorch_model.bin may be a pickle"),
    (lambda d: (d / "a.PT").write_bytes(b""), "a.PT may be a pickle"),
    (lambda d: ((d / "sub").mkdir(), (d / "sub" / "x.pkl").write_bytes(b"")), "sub/x.pkl may be a pickle"),
    (lambda d: (d / "x.pickle").write_bytes(b""), "x.pickle may be a pickle"),
    (lambda d: edit(d / "config.json", auto_map={"AutoModel": "x.Y"}), "(auto_map)"),
    (lambda d: edit(d / "config.json", trust_remote_code=True), "(trust_remote_code)"),
    (lambda d: edit(d / "config.json", _attn_implementation_internal="x/y"), "(_attn_implementation_internal)"),
    (lambda d: edit(d / "config.json", hidden_size="128"), "hidden_size is '128'"),
    (lambda d: edit(d / "config.json", max_position_embeddings=-1), "max_position_embeddings is -1"),
    (lambda d: edit(d / "config.json", vocab_size=None), "vocab_size is None"),
    (lambda d: edit(d / "config.json", architectures="x"), "architectures is not a list of names"),
    (lambda d: (d / "modules.json").write_text('{"a": 1}'), "modules.json:"),
]


@pytest.mark.parametrize(("damage", "problem"), DAMAGE, ids=[problem for _, problem in DAMAGE])
def test_damage_is_found_and_named(decoder: Path, damage: Callable[[Path], object], problem: str) -> None:
    """Each way to damage or misuse a model directory is refused, with the file or field that is wrong."""
    damage(decoder)
    assert problem in problem_of(decoder)


def test_a_name_that_the_catalog_cannot_hold_is_refused(decoder: Path) -> None:
    """The error says to rename the directory."""
    with pytest.raises(ModelDamaged, match="rename the directory"):
        make_manifest(decoder, "my model")


def test_an_embedder_with_a_stage_that_does_not_run_here_does_nothing(decoder: Path) -> None:
    """An encoder whose embedding passes through an unknown stage must not be run without it."""
    edit(decoder / "config.json", architectures=["BertModel"])
    stages = [{"type": f"sentence_transformers.models.{name}", "path": ""} for name in ("Transformer", "Dense")]
    (decoder / "modules.json").write_text(json.dumps(stages))
    assert make_manifest(decoder, "decoder").kinds == []
    (decoder / "modules.json").write_text(json.dumps(stages[:1]))
    assert make_manifest(decoder, "decoder").kinds == ["embed"]


def test_weights_have_hashes_by_chunk(decoder_manifest: Manifest) -> None:
    """A file of less than a chunk has one, its own; other files have none."""
    assert decoder_manifest.chunks == {
        file.path: [file.sha256] for file in decoder_manifest.files if file.path == SINGLE
    }


LLAMA = {
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64, "vocab_size": 9,
    "max_position_embeddings": 50,
}  # fmt: skip
GPT2 = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 40, "n_ctx": 41, "vocab_size": 9}
FALCON = {"num_hidden_layers": 2, "num_attention_heads": 8, "hidden_size": 64, "multi_query": True, "vocab_size": 9}
BERT = {"hidden_size": 48, "vocab_size": 9, "max_position_embeddings": 42, "num_hidden_layers": 2,
        "num_attention_heads": 4}  # fmt: skip
DISTIL = {"dim": 24, "n_layers": 2, "n_heads": 3, "max_position_embeddings": 20, "vocab_size": 9}


@pytest.mark.parametrize(
    ("architecture", "config", "kinds", "native", "context", "width", "kv_bytes"),
    [
        ("LlamaForCausalLM", LLAMA, ["generate"], True, 50, 64, 2 * 3 * 2 * 16 * 4),
        ("Qwen3ForCausalLM", LLAMA | {"head_dim": 128}, ["generate"], True, 50, 64, 2 * 3 * 2 * 128 * 4),
        ("Qwen3ForCausalLM", LLAMA, ["generate"], True, 50, 64, 2 * 3 * 2 * 128 * 4),
        ("MistralForCausalLM", {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}, ["generate"], True, 50,
         64, 2 * 3 * 4 * 16 * 4),
        ("GPT2LMHeadModel", GPT2, ["generate"], True, 40, 32, 2 * 2 * 4 * 8 * 4),
        ("BloomForCausalLM", {k: v for k, v in GPT2.items() if k[:4] not in ("n_po", "n_ct")}, ["generate"], False, 2048,
         32, 2 * 2 * 4 * 8 * 4),
        ("FalconForCausalLM", FALCON, ["generate"], False, 2048, 64, 2 * 2 * 1 * 8 * 4),
        ("MambaForCausalLM", {"hidden_size": 8, "vocab_size": 9}, ["generate"], False, 2048, 8, 0),
        ("BertModel", BERT, ["embed"], True, 42, 48, 0),
        ("RobertaModel", BERT | {"pad_token_id": 1}, ["embed"], True, 40, 48, 0),
        ("XLMRobertaModel", BERT, ["embed"], True, 40, 48, 0),
        ("DistilBertModel", DISTIL, ["embed"], True, 20, 24, 0),
        ("T5ForConditionalGeneration", LLAMA, [], False, 50, 64, 0),
    ],
)  # fmt: skip
def test_sizes_are_found_under_every_familys_names(
    decoder: Path,
    architecture: str,
    config: dict[str, object],
    kinds: list[str],
    native: bool,
    context: int,
    width: int,
    kv_bytes: int,
) -> None:
    """Context, width and the keys and values of a token, in the dtype of the weights (float32 here)."""
    (decoder / "config.json").write_text(json.dumps(config | {"architectures": [architecture]}))
    manifest = make_manifest(decoder, "decoder")
    assert (manifest.kinds, manifest.native) == (kinds, native)
    assert (manifest.context_tokens, manifest.hidden_size, manifest.kv_bytes_per_token) == (context, width, kv_bytes)


@pytest.mark.parametrize(
    ("file", "content", "chat"),
    [
        ("chat_template.jinja", "{{ messages }}", True),
        ("chat_template.json", '{"chat_template": "{{ messages }}"}', True),
        ("tokenizer_config.json", '{"chat_template": "{{ messages }}"}', True),
        ("tokenizer_config.json", '{"chat_template": [{"name": "default", "template": "x"}]}', True),
        ("tokenizer_config.json", '{"chat_template": [{"name": "tools", "template": "x"}]}', False),
        ("tokenizer_config.json", '{"chat_template": null}', False),
        ("chat_template.txt", "{{ messages }}", False),
    ],
)
def test_a_chat_template_is_found_and_counts(decoder: Path, file: str, content: str, chat: bool) -> None:
    """It decides what the model reads, so it is part of its identity; only models that generate talk."""
    (decoder / file).write_text(content)
    manifest = make_manifest(decoder, "decoder")
    assert manifest.chat is chat
    if chat:
        assert file in [entry.path for entry in manifest.files]
        edit(decoder / "config.json", architectures=["BertModel"])
        assert not make_manifest(decoder, "decoder").chat


@pytest.mark.parametrize("name", [SINGLE, "config.json", "tokenizer.json"])
def test_a_file_that_cannot_be_read_is_damage(decoder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad block, or somebody else's file."""
    original = Path.open

    def opened(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == name:
            raise OSError(5, "Input/output error")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", opened)
    assert f"{name}: [Errno 5] Input/output error" in problem_of(decoder)
