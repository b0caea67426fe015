"""What a run leaves behind is a model to us and to transformers."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import llmos
from llmos.pipelines.models.manifest import make_manifest
from llmos.pipelines.models.tokenizer import Tokenizer
from llmos.pipelines.training.decoder import train
from llmos.pipelines.training.network import Decoder
from llmos.pipelines.training.recipe import Recipe

SHIPPED = Path(llmos.__file__).parent / "models" / "shakespeare-decoder"
PROMPT = "ROMEO:\nWhat light through yonder window breaks?\n\n"


def shipped_decoder() -> Decoder:
    """Our network with the shipped weights, which the default recipe made."""
    decoder = Decoder(Recipe())
    decoder.load_state_dict(load_file(SHIPPED / "model.safetensors"))
    return decoder


def test_a_run_leaves_a_whole_model_with_its_card(tmp_path: Path, data: Path, recipe: Recipe) -> None:
    """The manifest reads it without complaint, and the card tells its data, loss and licence."""
    summary = train(recipe, data, tmp_path / "tiny", tmp_path / "state", resume=False)
    manifest = make_manifest(tmp_path / "tiny", "tiny")
    assert (manifest.kinds, manifest.licence) == (["generate"], "apache-2.0")
    assert (manifest.parameters, manifest.context_tokens) == (summary.parameters, recipe.context)
    assert Tokenizer.load(manifest).vocabulary == recipe.vocabulary
    card = (tmp_path / "tiny" / "README.md").read_text()
    assert f"{summary.validation_loss:.4f} nats per token" in card
    assert "plays.txt" in card
    assert (tmp_path / "tiny" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "tiny").glob(".*"))


def test_transformers_reads_the_shipped_decoder_as_we_do() -> None:
    """Logits of every position agree within 1e-4, so layout, rotary base and head groups mean the same to both."""
    reference = AutoModelForCausalLM.from_pretrained(SHIPPED)
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    ids = tokenizer(PROMPT)["input_ids"]
    assert ids == Tokenizer.load(make_manifest(SHIPPED, "shipped")).encode(PROMPT)
    assert tokenizer.decode(ids) == PROMPT
    tokens = torch.tensor([ids])
    with torch.no_grad():
        torch.testing.assert_close(shipped_decoder()(tokens), reference(tokens).logits, rtol=0, atol=1e-4)


def test_the_shipped_decoder_knows_its_plays() -> None:
    """It gives the words of a speech far more chance than the same tokens in another order."""
    tokenizer = Tokenizer.load(make_manifest(SHIPPED, "shipped"))
    tokens = torch.tensor([tokenizer.encode(PROMPT)])
    decoder = shipped_decoder()
    with torch.no_grad():
        assert decoder.loss(tokens) + 2 < decoder.loss(tokens.flip(1))


def test_the_shipped_card_tells_the_truth_about_the_configuration() -> None:
    """The parameter count of the card is that of the file."""
    count = sum(tensor.numel() for tensor in load_file(SHIPPED / "model.safetensors").values())
    assert f"| parameters | {count:,} " in (SHIPPED / "README.md").read_text()
    assert json.loads((SHIPPED / "config.json").read_text())["tie_word_embeddings"] is True
