"""Seals requests to the system: one secret per client and minute, a data key per request made of it; no I/O.

Wrapping a secret for the system's key costs twenty times what a data key does, so one secret serves many requests. A client
that is opened up in memory gives away what it sent in its last minute, not all that it ever sent.
"""

from __future__ import annotations

import asyncio

from llmos.infra.crypto.channels import request_bound
from llmos.infra.crypto.credentials import Credentials
from llmos.infra.crypto.envelope import Secret
from llmos.infra.crypto.kept_secrets import RENEW_SECONDS, KeptSecrets
from llmos.schemas.errors import BadSetting
from llmos.schemas.job import Lane
from llmos.schemas.requests import Request

RENEW_REQUESTS = 2**20
"""How many requests it serves at most."""


class Sealing:
    """Belongs to one client; after a fork the child makes a secret of its own."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._secrets: KeptSecrets[int] = KeptSecrets(most=1)
        """By how often one had served its number of requests."""
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
        turn = self._requests // RENEW_REQUESTS
        secret = self._secrets.get(turn, now, lambda: self._make(turn))
        self._requests += 1
        return secret.data_key(bound).seal(bound, payload)

    def _make(self, turn: int) -> Secret:
        key = self._credentials.ingress
        if key is None:
            problem = "they have no key of the system to seal to; put what `llmos keys export` prints into system_keys"
            raise BadSetting(setting="credentials", problem=problem)
        try:
            secret = Secret.for_public(key.key, self._credentials.tenant)
        except ValueError as problem:
            raise BadSetting(setting="credentials", problem=f"the key of the system is none: {problem}") from None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return secret  # nobody can be asked to let go of it in time: the next use does
        loop.call_later(RENEW_SECONDS, self._secrets.drop, turn, secret)
        return secret
