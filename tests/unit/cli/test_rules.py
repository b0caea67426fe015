"""Rules in sentences."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import llmos
from llmos.cli.rules import in_words


@pytest.mark.parametrize(
    ("rule", "need", "have", "words"),
    [
        ("", 0, 0, ""),
        ("window", 17, 16, "the devices have as much as they begin soon: 16 tasks, 16 at most"),
        ("memory", 2048, 1024, "memory: 2.0 KiB are needed, 1.0 KiB can be had"),
        ("utilisation", 4, 5.5, "the devices are overloaded: ρ is 5.50 and at most 4.00 is allowed"),
        ("sooner", 4.0, 0.5, "a busy device will be done with it in 0.5 s, any other only in 4.0 s"),
        ("sooner", 0.5, 4.0, "a busy device will be done with it in 0.5 s, any other only in 4.0 s"),
        ("pressure", 0.1, 0.4, "the machine waits for memory 40% of the time, and nothing is loaded above 10%"),
        ("of tomorrow", 2, 1.5, "rule of tomorrow: needs 2, has 1.5"),
    ],
)
def test_a_rule_is_a_sentence_with_its_figures(rule: str, need: float, have: float, words: str) -> None:
    """One that is not known here is told as it is."""
    assert in_words(rule, need, have) == words


def test_every_rule_has_its_sentence() -> None:
    """Of the scheduler and of the workers: one without words would be told by its bare name."""
    root = Path(llmos.__file__).parent
    sources = [file.read_text() for part in ("pipelines", "services") for file in (root / part).rglob("*.py")]
    names = re.compile(r"""(?:Why|Held|Lack)\(\s*"(\w+)\"""")
    rules = {rule for source in sources for rule in names.findall(source)}
    assert rules >= {"window", "memory", "alive", "turn", "kv_memory"}
    assert [rule for rule in sorted(rules) if in_words(rule, 1, 1).startswith("rule ")] == []
