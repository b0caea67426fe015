"""Seals requests to the system: one secret per client and minute, a data key per request made of it; no I/O.

Wrapping a secret for the system's key costs twenty times what a data key does, so one secret serves many requests. A client
that is opened up in memory gives away what it sent in its last minute, not all that it ever sent.
"""

from __future__ import annotations

import os

from llmos.infra.crypto.channels import request_bound
from llmos.infra.crypto.credentials import Credentials
from llmos.infra.crypto.envelope import Secret
from llmos.schemas.errors import BadSetting
from llmos.schemas.job import Lane
from llmos.schemas.requests import Request

RENEW_SECONDS = 60.0
"""How long a secret serves."""
RENEW_REQUESTS = 2**20
"""How many requests it serves at most."""


class Sealing:
    """Belongs to one client; after a fork the child makes a secret of its own."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._secret: Secret | None = None
        self._made_at = 0.0
        self._made_by = 0
        self._requests = 0

    @property
    def can_read_replies(self) -> bool:
        """Whether the credentials have a key for answers to the tenant."""
        return bool(self._credentials.reply_keys)

    def seal(self, request: Request, lane: Lane, payload: bytes, now: float) -> bytes:
        """The envelope of a request's payload, bound to all its metadata: to be set after it are `payload`, `crc32c`, `mac`.

        Raises:
            BadSetting: the credentials have no key of the system, or none that anything can be sealed to.
        """
        bound = request_bound(request, lane)
        return self._current(now).data_key(bound).seal(bound, payload)

    def _current(self, now: float) -> Secret:
        fresh = 0.0 <= now - self._made_at < RENEW_SECONDS and self._requests < RENEW_REQUESTS
        if self._secret is None or not fresh or self._made_by != os.getpid():
            self._secret = self._make()
            self._made_at, self._made_by, self._requests = now, os.getpid(), 0
        self._requests += 1
        return self._secret

    def _make(self) -> Secret:
        key = self._credentials.ingress
        if key is None:
            problem = "they have no key of the system to seal to; put what `llmos keys export` prints into system_keys"
            raise BadSetting(setting="credentials", problem=problem)
        try:
            return Secret.for_public(key.key, self._credentials.tenant)
        except ValueError as problem:
            raise BadSetting(setting="credentials", problem=f"the key of the system is none: {problem}") from None
