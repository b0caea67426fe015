"""Settings go down to a child through the environment and come out the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmos.infra.settings import Settings, load
from llmos.infra.settings.environment import child_environment, environment_of

CHANGED = {
    "state_directory": "/somewhere/else",
    "kafka": {"bootstrap": "127.0.0.1:9092", "partitions": 4, "topic_prefix": "x."},
    "ingest": {"interactive": {"jobs": 7}, "resume_fraction": 0.25},
    "verify": {"reply_prefixes": ["a.", "b."]},
    "node": {"models_directories": ["/m/one", "/m/two, with a comma"], "restart_seconds": 1e-3},
    "embedded": {"java": "/opt/java/bin/java"},
}


@pytest.mark.parametrize("overrides", [{}, CHANGED])
def test_a_tree_comes_back_the_same(overrides: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tree holds, a child that reads the environment has the same tree."""
    settings = load(**overrides)
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    assert load() == settings


def test_names_are_the_documented_ones() -> None:
    """A nested setting is LLMOS_GROUP__NAME, a list is JSON, and None is left out."""
    found = environment_of(load(**CHANGED))
    assert found["LLMOS_KAFKA__PARTITIONS"] == "4"
    assert found["LLMOS_INGEST__INTERACTIVE__JOBS"] == "7"
    assert found["LLMOS_VERIFY__REPLY_PREFIXES"] == '["a.", "b."]'
    assert found["LLMOS_STATE_DIRECTORY"] == "/somewhere/else"
    assert "LLMOS_KEYRING_FILE" not in found


def test_a_child_gets_these_settings_and_not_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Our own variables do not leak into the child; the named settings file and the rest of the environment do."""
    settings: Settings = load()
    monkeypatch.setenv("LLMOS_KEYRING_FILE", "/ours")
    monkeypatch.setenv("LLMOS_CONFIG", str(tmp_path / "file.toml"))
    monkeypatch.setenv("OTHER", "stays")
    found = child_environment(settings, EXTRA="1")
    assert "LLMOS_KEYRING_FILE" not in found
    assert (found["LLMOS_CONFIG"], found["OTHER"], found["EXTRA"]) == (str(tmp_path / "file.toml"), "stays", "1")
