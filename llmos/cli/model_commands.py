"""models list, show, verify, alias, unalias, pin, unpin, load, unload: commands through `control`, effects from replies."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from llmos.cli import model_tables
from llmos.cli.asking import ask
from llmos.cli.catalog import Catalog, read_reply
from llmos.cli.model_waiting import load_until, unload_until, verify_until
from llmos.cli.options import Json, Patience, Wait
from llmos.cli.session import Session, run, session_of
from llmos.client import Client
from llmos.client.queries import Command
from llmos.schemas.errors import InvalidRequest
from llmos.schemas.limits import Name
from llmos.schemas.telemetry import SchedulerReport

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Its name, an alias, its identity or the first 8 digits of that or more.")
]
Device = Annotated[str, typer.Option(help="Only on this device; by default on every one whose node has the model.")]


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this family."""
    models = typer.Typer(no_args_is_help=True, help="The models: what there is, names for it, where it is resident.")
    models.command("list")(list_command)
    models.command("show")(show_command)
    models.command("verify")(verify_command)
    models.command("alias")(alias_command)
    models.command("unalias")(unalias_command)
    models.command("pin")(pin_command)
    models.command("unpin")(unpin_command)
    models.command("load")(load_command)
    models.command("unload")(unload_command)
    app.add_typer(models, name="models")


def list_command(context: typer.Context, json: Json = False) -> None:
    """Show the models that can be asked for, and those in quarantine."""
    session = session_of(context)
    catalog = read_reply(run(ask(session, "models")), Catalog)
    if json:
        for model in catalog.models:
            session.line(_object(catalog, model))
        for node, entry in catalog.quarantined():
            session.line({**msgspec.structs.asdict(entry), "node": node, "state": "quarantined"})
        return
    session.out.print(model_tables.models(catalog))
    if catalog.quarantined():
        session.out.print(model_tables.quarantine(catalog))


def show_command(context: typer.Context, model: ModelArgument, json: Json = False) -> None:
    """Show one model: what it is, its names, which nodes have it, where it is resident."""
    session = session_of(context)

    async def both() -> tuple[Catalog, SchedulerReport]:
        async with session.operator() as client:
            return await _catalog(client), read_reply(await client.query("devices"), SchedulerReport)

    catalog, report = run(both())
    found = catalog.find(model)
    if json:
        residents = [
            {"device": device.device, **msgspec.structs.asdict(resident)}
            for device in report.devices
            for resident in device.residents
            if resident.model == found.identity
        ]
        session.line({**_object(catalog, found), "residents": residents})
        return
    session.out.print(model_tables.model(catalog, found))
    where = model_tables.residents_of(found.identity, report.devices, report.at)
    if where.row_count:
        session.out.print(where)


def verify_command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="One of them; by default all.")] = "",
    wait: Wait = True,
    timeout: Patience = 3600.0,
    json: Json = False,
) -> None:
    """Read all bytes again and hold them against their hashes; exit code 1 where something is in quarantine then."""
    session = session_of(context)

    async def verify() -> Catalog | None:
        async with session.operator() as client:
            before = await _catalog(client)
            reply = await client.command("verify", model)
            return await verify_until(session, client, before, reply.get("model", ""), timeout) if wait else None

    after = run(verify())
    if after is None:
        _say(session, {"what": "verify", "model": model}, "asked; `llmos models list` shows what came of it")
        return
    bad = [(node, entry) for node, entry in after.quarantined() if not model or entry.name == model]
    if json:
        quarantined = [{**msgspec.structs.asdict(entry), "node": node} for node, entry in bad]
        session.line({"what": "verify", "model": model, "quarantined": quarantined})
    elif bad:
        session.out.print(model_tables.quarantine(after))
    else:
        session.note("verified: every byte is as its hash says")
    if bad:
        raise typer.Exit(1)


def alias_command(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name that is to stand for the model.")],
    model: ModelArgument,
    json: Json = False,
) -> None:
    """Let a name stand for a model; jobs that were sent before keep the model that it stood for then."""
    session = session_of(context)
    try:
        msgspec.convert(name, type=Name)
    except msgspec.ValidationError:
        problem = "at most 128 letters, digits and ._:@/+- are a name, a letter or digit first"
        raise InvalidRequest(where="NAME", problem=problem) from None
    reply = run(_command(session, "alias", model, alias=name))
    _say(session, reply, f"{name} stands for {reply.get('model', model)} ({reply.get('identity', '')[:12]})")


def unalias_command(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name that is to stand for nothing.")],
    json: Json = False,
) -> None:
    """Take an alias away."""
    session = session_of(context)
    _say(session, run(_command(session, "unalias", alias=name)), f"{name} stands for nothing")


def pin_command(context: typer.Context, model: ModelArgument, device: Device = "", json: Json = False) -> None:
    """Load a model without being asked for it, and keep it resident."""
    session = session_of(context)
    reply = run(_command(session, "pin", model, device=device))
    _say(session, reply, f"{reply.get('model', model)} is pinned on {device or 'every device'}")


def unpin_command(context: typer.Context, model: ModelArgument, device: Device = "", json: Json = False) -> None:
    """Let a pinned model make room for others again."""
    session = session_of(context)
    reply = run(_command(session, "unpin", model, device=device))
    _say(session, reply, f"{reply.get('model', model)} is not pinned on {device or 'any device'}")


def load_command(
    context: typer.Context,
    model: ModelArgument,
    device: Device = "",
    wait: Wait = True,
    timeout: Patience = 600.0,
    json: Json = False,
) -> None:
    """Make a model resident before anybody asks for it."""
    session = session_of(context)

    async def load() -> dict[str, Any]:
        async with session.operator() as client:
            reply = await client.command("load", model, device=device)
            if wait:
                catalog = await _catalog(client)
                reply["devices"] = await load_until(session, client, catalog.find(reply["identity"]), device, timeout)
            return reply

    reply = run(load())
    where = ", ".join(reply["devices"]) if wait else ""
    _say(session, reply, f"{reply['model']} is resident on {where}" if wait else "asked; `llmos devices` shows it")


def unload_command(
    context: typer.Context,
    model: ModelArgument,
    device: Device = "",
    wait: Wait = True,
    timeout: Patience = 600.0,
    json: Json = False,
) -> None:
    """Take a model out of memory as soon as nobody uses it."""
    session = session_of(context)

    async def unload() -> dict[str, Any]:
        async with session.operator() as client:
            reply = await client.command("unload", model, device=device)
            if wait:
                await unload_until(session, client, reply["identity"], device, timeout)
            return reply

    reply = run(unload())
    _say(session, reply, f"{reply['model']} is not resident" if wait else "asked; `llmos devices` shows it")


async def _command(
    session: Session, what: Command, model: str = "", *, alias: str = "", device: str = ""
) -> dict[str, Any]:
    async with session.operator() as client:
        return await client.command(what, model, alias=alias, device=device)


async def _catalog(client: Client) -> Catalog:
    return read_reply(await client.query("models"), Catalog)


def _say(session: Session, reply: dict[str, Any], text: str) -> None:
    if session.json:
        session.line(reply)
    else:
        session.note(text)


def _object(catalog: Catalog, model: Any) -> dict[str, Any]:
    return {
        **msgspec.structs.asdict(model),
        "aliases": catalog.aliases_of(model.identity),
        "pinned": catalog.pinned(model.identity),
        "nodes": catalog.nodes_with(model.identity),
        "resident": sorted(catalog.resident.get(model.identity, [])),
        "problem": catalog.problem(model),
    }
