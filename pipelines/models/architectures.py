"""Which architectures run here, as which task kind, and on which engine. Without torch: verify and the CLI read it, too."""

from __future__ import annotations

from typing import NamedTuple

NATIVE = {
    "LlamaForCausalLM": "generate",
    "Qwen2ForCausalLM": "generate",
    "Qwen3ForCausalLM": "generate",
    "MistralForCausalLM": "generate",
    "GPT2LMHeadModel": "generate",
    "BertModel": "embed",
    "RobertaModel": "embed",
    "XLMRobertaModel": "embed",
    "DistilBertModel": "embed",
    "MPNetModel": "embed",
}
"""Architectures that an engine of llmos runs, and the task kind of each; a test holds it equal to the engine's own table."""
CAUSAL_SUFFIXES = ("ForCausalLM", "LMHeadModel")
"""How `transformers` names its causal language models; those that are not in `NATIVE` run on its own code, slower."""


class Ability(NamedTuple):
    """What an architecture can do here."""

    kind: str | None
    """Task kind; None: nothing here runs it."""
    native: bool
    """By an engine of llmos; else by the slower one of `transformers`."""


def ability_of(architecture: str) -> Ability:
    """What models of this architecture (the first of `architectures` in config.json) can do."""
    kind = NATIVE.get(architecture)
    if kind is not None:
        return Ability(kind, native=True)
    return Ability("generate" if architecture.endswith(CAUSAL_SUFFIXES) else None, native=False)
