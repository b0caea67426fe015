"""A tenant's asker that has its credentials and no client of ours: seals and signs single requests, opens answers.

It sends what a client would refuse to send (a payload that is no input, a wrong code), so that a test sees what becomes of it.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from typing import Any

import msgpack
import msgspec

from llmos.infra.crypto.channels import digest_key, item_bound, item_digest, request_bound
from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.credentials import Credentials, ReplyKeys
from llmos.infra.crypto.envelope import Secret, open_envelope
from llmos.infra.crypto.macs import mac
from llmos.schemas.base import encode
from llmos.schemas.job import Item, Lane
from llmos.schemas.requests import Request, signed_bytes
from llmos.schemas.results import Answer


class Asker:
    """Belongs to one tenant."""

    def __init__(self, credentials: Credentials) -> None:
        assert credentials.ingress is not None, "credentials without a key of the system seal nothing"
        self.credentials = credentials
        self._secret = Secret.for_public(credentials.ingress.key, credentials.tenant)
        self._reader = ReplyKeys(credentials.reply_keys)

    def request(self, kind: str, payload: Any, lane: Lane = "standard", *, secret: bytes = b"", **fields: Any) -> bytes:
        """A sealed request on the wire. `payload`: what is inside, also what is no input; bytes: MessagePack already.
        `secret`: signs with another than the tenant's."""
        bare = Request(
            request_id=fields.pop("request_id", "") or uuid.uuid4().hex,
            tenant=self.credentials.tenant,
            kind=kind,
            sealed=True,
            submitted_at=time.time(),
            nonce=os.urandom(16),
            **fields,
        )
        bound = request_bound(bare, lane)
        inside = payload if isinstance(payload, bytes) else msgpack.packb(payload)
        envelope = self._secret.data_key(bound).seal(bound, inside)
        request = msgspec.structs.replace(bare, payload=envelope, crc32c=crc32c(envelope))
        tag = mac(secret or self.credentials.secret, signed_bytes(request, lane))
        return encode(msgspec.structs.replace(request, mac=tag))

    def opened(self, message: Mapping[str, Any]) -> list[bytes]:
        """The clear output of each item of an answer (as a stranger decodes it), empty for one that failed.

        Raises `EnvelopeRejected`, and `AssertionError` where an item is not sealed or its digest is another.
        """
        answer = msgspec.convert(message, Answer)
        key = digest_key(self.credentials.secret, answer.job_id)
        indices = sorted(item.output_index for item in answer.items)
        assert indices == list(range(len(indices))), "an output is missing, or there twice"
        return [self._opened(answer, item, key) for item in answer.items]

    def _opened(self, answer: Answer, item: Item, key: bytes) -> bytes:
        assert item.sealed == bool(item.output), "an output came in the clear"
        output = b""
        if item.sealed:
            bound = item_bound(answer, item.part, answer.epochs[item.part], item.output_index)
            output = open_envelope(self._reader, bound, item.output)
        if item.error and not item.digest:
            return output  # the scheduler ended it, and has no key for digests
        code = item.error.code if item.error else ""
        assert item.digest == item_digest(key, item.output_index, len(answer.items), output, code), (
            "the output has another digest"
        )
        return output
