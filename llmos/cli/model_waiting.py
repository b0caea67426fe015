"""Waiting for what a command about a model comes to: a load with its bytes, an unload, a verification."""

from __future__ import annotations

from collections.abc import Sequence

from llmos.cli.catalog import Catalog, read_reply
from llmos.cli.session import Session
from llmos.cli.status_line import bar
from llmos.cli.units import size_of_size
from llmos.cli.waiting import Progress, until
from llmos.client import Client
from llmos.schemas.catalog import Model
from llmos.schemas.errors import ModelQuarantined
from llmos.schemas.telemetry import DeviceReport, Residency, SchedulerReport


async def load_until(session: Session, client: Client, model: Model, device: str, timeout: float) -> list[str]:
    """Returns the devices on which the model is resident once it is so on all that were meant.

    Raises:
        ModelQuarantined: it was found damaged.
        NotDone: it takes longer than `timeout` seconds.
    """
    where: list[str] = []

    async def look() -> Progress:
        nonlocal where
        catalog = read_reply(await client.query("models"), Catalog)
        _refuse_quarantined(catalog, model)
        nodes = catalog.nodes_with(model.identity)
        meant = [found for found in await _live(client, device) if found.node in nodes or not catalog.nodes]
        found = [(each.device, residency) for each in meant for residency in each.residents]
        mine = {name: residency for name, residency in found if residency.model == model.identity}
        where = sorted(name for name, residency in mine.items() if residency.state == "resident")
        return loading(model.name, model.weight_bytes, [each.device for each in meant], mine)

    await until(session, f"loading {model.name}", look, timeout)
    return where


def loading(name: str, weight_bytes: int, devices: Sequence[str], residents: dict[str, Residency]) -> Progress:
    """How far the loads of a model are: bytes of bytes, over all devices that were meant."""
    resident = [device for device in devices if device in residents and residents[device].state == "resident"]
    if devices and len(resident) == len(devices):
        return Progress(True)
    of = weight_bytes * len(devices)
    done = weight_bytes * len(resident) + sum(
        min(residency.loaded_bytes, weight_bytes)
        for device, residency in residents.items()
        if device in devices and residency.state == "loading"
    )
    text = f"loading {name} {bar(done, of)} {size_of_size(done, of)}, resident on {len(resident)} of {len(devices)}"
    return Progress(False, text, (len(resident), int(10 * done / of) if of else 0))


async def unload_until(session: Session, client: Client, identity: str, device: str, timeout: float) -> None:
    """Returns once the model is on none of the devices that were meant.

    Raises:
        NotDone: it takes longer than `timeout` seconds.
    """

    async def look() -> Progress:
        held = [
            (found.device, residency)
            for found in await _live(client, device)
            for residency in found.residents
            if residency.model == identity and residency.state != "absent"
        ]
        used = ", ".join(
            f"{name} ({residency.active} tasks use it)" if residency.active else name for name, residency in held
        )
        return Progress(not held, f"still on {used}")

    await until(session, "unloading", look, timeout)


async def verify_until(session: Session, client: Client, before: Catalog, model: str, timeout: float) -> Catalog:
    """Returns what is in the catalog once every node that lives has told of a verification after `before`.

    Of one model (by name) that is when a node has written anew what it has; of all, when it has read all bytes.

    Raises:
        NotDone: it takes longer than `timeout` seconds.
    """
    after = before
    nodes = {device.node for device in await _live(client, "")}

    async def look() -> Progress:
        nonlocal after
        after = read_reply(await client.query("models"), Catalog)
        left = unverified(before, after, nodes, every_byte=not model)
        return Progress(not left, f"verifying {model or 'all models'}: waiting for {', '.join(left)}")

    await until(session, f"verifying {model or 'all models'}", look, timeout)
    return after


def unverified(before: Catalog, after: Catalog, nodes: set[str], *, every_byte: bool) -> list[str]:
    """The nodes that have not told of a verification since `before`; their own times are compared, so clocks may differ."""

    def told(catalog: Catalog) -> dict[str, float]:
        return {node.node: node.verified_at if every_byte else node.at for node in catalog.nodes}

    earlier, later = told(before), told(after)
    return sorted(node for node in nodes if later.get(node, 0.0) <= earlier.get(node, 0.0))


def _refuse_quarantined(catalog: Catalog, model: Model) -> None:
    if catalog.nodes and not catalog.nodes_with(model.identity):
        for node, entry in catalog.quarantined():
            if entry.name == model.name:
                raise ModelQuarantined(model=model.name, node=node, problem=entry.error.message)


async def _live(client: Client, device: str) -> list[DeviceReport]:
    report = read_reply(await client.query("devices"), SchedulerReport)
    return [found for found in report.devices if found.alive and device in ("", found.device)]
