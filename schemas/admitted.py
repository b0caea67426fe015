"""`admitted`: one record per readable, authentic submission, in order per source partition; by ingest for verify."""

from __future__ import annotations

from llmos.schemas.base import Codec, Message
from llmos.schemas.job import ErrorInfo, Head
from llmos.schemas.limits import Code, Crc32c, Digest, Metadata, Payload


class Admitted(Message, frozen=True, kw_only=True, tag="admitted/1"):
    """A submission that passed ingest; its payload is as the client sent it."""

    head: Head
    payload: Payload
    encoding: Code
    """Content type of a clear payload."""
    sealed: bool = False
    crc32c: Crc32c | None = None
    metadata: Metadata = b""
    """Of a sealed request: `llmos.schemas.requests.metadata_bytes` of what the client sent. Its envelope is bound to their
    SHA-256 (see `llmos.infra.crypto.channels.request_bound`), so that verify believes them where it opens, and not the head."""
    signed_with: Digest = b""
    """Fingerprint of the tenant's secret under which the client signed; empty: it did not. Around a rotation two hold."""


class Refusal(Message, frozen=True, kw_only=True, tag="refusal/1"):
    """A submission that will be answered with an error; travels like any other record."""

    head: Head
    error: ErrorInfo
    stage: Code


ADMITTED = Codec.of(Admitted, Refusal)
