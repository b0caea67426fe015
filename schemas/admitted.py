"""`admitted`: one record per readable, authentic submission, in order per source partition; by ingest for verify."""

from __future__ import annotations

from llmos.schemas.base import Codec, Message
from llmos.schemas.job import ErrorInfo, Head
from llmos.schemas.limits import Code, Crc32c, Digest, Payload


class Admitted(Message, frozen=True, kw_only=True, tag="admitted/1"):
    """A submission that passed ingest; its payload is as the client sent it."""

    head: Head
    payload: Payload
    encoding: Code
    """Content type of a clear payload."""
    sealed: bool = False
    crc32c: Crc32c | None = None
    metadata_digest: Digest = b""
    """SHA-256 of the request's metadata as the client sent it: its envelope is bound to that (see
    `llmos.infra.crypto.channels.request_bound`)."""
    signed_with: Digest = b""
    """Fingerprint of the tenant's secret under which the client signed; empty: it did not. Around a rotation two hold."""


class Refusal(Message, frozen=True, kw_only=True, tag="refusal/1"):
    """A submission that will be answered with an error; travels like any other record."""

    head: Head
    error: ErrorInfo
    stage: Code


ADMITTED = Codec.of(Admitted, Refusal)
