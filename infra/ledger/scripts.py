"""Loads the `.lua` files: the text that Redis is given, and the SHA-1 under which it keeps it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

_DIRECTORY = Path(__file__).parent


class Script(NamedTuple):
    """A script as Redis knows it."""

    name: str
    text: bytes
    sha: str

    @staticmethod
    def named(name: str, *shared: str) -> Script:
        """`common.lua`, what else is shared, and `<name>.lua`, one after the other."""
        text = b"\n".join((_DIRECTORY / f"{part}.lua").read_bytes() for part in ("common", *shared, name))
        return Script(name, text, hashlib.sha1(text, usedforsecurity=False).hexdigest())


ADMIT = Script.named("admit", "spent")
RELEASE = Script.named("release")
USE = Script.named("use")
TENANTS = Script.named("tenants", "spent")
CHARGE = Script.named("charge", "spent")
GENERATION = Script.named("generation")
RECONCILE = Script.named("reconcile")
LEASE = Script.named("lease", "lent")
END_LEASES = Script.named("end_leases", "lent")
LEASES = Script.named("leases", "lent")
RECONCILE_LEASES = Script.named("reconcile_leases", "lent")
PUT_WINDOWS = Script.named("put_windows")
WINDOWS = Script.named("windows")
PUT_RESIDENCY = Script.named("put_residency")
RESIDENCY = Script.named("residency")
PROBE = Script.named("probe")
