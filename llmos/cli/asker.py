"""As whom a tenant's command asks: where its credentials are, and why nobody may have answered it.

A request or query under a wrong secret is answered to nobody: who guesses learns nothing by it. So that the tenant itself is
told all the same, the fingerprint of its secret is compared with that of the row on `tenants`, where this command may read
that; else it hears what may be the reason.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Final

from llmos.cli.tenant_rows import read_as_they_stand
from llmos.cli.tenant_tables import FINGERPRINT_DIGITS
from llmos.cli.tenants import NAME
from llmos.client.identity import DEFAULT_TENANT, find_credentials
from llmos.infra.crypto.credentials import credentials_file, load_credentials
from llmos.infra.crypto.private_file import read_private
from llmos.infra.crypto.secrets import fingerprint
from llmos.infra.log.port import Log
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import BadSetting, InvalidRequest, LlmosError

LOOK_SECONDS: Final = 5.0
"""How long the row is looked for, once there was no answer."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Asker:
    """A tenant as a command names it."""

    def __init__(
        self, state_directory: Path, tenant: str | None, credentials: Path | None, secret: bytes | None
    ) -> None:
        self.tenant = tenant or ""
        self.secret = secret
        """Of a file with the secret alone."""
        self.credentials = credentials
        self._state_directory = state_directory

    def check(self) -> None:
        """Whether there is what makes the tenant. (What the demo's own tenant asks may go in the clear.)

        Raises:
            BadSetting: a tenant is named, and nothing says what its secret and keys are.
            InvalidRequest: it is no name.
        """
        if self.tenant and not _NAME.fullmatch(self.tenant):
            raise InvalidRequest(where="--tenant", problem=NAME)
        if self.tenant in ("", DEFAULT_TENANT) or self.credentials is not None or self.secret is not None:
            return
        if find_credentials(self._state_directory, self.tenant) is None:
            raise BadSetting(
                setting="--tenant",
                problem=f"there are no credentials of tenant {self.tenant} at {self._place}; name their file with "
                "`--credentials FILE` (`llmos submit … --clear` asks in the clear, where the tenant may)",
            )

    def signing(self) -> tuple[str, bytes]:
        """The tenant's name and the secret that signs; empty where nothing is signed. Blocks for a moment."""
        place = self.credentials or find_credentials(self._state_directory, self.tenant or DEFAULT_TENANT)
        if self.secret is not None:
            return self.tenant or DEFAULT_TENANT, self.secret
        if place is None:
            return self.tenant or DEFAULT_TENANT, b""
        found = load_credentials(place)
        return found.tenant, found.secret

    @property
    def _place(self) -> Path:
        return credentials_file(self._state_directory, self.tenant or DEFAULT_TENANT).absolute()


async def why_silent(asker: Asker, log: Log | None) -> str:
    """Why nobody may have answered what this tenant signed, for people; `log` None: it cannot be asked."""
    name, secret = await asyncio.to_thread(asker.signing)
    row: Tenant | None = None
    known = False
    if log is not None:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                row, known = (await read_as_they_stand(log)).get(name), True
        except (LlmosError, TimeoutError):
            known = False
    return in_words(name, secret, row, known=known)


def in_words(name: str, secret: bytes, row: Tenant | None, *, known: bool) -> str:
    """What the tenant's row says of the secret. `known`: the rows could be read. Pure."""
    own = fingerprint(secret).hex()[:FINGERPRINT_DIGITS] if secret else ""
    if not known:
        may = (
            f"or it did not take the secret of tenant {name} with fingerprint {own}"
            if secret
            else "or it wants a signature"
        )
        return f"either no scheduler runs, {may}: an operator sees the right one in `llmos tenants show {name}`"
    if row is None:
        return f"there is no tenant {name} in this system"
    present = row.fingerprint.hex()[:FINGERPRINT_DIGITS]
    if not secret:
        return f"tenant {name} must sign, and there is no secret" if row.mac == "required" else ""
    if not present or own == present:
        return ""
    if row.previous_until:
        return (
            f"the secret of tenant {name} here (fingerprint {own}) is not the present one ({present}); if it is the one "
            "before, its grace may be over: get the new credentials"
        )
    return f"the secret of tenant {name} here (fingerprint {own}) is not the right one ({present}): get its credentials"


def secret_of(path: Path | None) -> bytes | None:
    """The secret in a file, in hexadecimal. Raises `BadSetting`: it cannot be read, others may read it, or it is none."""
    if path is None:
        return None
    try:
        return bytes.fromhex(read_private(path).decode().strip())
    except OSError as problem:
        raise BadSetting(setting="--secret-file", problem=f"{path}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise BadSetting(setting="--secret-file", problem=f"{path} is not a secret in hexadecimal digits") from None
    except ValueError as problem:
        said = str(problem) if "chmod" in str(problem) else f"{path} is not a secret in hexadecimal digits"
        raise BadSetting(setting="--secret-file", problem=said) from None
