"""Which accelerators are found, and that a package's broken discovery hides only its own."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
from structlog.testing import capture_logs

from llmos.pipelines.engine import discovery
from llmos.pipelines.engine.discovery import GROUP, discover


def good() -> list[str]:
    return ["good:0/2", "good:1/2?fast=1"]


def bad() -> list[str]:
    raise OSError("no driver")


def nonsense() -> list[str]:
    return ["good"]


def test_what_packages_find_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of their kinds; one that fails, gives no specs or cannot be loaded is logged, and the others go on."""
    values = {"good": "good", "bad": "bad", "nonsense": "nonsense", "missing": "no_such_function"}
    points = [EntryPoint(kind, f"{__name__}:{name}", GROUP) for kind, name in values.items()]
    monkeypatch.setattr(EntryPoint, "load", lambda point: globals()[point.attr])
    monkeypatch.setattr(discovery, "entry_points", lambda group: points)
    monkeypatch.setattr(discovery, "DISCOVERIES", {})
    with capture_logs() as events:
        assert discover() == ["good:0/2", "good:1/2?fast=1"]
    assert [event["kind"] for event in events if event["event"] == "discovery_failed"] == ["bad", "missing", "nonsense"]
