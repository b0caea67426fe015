"""What an operator's command about a model comes to: records that last, orders to the workers, what is replied. Pure.

Carrying a command out twice comes to the same as once, but for an unload or a load that was undone in between.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from llmos.pipelines.models.naming import Names
from llmos.schemas.catalog import Alias, Model, Pin, alias_key, pin_key
from llmos.schemas.control import ModelCommand, ModelOrder
from llmos.schemas.errors import (
    AliasTaken,
    InvalidRequest,
    ModelPinned,
    ModelQuarantined,
    NotOnDevice,
    UnknownAlias,
    UnknownDevice,
    UnknownModel,
)
from llmos.schemas.limits import Name

EVERYWHERE = "every device"

Devices = Mapping[str, Collection[str]]
"""Name → identities of the models that its node has."""


class Carried(NamedTuple):
    """What a command comes to."""

    records: Sequence[tuple[bytes, Alias | Pin | None]]
    """For `catalog`, by key; None takes the key away."""
    orders: Sequence[ModelOrder]
    """For `control`."""
    body: Mapping[str, Any]
    """Of the reply."""


def carry_out(command: ModelCommand, rows: Mapping[str, Any], devices: Devices, now: float) -> Carried:
    """What `command` comes to, by the rows of `catalog` and the devices there are.

    Raises:
        UnknownModel: nothing in the catalog has that name, or it stands for several models.
        ModelQuarantined, ModelGone: no node has it whole, or at all, and the command needs that.
        UnknownDevice, NotOnDevice: the device is not there, or its node has not got the model.
        AliasTaken, UnknownAlias: of `alias` and `unalias`.
        ModelPinned: of `unload`.
        InvalidRequest: a field that the command needs is empty.
    """
    if command.device and command.device not in devices:
        raise UnknownDevice(device=command.device)
    if command.what == "unalias":
        return _unalias(command, rows)
    if command.what == "verify" and not command.model:
        return _order(command, None, now)
    model = _usable(command, rows)
    if command.what == "alias":
        return _alias(command, model, rows)
    if command.what == "unpin":
        return _unpin(command, model, rows)
    if command.what in ("pin", "load") and not any(
        model.identity in devices[name] for name in _meant(command, devices)
    ):
        raise NotOnDevice(where=command.device or "any device", model=model.name)
    if command.what == "pin":
        pin = Pin(identity=model.identity, device=command.device)
        return Carried([(pin_key(pin.identity, pin.device), pin)], [], _body(command, model))
    if command.what == "unload":
        _refuse_pinned(command, model, rows)
    return _order(command, model, now)


def _usable(command: ModelCommand, rows: Mapping[str, Any]) -> Model:
    """The model that is meant; of commands that need its files one that some node has."""
    names = Names(rows.values())
    try:
        model = names.find(command.model)
    except UnknownModel:
        names.resolve(command.model)  # says why, where a node has it in quarantine
        raise
    if command.what in ("alias", "pin", "load", "verify"):
        try:
            names.resolve(model.identity)
        except ModelQuarantined:
            if command.what != "verify":
                raise
    return model


def pins_of(identity: str, rows: Mapping[str, Any]) -> list[Pin]:
    """Where the model is pinned."""
    return [row for row in rows.values() if isinstance(row, Pin) and row.identity == identity]


def _alias(command: ModelCommand, model: Model, rows: Mapping[str, Any]) -> Carried:
    try:
        msgspec.convert(command.alias, Name)
    except msgspec.ValidationError as problem:
        raise InvalidRequest(where="alias", problem=str(problem)) from None
    if any(isinstance(row, Model) and command.alias in (row.name, row.identity) for row in rows.values()):
        raise AliasTaken(alias=command.alias)
    row = Alias(name=command.alias, identity=model.identity)
    return Carried([(alias_key(row.name), row)], [], _body(command, model) | {"alias": row.name})


def _unalias(command: ModelCommand, rows: Mapping[str, Any]) -> Carried:
    key = alias_key(command.alias)
    if key.decode() not in rows:
        raise UnknownAlias(alias=command.alias)
    return Carried([(key, None)], [], {"what": command.what, "alias": command.alias})


def _unpin(command: ModelCommand, model: Model, rows: Mapping[str, Any]) -> Carried:
    pins = pins_of(model.identity, rows)
    gone = [pin for pin in pins if command.device in ("", pin.device)]
    if not gone and any(not pin.device for pin in pins):
        raise InvalidRequest(where="device", problem="it is pinned on every device; name none, to unpin it on all")
    records: list[tuple[bytes, Alias | Pin | None]] = [(pin_key(pin.identity, pin.device), None) for pin in gone]
    return Carried(records, [], _body(command, model) | {"unpinned": [pin.device for pin in gone]})


def _refuse_pinned(command: ModelCommand, model: Model, rows: Mapping[str, Any]) -> None:
    for pin in pins_of(model.identity, rows):
        if not pin.device or command.device in ("", pin.device):
            raise ModelPinned(model=model.name, device=pin.device or EVERYWHERE)


def _order(command: ModelCommand, model: Model | None, now: float) -> Carried:
    assert command.what in ("load", "unload", "verify"), "the others are no orders"
    order = ModelOrder(what=command.what, identity=model.identity if model else "", device=command.device, at=now)
    return Carried([], [order], _body(command, model))


def _body(command: ModelCommand, model: Model | None) -> dict[str, Any]:
    return {
        "what": command.what,
        "model": model.name if model else "",
        "identity": model.identity if model else "",
        "device": command.device,
    }


def _meant(command: ModelCommand, devices: Devices) -> Collection[str]:
    return [command.device] if command.device else devices
