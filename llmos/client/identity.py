"""Who a client is: its tenant, the secret that signs, the keys that seal and open, and whether it speaks for operators."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple

from llmos.client.opening import Opening
from llmos.client.sealing import Sealing
from llmos.infra.crypto.credentials import Credentials, credentials_file, load_credentials
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.macs import mac
from llmos.schemas.control import Cancel, Operators, Query, signed_control
from llmos.schemas.errors import BadSetting

DEFAULT_TENANT = "demo"


class Identity(NamedTuple):
    """Belongs to one client."""

    tenant: str
    secret: bytes
    """Signs; empty: nothing is signed."""
    sealing: Sealing | None
    """None: without credentials requests go in the clear."""
    opening: Opening
    operator: Keyring | None

    def control_mac(self, message: Cancel | Query | Operators) -> bytes:
        """The authentication code of a message on `control`; empty where this client has no key for it.

        Raises:
            BadSetting: the keyring has no operators' key.
        """
        data = signed_control(message)
        if isinstance(message, Operators) or message.tenant is None:
            return self.operator.mac("operator", data) if self.operator is not None else b""
        return mac(self.secret, data) if self.secret else b""


class Given(NamedTuple):
    """What a client was made with."""

    tenant: str = ""
    secret: bytes | None = None
    credentials: Credentials | Path | None = None
    operator: Keyring | None = None
    state_directory: Path | None = None
    """Where the credentials of the tenant are looked for if there is neither a secret nor credentials."""

    @property
    def name(self) -> str:
        """The tenant's, as far as it is known before any file is read."""
        return self.credentials.tenant if isinstance(self.credentials, Credentials) else self.tenant or DEFAULT_TENANT

    async def identity(self) -> Identity:
        """Reads what must be read.

        Raises:
            BadSetting: the credentials cannot be read, or they are another tenant's.
        """
        reads = isinstance(self.credentials, Path) or (self.credentials is None and self.state_directory is not None)
        return identify(self, await asyncio.to_thread(self._read) if reads else self._read())

    def _read(self) -> Credentials | None:
        place = self.credentials
        if place is None and self.secret is None and self.state_directory is not None:
            place = find_credentials(self.state_directory, self.tenant or DEFAULT_TENANT)
        return load_credentials(place) if isinstance(place, Path) else place


def identify(given: Given, credentials: Credentials | None) -> Identity:
    """The identity; a secret that was given overrides that of the credentials. Raises `BadSetting`."""
    if credentials is None:
        secret = given.secret or b""
        return Identity(given.name, secret, None, Opening(given.name, [secret], []), given.operator)
    tenant = credentials.tenant
    if given.tenant not in ("", tenant):
        problem = f"they are those of tenant {tenant}, not of {given.tenant}"
        raise BadSetting(setting="credentials", problem=problem)
    secret = credentials.secret if given.secret is None else given.secret
    opening = Opening(tenant, [secret, *credentials.previous_secrets], credentials.reply_keys)
    return Identity(tenant, secret, Sealing(credentials), opening, given.operator)


def find_credentials(state_directory: Path, tenant: str) -> Path | None:
    """The credentials that a system on this machine keeps for a tenant, where they are there."""
    file = credentials_file(state_directory, tenant)
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return file  # it is told when it is read: what was meant to be sealed must not go in the clear instead
    return file
