"""The files of credentials beside the system: `tenants/<name>.json` for its clients, `public-keys.json` for everybody."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from llmos.infra.crypto.credentials import (
    Credentials,
    PublicKey,
    credentials_file,
    encode_public_keys,
    load_credentials,
    save_credentials,
)
from llmos.infra.crypto.private_file import write_private
from llmos.infra.crypto.secrets import fingerprint
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import BadSetting

PUBLIC_KEYS: Final = "public-keys.json"
_PUBLIC_MODE: Final = 0o644


def found_credentials(path: Path, tenant: str) -> Credentials | None:
    """The tenant's credentials at `path`; None where there is no file. Raises `BadSetting`: they are none, or another's."""
    if not path.exists():
        return None
    found = load_credentials(path)
    if found.tenant != tenant:
        raise BadSetting(setting="credentials", problem=f"{path} is of tenant {found.tenant!r}, not of {tenant!r}")
    return found


def prepare_credentials(credentials: Credentials, path: Path) -> Path:
    """Writes the credentials beside `path`, so that nothing is lost whatever happens until `put_credentials`."""
    beside = _beside(path)
    save_credentials(credentials, beside)
    return beside


def put_credentials(beside: Path, path: Path) -> None:
    """Puts prepared credentials in their place. Raises `BadSetting`, which says where they are."""
    try:
        os.replace(beside, path)
    except OSError as problem:
        raise BadSetting(
            setting="credentials", problem=f"{path} cannot be replaced ({problem.strerror}); they are in {beside}"
        ) from None


def recover_credentials(tenant: Tenant, path: Path) -> None:
    """Puts in their place what was prepared for the tenant as it is now, where a crash came in between."""
    beside = _beside(path)
    if beside.exists() and fingerprint(load_credentials(beside).secret) == tenant.fingerprint:
        put_credentials(beside, path)


def remove_credentials(path: Path, tenant: str, note: Callable[[str], None]) -> list[Path]:
    """Deletes the credentials of a tenant that was erased, and what was prepared for it; gives the files. What is there and
    is not the tenant's stays, and `note` hears of it."""
    deleted = []
    for file in (path, _beside(path)):
        try:
            if found_credentials(file, tenant) is None:
                continue
            file.unlink()
        except BadSetting as problem:
            note(f"{file} stays: {problem}")
        except OSError as problem:
            note(f"{file} stays, and is to be deleted: {problem.strerror}")
        else:
            deleted.append(file)
    return deleted


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def refresh_public_keys(state_directory: Path, keys: Sequence[PublicKey]) -> list[str]:
    """Writes the system's public keys, and brings the credentials beside the system up to date with them.

    Gives the tenants whose credentials had others. Raises `BadSetting`.
    """
    _write_public(state_directory / PUBLIC_KEYS, encode_public_keys(keys))
    renewed = []
    for path in sorted((state_directory / "tenants").glob("*.json")):
        known = load_credentials(path)
        if known.system_keys != list(keys) and path == credentials_file(state_directory, known.tenant):
            save_credentials(msgspec.structs.replace(known, system_keys=list(keys)), path)
            renewed.append(known.tenant)
    return renewed


def _write_public(path: Path, data: bytes) -> None:
    try:
        if path.exists() and path.read_bytes() == data:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, data, exclusive=False)
        path.chmod(_PUBLIC_MODE)
    except OSError as problem:
        raise BadSetting(setting="state_directory", problem=f"{path} cannot be written: {problem.strerror}") from None
