"""What a worker is told by `control` and `catalog`, and what it leaves to others."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import pytest

from llmos.infra.crypto.keyring import Keyring
from llmos.infra.stages.control_macs import FRESH_SECONDS, as_scheduler
from llmos.schemas.base import Message, encode
from llmos.schemas.catalog import Alias, Pin, alias_key, pin_key
from llmos.schemas.control import CancelTask, Drain, Fence, ModelOrder
from llmos.schemas.errors import Fenced
from llmos.services.worker import orders
from llmos.services.worker.orders import Orders
from llmos.services.worker.runners.events import Pins
from tests.kit.bench import KEYS, record

DEVICE = "node-0.cpu0"
INCARNATION = 3
M = TypeVar("M", CancelTask, ModelOrder)


def without_mac(message: M) -> M:
    return msgspec.structs.replace(message, mac=b"")


class Told:
    """Writes down what an order brought."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.orders = Orders(
            DEVICE,
            INCARNATION,
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            keys=KEYS,
            verify=lambda order: self.heard.append(("verify", order.identity)),
        )

    def cancel(self, message: CancelTask) -> None:
        """As the intake does."""
        self.heard.append(without_mac(message))

    def order(self, order: ModelOrder | Pins) -> None:
        """As the engine does."""
        self.heard.append(without_mac(order) if isinstance(order, ModelOrder) else order)

    def control(self, message: Any, *, by: Keyring = KEYS, at: float = 1.0) -> None:
        """A message under the key `control` of a keyring; bytes as they are."""
        value = message if isinstance(message, bytes) else encode(as_scheduler(by, message))
        self.orders.control(record(value, "control", at=at))

    def catalog(self, key: bytes, message: Message | None) -> None:
        self.orders.catalog.take(record(None if message is None else encode(message), "catalog", key=key))


CANCEL = CancelTask(partition=0, s=1, at=1.0)


def order(what: Any, device: str) -> ModelOrder:
    return ModelOrder(what=what, identity="m", device=device, at=1.0)


@pytest.mark.parametrize("device", [DEVICE, ""])
def test_orders_for_this_device_are_carried_out(device: str) -> None:
    """By name, or for every device."""
    told = Told()
    for what in ("load", "unload", "verify"):
        told.control(order(what, device))
    assert told.heard == [order("load", device), order("unload", device), ("verify", "m")]


def test_what_is_for_others_is_left_alone() -> None:
    """Other devices' orders, drains and fences, earlier lives' fences, and rubbish."""
    told = Told()
    told.control(order("load", "node-0.cpu1"))
    told.control(Drain(device="node-0.cpu1", at=1.0))
    for device, incarnation in (("node-0.cpu1", INCARNATION), (DEVICE, INCARNATION - 1)):
        told.control(Fence(device=device, node="node-0", incarnation=incarnation, pid=1, at=1.0))
    told.control(b"\xc1")
    assert told.heard == []


def test_its_own_fence_ends_it() -> None:
    """Whatever it is doing."""
    with pytest.raises(Fenced):
        Told().control(Fence(device=DEVICE, node="node-0", incarnation=INCARNATION, pid=1, at=1.0))


def test_a_task_is_stopped() -> None:
    """Of a submission that is over."""
    told = Told()
    told.control(CANCEL)
    assert told.heard == [CANCEL]


EVERYTHING = [
    order("load", DEVICE),
    CANCEL,
    Fence(device=DEVICE, node="node-0", incarnation=INCARNATION, pid=1, at=1.0),
]


@pytest.mark.parametrize("message", EVERYTHING, ids=lambda message: type(message).__name__)
def test_only_the_scheduler_gives_orders(message: Any) -> None:
    """Without a MAC, under another system's key, or changed on the way: nothing happens."""
    told = Told()
    told.control(encode(message))
    told.control(message, by=Keyring.memory())
    signed = as_scheduler(KEYS, message)
    for name in signed.__struct_fields__:
        value = getattr(signed, name)
        if isinstance(value, int | float):
            told.control(encode(msgspec.structs.replace(signed, **{name: value + 1})))
    assert told.heard == []


@pytest.mark.parametrize("message", [order("load", DEVICE), order("verify", ""), CANCEL])
def test_a_copy_of_an_order_is_not_carried_out(message: Any) -> None:
    """Within the time in which it passes for fresh: a model that was loaded again since is not thrown out once more."""
    told = Told()
    for at in (1.0, 2.0, FRESH_SECONDS, 1.0 + FRESH_SECONDS):
        told.control(message, at=at)
    assert len(told.heard) == 1
    told.control(msgspec.structs.replace(message, at=2.0), at=3.0)
    assert len(told.heard) == 2, "the same, ordered anew"


def test_a_forged_order_is_not_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not carried out keeps no place, and cancels take none of the other orders'."""
    monkeypatch.setattr(orders, "REMEMBERED", 2)
    told = Told()
    load, unload = order("load", DEVICE), order("unload", DEVICE)
    told.control(load)
    for i in range(5):
        told.control(msgspec.structs.replace(unload, at=2.0 + i), by=Keyring.memory())
        told.control(msgspec.structs.replace(CANCEL, s=i))
    told.control(load)
    assert len(told.heard) == 1 + 5
    for i in range(2):
        told.control(msgspec.structs.replace(unload, at=2.0 + i))
    told.control(load)
    assert len(told.heard) == 1 + 5 + 2 + 1, "so many are remembered"


@pytest.mark.parametrize("message", EVERYTHING, ids=lambda message: type(message).__name__)
def test_an_old_order_that_is_put_there_again_is_left_alone(message: Any) -> None:
    """Its own time is far from when the log took it."""
    told = Told()
    told.control(message, at=1.0 + FRESH_SECONDS + 1.0)
    assert told.heard == []


def test_pins_are_those_of_this_device_and_of_all() -> None:
    """As the catalog has them; what says the same again is no news."""
    told = Told()
    told.catalog(pin_key("a", ""), Pin(identity="a"))
    told.catalog(pin_key("b", DEVICE), Pin(identity="b", device=DEVICE))
    told.catalog(pin_key("a", DEVICE), Pin(identity="a", device=DEVICE))
    told.catalog(pin_key("c", "node-0.cpu1"), Pin(identity="c", device="node-0.cpu1"))
    told.catalog(alias_key("x"), Alias(name="x", identity="c"))
    told.catalog(pin_key("a", ""), None)
    told.catalog(pin_key("b", DEVICE), None)
    assert told.heard == [Pins(frozenset(x)) for x in ("a", "ab", "a")]
