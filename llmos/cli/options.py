"""Options and arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmos.cli.session import session_of

JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="A job id, or job@topic:partition:offset as submit printed it.")
]
Tenant = Annotated[
    str | None,
    typer.Option(
        help="Who asks, `demo` by default; with the credentials in tenants/NAME.json of the state directory, if any."
    ),
]
CredentialsFile = Annotated[
    Path | None, typer.Option("--credentials", help="File with a tenant's credentials, which sign, seal and open.")
]
SecretFile = Annotated[
    Path | None, typer.Option(help="File with only the tenant's secret in hexadecimal: signs, and sends in the clear.")
]


def _note_json(context: typer.Context, value: bool) -> bool:
    session_of(context).json = value
    return value


Json = Annotated[
    bool, typer.Option("--json", help="One JSON object a line; errors too.", callback=_note_json, is_eager=True)
]
Patience = Annotated[float, typer.Option(min=0, help="How long to wait for the end, in seconds.")]
Wait = Annotated[bool, typer.Option(help="Wait until it has come to pass, or only say that it was asked for.")]
