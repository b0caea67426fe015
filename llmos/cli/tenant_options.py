"""Options that say what a tenant may do, and what they change."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import typer

from llmos.infra.crypto.hpke import Recipient
from llmos.schemas import topics
from llmos.schemas.errors import BadSetting
from llmos.schemas.tasks import INPUTS

ALL: Final = "all"
OWN: Final = "own"

Name = Annotated[str, typer.Argument(metavar="NAME", help="The tenant.")]
Hybrid = Annotated[bool, typer.Option("--hybrid", help="A reply key that also holds against quantum computers.")]
Plaintext = Annotated[
    Literal["allow", "forbid"] | None,
    typer.Option(help="Whether payloads may come, and answers go, in the clear."),
]
Mac = Annotated[Literal["optional", "required"] | None, typer.Option(help="Whether it must sign its requests.")]
Weight = Annotated[float | None, typer.Option(help="Of its share of the devices' time while others wait.")]
Lanes = Annotated[
    list[str] | None,
    typer.Option(
        "--lane", "--lanes", help="It may use this lane; several with commas. None named, or `all`: every one."
    ),
]
Kinds = Annotated[list[str] | None, typer.Option("--kind", "--kinds", help="It may use this task kind; as for lanes.")]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "--models",
        help="It may use this model, by name, alias or identity, `*` for any characters; as for lanes.",
    ),
]
Jobs = Annotated[int | None, typer.Option("--jobs", help="Submissions in flight at most; 0: no limit.")]
Bytes = Annotated[int | None, typer.Option("--bytes", help="Payload bytes in flight at most; 0: no limit.")]
Requests = Annotated[float | None, typer.Option("--requests-per-second", help="On average; 0: no limit.")]
Tokens = Annotated[float | None, typer.Option("--tokens-per-second", help="Read and written, on average; 0: no limit.")]
Burst = Annotated[
    float | None, typer.Option("--burst-seconds", help="How many seconds' worth of these may be saved up.")
]
DefaultTimeout = Annotated[
    float | None, typer.Option("--default-timeout", help="Of requests that name none, in seconds.")
]
LongestTimeout = Annotated[float | None, typer.Option("--longest-timeout", help="Of any request, in seconds.")]
ReplyPrefixes = Annotated[
    list[str] | None,
    typer.Option(
        "--reply-prefix",
        help="Its `reply_to` topics may begin with this; as for lanes. None named, or `own`: `reply.NAME.`",
    ),
]
Note = Annotated[str | None, typer.Option(help="Anything, for operators.")]

_PLAIN: Final = (
    "plaintext", "mac", "weight", "jobs", "requests_per_second", "tokens_per_second", "burst_seconds",
    "default_timeout", "longest_timeout", "note",
)  # fmt: skip
_LISTS: Final = {"lanes": ALL, "kinds": ALL, "models": ALL, "reply_prefixes": OWN}
"""The word that stands for no restriction."""
_KNOWN: Final[dict[str, Collection[str]]] = {"lanes": tuple(topics.REQUESTS), "kinds": tuple(INPUTS)}
_FLAGS: Final = {"lanes": "--lane", "kinds": "--kind", "models": "--model", "reply_prefixes": "--reply-prefix"}


def algorithm_of(hybrid: bool) -> Recipient:
    """Of a new reply key."""
    return "mlkem768-x25519" if hybrid else "x25519"


def changes_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The tenant's fields that a command names, by the command's arguments; lists as they were written, see `checked`."""
    changes = {name: given[name] for name in _PLAIN if given[name] is not None}
    if given["bytes_"] is not None:
        changes["bytes"] = given["bytes_"]
    for name in _LISTS:
        values = [value.strip() for text in given[name] or () for value in text.split(",")]
        if values:
            changes[name] = values
    return changes


def checked(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes, with lists as a tenant has them. Raises `BadSetting`: a value cannot be meant."""
    lists = {name: _named(name, changes[name], nothing) for name, nothing in _LISTS.items() if name in changes}
    return {**changes, **lists}


def _named(name: str, values: Sequence[str], nothing: str) -> list[str]:
    """The values of a list that were named. Raises `BadSetting`: one of them cannot be meant."""
    flag = _FLAGS[name]
    if nothing in values and len(values) > 1:
        raise BadSetting(setting=flag, problem=f"`{nothing}` stands alone")
    if "" in values:
        raise BadSetting(setting=flag, problem="there is nothing between two commas, or at an end")
    known = _KNOWN.get(name)
    unknown = [value for value in values if known is not None and value not in (*known, nothing)]
    if known is not None and unknown:
        said = f"there is no {flag.removeprefix('--')} {', '.join(map(repr, unknown))}; there are {', '.join(known)}"
        raise BadSetting(setting=flag, problem=said)
    return [value for value in values if value != nothing]
