"""Operators' commands: what each comes to by the catalog and the devices, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.pipelines.models.naming import Names
from llmos.schemas.catalog import Alias, Model, NodeModels, Pin, Quarantined, alias_key, node_models_key, pin_key
from llmos.schemas.control import ModelCommand, ModelOrder
from llmos.schemas.errors import LlmosError
from llmos.schemas.job import ErrorInfo
from llmos.services.scheduler.commands import carry_out
from tests.kit.bench import NOW

OLD, NEW, OTHER = ("0a" * 32, "0b" * 32, "0a" * 4 + "cc" * 28)


def model(identity: str, name: str) -> Model:
    """A model's row."""
    return Model(
        identity=identity, name=name, architecture="llama", kinds=["generate"], parameters=1, weight_bytes=50,
        context_tokens=9, dtype="float32",
    )  # fmt: skip


ROWS: dict[str, Any] = {
    OLD: model(OLD, "llama"),
    NEW: model(NEW, "llama"),
    OTHER: model(OTHER, "bert"),
    "alias:default": Alias(name="default", identity=OTHER),
    node_models_key("n").decode(): NodeModels(node="n", at=5.0, models=[NEW, OTHER]),
    node_models_key("m").decode(): NodeModels(node="m", at=4.0, models=[OLD]),
    pin_key(OTHER, "").decode(): Pin(identity=OTHER),
    pin_key(OLD, "m.cpu0").decode(): Pin(identity=OLD, device="m.cpu0"),
}
DEVICES = {"n.cpu0": [NEW, OTHER], "m.cpu0": [OLD]}


def command(what: Any, model: str = "", **fields: Any) -> ModelCommand:
    """A command."""
    return ModelCommand(id="c", what=what, model=model, at=NOW, **fields)


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        (OLD, OLD),
        ("llama", NEW),
        ("bert", OTHER),
        ("default", OTHER),
        ("0b0b0b0b", NEW),
        ("0b0b0b0", None),
        ("0a0a0a0a", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_how_a_model_is_named(name: str, identity: str | None) -> None:
    """By identity or its beginning, name (the one that was told of last) or alias; nothing that stands for two."""
    if identity is None:
        with pytest.raises(LlmosError, match="No model named"):
            Names(ROWS.values()).find(name)
    else:
        assert Names(ROWS.values()).find(name).identity == identity


def test_a_name_that_no_node_has_is_still_one() -> None:
    """Of a model that is gone an operator may ask, too: to unpin it, say."""
    assert Names([ROWS[OLD]]).find("llama").identity == OLD


@pytest.mark.parametrize(
    ("asked", "records"),
    [
        (command("alias", "llama", alias="chat"), [(alias_key("chat"), Alias(name="chat", identity=NEW))]),
        (command("alias", "bert", alias="default"), [(alias_key("default"), Alias(name="default", identity=OTHER))]),
        (command("unalias", alias="default"), [(alias_key("default"), None)]),
        (command("pin", "llama"), [(pin_key(NEW, ""), Pin(identity=NEW))]),
        (command("pin", OLD, device="m.cpu0"), [(pin_key(OLD, "m.cpu0"), Pin(identity=OLD, device="m.cpu0"))]),
        (command("unpin", "bert"), [(pin_key(OTHER, ""), None)]),
        (command("unpin", OLD), [(pin_key(OLD, "m.cpu0"), None)]),
        (command("unpin", OLD, device="m.cpu0"), [(pin_key(OLD, "m.cpu0"), None)]),
        (command("unpin", "llama"), []),
    ],
)
def test_what_lasts(asked: ModelCommand, records: list[Any]) -> None:
    """Aliases and pins are rows of the catalog; taking one away is a row without a value."""
    carried = carry_out(asked, ROWS, DEVICES, NOW)
    assert (list(carried.records), list(carried.orders)) == (records, [])
    assert carried.body["what"] == asked.what


@pytest.mark.parametrize(
    ("asked", "identity"),
    [
        (command("load", "llama"), NEW),
        (command("load", OLD, device="m.cpu0"), OLD),
        (command("unload", "llama", device="n.cpu0"), NEW),
        (command("unload", "llama"), NEW),
        (command("verify", "default"), OTHER),
        (command("verify"), ""),
        (command("verify", device="m.cpu0"), ""),
    ],
)
def test_what_workers_are_told(asked: ModelCommand, identity: str) -> None:
    """Loads, unloads and verifications are orders; the identity is resolved here, once."""
    carried = carry_out(asked, ROWS, DEVICES, NOW)
    assert list(carried.orders) == [ModelOrder(what=asked.what, identity=identity, device=asked.device, at=NOW)]  # type: ignore[arg-type]
    assert (list(carried.records), carried.body["identity"]) == ([], identity)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (command("load", "nothing"), "unknown_model"),
        (command("load", ""), "unknown_model"),
        (command("load", "llama", device="n.cpu9"), "unknown_device"),
        (command("verify", device="n.cpu9"), "unknown_device"),
        (command("load", "llama", device="m.cpu0"), "not_on_device"),
        (command("pin", OLD, device="n.cpu0"), "not_on_device"),
        (command("alias", "llama", alias="bert"), "alias_taken"),
        (command("alias", "llama", alias=OLD), "alias_taken"),
        (command("alias", "llama"), "invalid_request"),
        (command("unalias", alias="nothing"), "unknown_alias"),
        (command("unalias"), "unknown_alias"),
        (command("unload", "bert"), "model_pinned"),
        (command("unload", "bert", device="n.cpu0"), "model_pinned"),
        (command("unload", OLD), "model_pinned"),
        (command("unpin", "bert", device="n.cpu0"), "invalid_request"),
    ],
)
def test_what_is_refused(asked: ModelCommand, code: str) -> None:
    """With a typed error, and nothing is done."""
    with pytest.raises(LlmosError) as problem:
        carry_out(asked, ROWS, DEVICES, NOW)
    assert problem.value.code == code


def test_nobody_has_it() -> None:
    """A model that no living device has cannot be loaded or pinned; it can be unloaded and aliased."""
    for what, fine in (("load", False), ("pin", False), ("unload", True), ("alias", True)):
        asked = command(what, "llama", alias="x" if what == "alias" else "")
        if fine:
            carry_out(asked, ROWS, {}, NOW)
        else:
            with pytest.raises(LlmosError, match="cannot be on any device"):
                carry_out(asked, ROWS, {}, NOW)


@pytest.mark.parametrize("what", ["alias", "pin", "load", "verify"])
def test_what_needs_files_says_where_they_are(what: str) -> None:
    """A model in quarantine is refused with the reason, also one that was never read whole; one that is gone as gone."""
    broken = Quarantined(name="broken", directory="d", error=ErrorInfo(code="model_damaged", message="a bit flipped"))
    rows = {
        NEW: model(NEW, "broken"),
        OLD: model(OLD, "gone"),
        node_models_key("n").decode(): NodeModels(node="n", at=5.0, quarantined=[broken]),
    }
    with pytest.raises(LlmosError) as gone:
        carry_out(command(what, "gone", alias="a"), rows, DEVICES, NOW)
    assert gone.value.code == "model_gone"
    if what == "verify":
        assert carry_out(command(what, "broken"), rows, DEVICES, NOW).orders
    else:
        with pytest.raises(LlmosError, match="a bit flipped"):
            carry_out(command(what, "broken", alias="a"), rows, DEVICES, NOW)
    del rows[NEW]
    with pytest.raises(LlmosError, match="a bit flipped"):
        carry_out(command(what, "broken", alias="a"), rows, DEVICES, NOW)


def test_an_alias_is_a_name() -> None:
    """What `catalog` could not be read with is refused, and says what it may be."""
    with pytest.raises(LlmosError, match="alias"):
        carry_out(command("alias", "llama", alias="x y"), ROWS, DEVICES, NOW)
