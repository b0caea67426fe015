"""The table of architectures, which everybody reads without torch, says what the engine really runs."""

from __future__ import annotations

import pytest

from llmos.pipelines.engine.loading import ARCHITECTURES
from llmos.pipelines.models.architectures import NATIVE, Ability, ability_of


def test_the_table_is_the_engines_own() -> None:
    """An architecture that is in one of the two alone would be offered and fail, or run and not be offered."""
    assert NATIVE.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize(
    ("architecture", "ability"),
    [
        ("LlamaForCausalLM", Ability("generate", native=True)),
        ("GPT2LMHeadModel", Ability("generate", native=True)),
        ("BertModel", Ability("embed", native=True)),
        ("GemmaForCausalLM", Ability("generate", native=False)),
        ("OpenAIGPTLMHeadModel", Ability("generate", native=False)),
        ("BertForSequenceClassification", Ability(None, native=False)),
        ("T5ForConditionalGeneration", Ability(None, native=False)),
        ("", Ability(None, native=False)),
    ],
)
def test_abilities(architecture: str, ability: Ability) -> None:
    """What ours run, what `transformers` runs, and what nobody does."""
    assert ability_of(architecture) == ability
