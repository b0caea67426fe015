"""A service's keys, live: the keyring's file is read again when it changes, so that keys rotate while jobs are in flight.

Whoever runs a service calls `refresh` about once a second. Beside that, a key that is asked for and not there makes it look
at the file at once: a key may be used elsewhere a moment after it was made.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import structlog

from llmos.infra.crypto import envelope
from llmos.infra.crypto.keyfile import load_copy, load_keyring
from llmos.infra.crypto.keyring import Keyring, Purpose, Signing
from llmos.infra.crypto.roles import ROLES, for_service
from llmos.infra.telemetry.metrics import KEYRINGS_REFUSED, counter
from llmos.schemas.errors import BadSetting

log = structlog.get_logger()

LOOK_SECONDS = 1.0
"""How often `refresh` is due: a destroyed key is gone from a service after this time."""

_Signature = tuple[int, ...] | None


class LiveKeyring:
    """`keyring.SystemKeys` over a file. Usable from any thread.

    To look is one `stat` (some microseconds); the file is read only where that shows another one. A file that cannot be
    used, or that lacks keys which this service uses, is logged and counted once, and the keys of before stay: a keyring
    only grows, so that such a file is another system's, or was made anew, and under its keys nobody else could open
    anything. A service takes it by being started anew, which compares it with the system's.
    """

    def __init__(self, path: Path, service: str) -> None:
        """Raises `BadSetting`: see `load_keyring` and `for_service`."""
        self._path = path
        self._service = service
        self._lock = threading.Lock()
        self._signature = _signature(path)
        self._keys = for_service(load_keyring(path), service)

    def __repr__(self) -> str:
        return f"LiveKeyring({self._path}, {self._service})"

    @property
    def current(self) -> Keyring:
        """The keys of now, those of this service alone."""
        return self._keys

    def refresh(self) -> bool:
        """Looks at the file; whether there are other keys than before. Blocks for as long as a small file takes."""
        with self._lock:
            signature = _signature(self._path)
            if signature == self._signature:
                return False
            self._signature = signature
            try:
                read, exported_for = load_copy(self._path)
                fresh = for_service(read, self._service)
            except BadSetting as problem:
                counter(KEYRINGS_REFUSED, "unusable").inc()
                log.error("keyring_unusable", error=str(problem))
                return False
            lacks = _lacks(self._keys, read, self._service, is_copy=bool(exported_for))
            if lacks:
                counter(KEYRINGS_REFUSED, "another").inc()
                log.error(
                    "keyring_refused", lacks=lacks, why="it has not the keys that are in use; put the right one back"
                )
                return False
            before, self._keys = self._keys, fresh
            gone = _usable(before) - _usable(fresh)
            if gone:
                envelope.forget()
            log.info("keyring_reloaded", made=sorted(_usable(fresh) - _usable(before)), gone=sorted(gone))
            return True

    def wrap(self, purpose: Purpose, secret: bytes, context: bytes, tenant: str = "") -> tuple[str, bytes]:
        """See `Keyring.wrap`."""
        self.holds(purpose, tenant)
        return self._keys.wrap(purpose, secret, context, tenant)

    def holds(self, purpose: Purpose, tenant: str = "") -> bool:
        """See `Keyring.holds`."""
        return self._keys.holds(purpose, tenant) or self._looked().holds(purpose, tenant)

    def active_id(self, purpose: Purpose, tenant: str = "") -> str:
        """See `Keyring.active_id`."""
        return self._keys.active_id(purpose, tenant) or self._looked().active_id(purpose, tenant)

    def has(self, key_id: str) -> bool:
        """See `Keyring.has`."""
        return self._keys.has(key_id) or self._looked().has(key_id)

    def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        """See `Keyring.unwrap`."""
        self.has(key_id)
        return self._keys.unwrap(key_id, wrapped, context)

    def mac(self, purpose: Purpose, data: bytes) -> bytes:
        """See `Keyring.mac`."""
        self.holds(purpose)
        return self._keys.mac(purpose, data)

    def check_mac(self, purpose: Purpose, data: bytes, tag: bytes) -> bool:
        """See `Keyring.check_mac`. A wrong one may be of a key that was just made, so that the file is looked at."""
        return self._keys.check_mac(purpose, data, tag) or self._looked().check_mac(purpose, data, tag)

    def sign(self, purpose: Signing, data: bytes) -> tuple[str, bytes]:
        """See `Keyring.sign`."""
        self.holds(purpose)
        return self._keys.sign(purpose, data)

    def check_signed(self, purpose: Signing, data: bytes, signature: bytes) -> bool:
        """See `Keyring.check_signed`. As with codes, a wrong one may be of a key that was just made."""
        signed = self._keys.check_signed(purpose, data, signature)
        return signed or self._looked().check_signed(purpose, data, signature)

    def _looked(self) -> Keyring:
        """The keys after another look, whoever took it: another thread may just have."""
        self.refresh()
        return self._keys


def _usable(keyring: Keyring) -> set[str]:
    return {entry.id for entry in keyring.entries if entry.state != "destroyed"}


def _lacks(used: Keyring, read: Keyring, service: str, *, is_copy: bool) -> list[str]:
    """The active keys of a service that a keyring has never heard of, by id. A keyring keeps an entry of every key, also of
    destroyed ones; one service's copy does so of the keys whose secret halves that service has."""
    known = {entry.id for entry in read.entries}
    kept = ROLES[service].secret
    return sorted(
        entry.id
        for entry in used.entries
        if entry.state == "active" and (entry.purpose in kept or not is_copy) and entry.id not in known
    )


def _signature(path: Path) -> _Signature:
    """What tells one state of a file from another; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
