"""keys init: a new keyring, for a system that has none; never one in the place of that of a system which is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import typer

from llmos.cli.attach import STACK
from llmos.cli.credential_files import PUBLIC_KEYS
from llmos.cli.first_start import ROWS_SEALED
from llmos.cli.session import Session, run, session_of
from llmos.cli.tenant_rows import read_as_they_stand
from llmos.infra.crypto.keyfile import create_keyring, load_keyring
from llmos.infra.embedded.directory import holder, read_json, run_file
from llmos.infra.embedded.identity import is_alive
from llmos.infra.settings import Settings
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import BadSetting, KeyringMismatch, OperatorError, TopicMissing

_PUT_BACK: Final = "put its keyring back: a new one opens nothing of what is there"


def init_command(context: typer.Context) -> None:
    """Make the keyring of a new system; or, while nothing runs, the keys that are missing in one of before.

    It refuses where a system of this state directory runs, where its keyring is whole, and where there was one that is gone.
    """
    session = session_of(context)
    settings = session.settings()
    path = settings.keyring
    before = {entry.id for entry in load_keyring(path).entries} if path.exists() else set()
    _check_stopped(settings, is_there=bool(before))
    if not before:
        _check_new(session, settings)
    keyring = create_keyring(path)
    fresh = [entry.purpose for entry in keyring.entries if entry.id not in before]
    if not fresh:
        raise BadSetting(
            setting="keyring_file",
            problem=f"{path} is already there, with a key for each purpose: `llmos keys list` shows them, "
            "`llmos keys rotate PURPOSE` makes another one",
        )
    made = f", made what was missing: {', '.join(fresh)}" if before else ", made now; keep a copy of it in a safe place"
    session.out.print(f"keyring {path}{made}", markup=False)


def _check_stopped(settings: Settings, *, is_there: bool) -> None:
    """Raises `OperatorError`: services of this state directory run."""
    running = running_here(settings.state_directory)
    if running:
        what = "`llmos keys rotate PURPOSE` makes another key; what is missing is made by the next `llmos up`"
        raise OperatorError(
            problem=f"{', '.join(running)} of {settings.state_directory.absolute()} run, and would not have these keys; "
            + (what if is_there else _PUT_BACK)
        )


def running_here(state_directory: Path) -> list[str]:
    """What of a system runs in a state directory: by its lock and by what services wrote down."""
    found = ["llmos up"] if holder(state_directory) is not None else []
    for file in sorted((state_directory / "run").glob("[!.]*.json")):
        noted = read_json(run_file(state_directory, file.stem))
        if file.stem != STACK and noted is not None and (is_alive(noted) or _is_service(noted)):
            found.append(file.stem)
    return found


def _is_service(noted: Mapping[str, Any]) -> bool:
    """Whether the process of a service's run file lives; an id that was used again is most likely none of llmos."""
    try:
        return b"llmos" in Path(f"/proc/{int(noted['pid'])}/cmdline").read_bytes()
    except (OSError, KeyError, TypeError, ValueError):
        return False


def _check_new(session: Session, settings: Settings) -> None:
    """Raises `KeyringMismatch`: there was a keyring, by the files beside it, or by the rows of `tenants`."""
    directory, path = settings.state_directory, settings.keyring
    traces = [path.with_name(ROWS_SEALED), directory / PUBLIC_KEYS, *sorted((directory / "tenants").glob("*.json"))]
    there = next((trace for trace in traces if trace.exists()), None)
    if there is not None:
        raise KeyringMismatch(
            path=path.absolute(),
            problem=f"it is gone, and {there} is of a system that had one; to begin anew, take another state directory",
        )
    if settings.kafka.bootstrap and any(row.wrapped_secret for row in _rows(session).values()):
        raise KeyringMismatch(
            path=path.absolute(), problem=f"it is gone, and the system at {settings.kafka.bootstrap} has tenants"
        )


def _rows(session: Session) -> Mapping[str, Tenant]:
    """The rows of the broker that the settings name; none where it cannot be asked, or has no such topic."""

    async def read() -> Mapping[str, Tenant]:
        async with session.log() as log:
            return await read_as_they_stand(log)

    try:
        return run(read())
    except TopicMissing:
        return {}
    except OperatorError as problem:
        session.note(f"whether there is a system already cannot be told: {problem}")
        return {}
