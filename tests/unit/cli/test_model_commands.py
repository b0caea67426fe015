"""`llmos models …`: what there is, commands that reach `control`, and the wait for what they come to."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import Result

from llmos.cli import waiting
from llmos.cli.catalog import Catalog
from llmos.cli.model_waiting import loading, unverified
from llmos.schemas.catalog import Model, NodeModels, Pin, Quarantined
from llmos.schemas.control import ModelCommand
from llmos.schemas.errors import UnknownModel
from llmos.schemas.job import ErrorInfo
from llmos.schemas.telemetry import DeviceReport, Residency, SchedulerReport

TINY, OTHER = "ab" * 32, "cd" * 32
MODEL = Model(
    identity=TINY, name="tiny", architecture="LlamaForCausalLM", kinds=["generate"], parameters=10, weight_bytes=400,
    context_tokens=8, dtype="float32", licence="MIT",
)  # fmt: skip
BAD = Quarantined(name="broken", directory="/m/broken", error=ErrorInfo(code="model_damaged", message="a flipped bit"))


def catalog(*models: Model, **fields: Any) -> Catalog:
    node = NodeModels(node="node-0", at=fields.pop("at", 1.0), models=[TINY], verified_at=fields.pop("verified_at", 1.0),
                      quarantined=fields.pop("quarantined", []))  # fmt: skip
    return Catalog(models=list(models) or [MODEL], aliases={"best": TINY}, nodes=[node], **fields)


def report(state: str = "", loaded: int = 0, devices: int = 1) -> SchedulerReport:
    """Devices on which the model is in a state; the empty one: it is not there."""
    residents = [Residency(model=TINY, name="tiny", state=state, loaded_bytes=loaded)] if state else []  # type: ignore[arg-type]
    found = [
        DeviceReport(
            device=f"node-0.cpu{i}", node="node-0", alive=True, arrival_rate=0.0, service_rate=0.0, utilisation=0.0,
            window=1, in_flight=0, budget_bytes=1, resident_bytes=0, residents=residents,
        )
        for i in range(devices)
    ]  # fmt: skip
    waits = {"interactive": 0, "standard": 0, "batch": 0}
    return SchedulerReport(at=1.0, term=1, policy="completion", live=0, waiting=waits, dispatched=0, devices=found)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.0)


def test_models_are_listed_with_all_that_is_known(llmos: Callable[..., Result], system: Any) -> None:
    """One line a model, with names, places and state; what is in quarantine with its reason."""
    pins = [Pin(identity=TINY, device="node-0.cpu1")]
    system.bodies = {"models": catalog(pins=pins, resident={TINY: ["node-0.cpu0"]}, quarantined=[BAD])}
    said = llmos("models", "list").stdout
    for word in ("tiny", "abababababab", "best", "MIT", "node-0.cpu0", "node-0.cpu1", "usable", "a flipped bit"):
        assert word in said
    model, bad = map(json.loads, llmos("models", "list", "--json").stdout.splitlines())
    assert (model["aliases"], model["resident"], model["pinned"]) == (["best"], ["node-0.cpu0"], ["node-0.cpu1"])
    assert (bad["name"], bad["error"]["message"]) == ("broken", "a flipped bit")


def test_a_reply_of_an_older_scheduler_is_read(llmos: Callable[..., Result], system: Any) -> None:
    """Models and aliases are enough."""
    system.bodies = {"models": {"models": [MODEL], "aliases": {}}}
    assert "usable" in llmos("models", "list").stdout


@pytest.mark.parametrize("name", ["tiny", "best", TINY, TINY[:8]])
def test_a_model_is_shown_by_any_of_its_names(llmos: Callable[..., Result], system: Any, name: str) -> None:
    """Also by the beginning of its identity."""
    system.bodies = {"models": catalog(), "devices": report("resident")}
    assert TINY in llmos("models", "show", name).stdout
    shown = json.loads(llmos("models", "show", name, "--json").stdout)
    assert [resident["device"] for resident in shown["residents"]] == ["node-0.cpu0"]


def test_of_two_models_of_one_name_the_one_that_is_there_is_meant() -> None:
    """An older version that no node has any more still stands in the catalog."""
    gone = Model(**{field: getattr(MODEL, field) for field in MODEL.__struct_fields__} | {"identity": OTHER})
    found = catalog(gone, MODEL)
    assert found.find("tiny") == MODEL
    assert found.find(OTHER[:8]) == gone
    assert found.problem(gone) == "no node has it any more"
    for name in ("nothing", "ab"):
        with pytest.raises(UnknownModel):
            found.find(name)


@pytest.mark.parametrize(
    ("words", "command", "said"),
    [
        (["alias", "best", "tiny"], ("alias", "tiny", "best", ""), "best stands for tiny"),
        (["unalias", "best"], ("unalias", "", "best", ""), "best stands for nothing"),
        (["pin", "tiny", "--device", "d"], ("pin", "tiny", "", "d"), "pinned on d"),
        (["unpin", "tiny"], ("unpin", "tiny", "", ""), "not pinned on any device"),
        (["load", "tiny", "--no-wait"], ("load", "tiny", "", ""), "asked"),
        (["unload", "tiny", "--no-wait"], ("unload", "tiny", "", ""), "asked"),
        (["verify", "--no-wait"], ("verify", "", "", ""), "asked"),
    ],
)
def test_commands_reach_control(
    llmos: Callable[..., Result], system: Any, words: list[str], command: tuple[str, ...], said: str
) -> None:
    """Each is one record, and what was asked for is told."""
    system.bodies = {"models": catalog()}
    system.replies = {command[0]: {"model": "tiny", "identity": TINY}}
    done = llmos("models", *words)
    assert done.exit_code == 0, done.stderr
    (sent,) = system.commands
    assert isinstance(sent, ModelCommand)
    assert (sent.what, sent.model, sent.alias, sent.device) == command
    assert said in done.stderr


def test_a_refused_command_is_a_message_and_exit_code_2(llmos: Callable[..., Result], system: Any) -> None:
    """With `--json` the scheduler's own error."""
    system.refusal = ErrorInfo(code="alias_taken", message="it is a model")
    said = llmos("models", "alias", "tiny", "other")
    assert (said.exit_code, said.stdout) == (2, "")
    assert "alias_taken: it is a model" in said.stderr
    assert json.loads(llmos("models", "alias", "a", "b", "--json").stdout)["error"]["code"] == "alias_taken"


def test_a_load_is_waited_for(llmos: Callable[..., Result], system: Any) -> None:
    """Until the model is resident on every device that was meant; on the way bytes of bytes are told."""
    system.replies = {"load": {"model": "tiny", "identity": TINY}}
    system.bodies = {
        "models": catalog(),
        "devices": [report(), report("loading", 100), report("loading", 300), report("resident")],
    }
    said = llmos("models", "load", "tiny")
    assert said.exit_code == 0
    assert "100 B of 400 B (25%)" in said.stderr
    assert "resident on node-0.cpu0" in said.stderr
    system.bodies["devices"] = report("resident", devices=2)
    assert json.loads(llmos("models", "load", "tiny", "--json").stdout)["devices"] == ["node-0.cpu0", "node-0.cpu1"]


def test_a_load_of_what_turns_out_damaged_ends(llmos: Callable[..., Result], system: Any) -> None:
    """With the reason."""
    system.replies = {"load": {"model": "tiny", "identity": TINY}}
    damaged = Quarantined(name="tiny", directory="/m/tiny", error=ErrorInfo(code="x", message="a flipped bit"))
    nodes = [NodeModels(node="node-0", at=2.0, quarantined=[damaged])]
    after = Catalog(models=[MODEL], aliases={}, nodes=nodes)
    system.bodies = {"models": [catalog(), catalog(), after], "devices": report("loading", 1)}
    said = llmos("models", "load", "tiny")
    assert said.exit_code == 2
    assert "a flipped bit" in said.stderr


def test_waiting_has_an_end(llmos: Callable[..., Result], system: Any) -> None:
    """What is asked for goes on."""
    system.replies = {"load": {"model": "tiny", "identity": TINY}, "unload": {"model": "tiny", "identity": TINY}}
    system.bodies = {"models": catalog(), "devices": report("loading", 1)}
    for what in ("load", "unload"):
        said = llmos("models", what, "tiny", "--timeout", "0", "--json")
        assert said.exit_code == 1
        assert json.loads(said.stdout)["error"]["code"] == "not_done"


def test_an_unload_is_waited_for(llmos: Callable[..., Result], system: Any) -> None:
    """Until no device has the model."""
    system.replies = {"unload": {"model": "tiny", "identity": TINY}}
    system.bodies = {"models": catalog(), "devices": [report("resident"), report("evicting"), report()]}
    said = llmos("models", "unload", "best")
    assert said.exit_code == 0
    assert "tiny is not resident" in said.stderr


def test_a_verification_is_waited_for_and_tells_what_is_bad(llmos: Callable[..., Result], system: Any) -> None:
    """Exit code 1 where something is in quarantine then."""
    system.replies = {"verify": {"model": ""}}
    before = catalog()
    system.bodies = {"devices": report(), "models": [before, before, catalog(verified_at=2.0)]}
    assert llmos("models", "verify").exit_code == 0
    system.bodies["models"] = [before, before, catalog(verified_at=2.0, quarantined=[BAD])]
    said = llmos("models", "verify")
    assert said.exit_code == 1
    assert "a flipped bit" in said.stdout


@pytest.mark.parametrize(
    ("states", "done", "share"),
    [
        ({}, False, "0 B of 800 B"),
        ({"a": ("loading", 100)}, False, "100 B of 800 B"),
        ({"a": ("resident", 0), "b": ("loading", 200)}, False, "600 B of 800 B"),
        ({"a": ("resident", 0), "b": ("resident", 0)}, True, ""),
        ({"a": ("resident", 0), "c": ("loading", 200)}, False, "400 B of 800 B"),
    ],
)
def test_how_far_loads_are(states: dict[str, tuple[Any, int]], done: bool, share: str) -> None:
    """Bytes over all devices that were meant, and over no other."""
    found = {
        device: Residency(model=TINY, name="tiny", state=state, loaded_bytes=loaded)
        for device, (state, loaded) in states.items()
    }
    progress = loading("tiny", 400, ["a", "b"], found)
    assert progress.done == done
    assert share in progress.text


def test_nodes_are_held_to_their_own_clocks() -> None:
    """A node has told of a verification when its own time has moved on."""
    before, same, later = catalog(), catalog(at=2.0), catalog(at=2.0, verified_at=2.0)
    assert unverified(before, same, {"node-0"}, every_byte=True) == ["node-0"]
    assert unverified(before, same, {"node-0"}, every_byte=False) == []
    assert unverified(before, later, {"node-0", "new"}, every_byte=True) == ["new"]
