"""`catalog` (models and aliases) and `tenants`: compacted topics, followed live by every service that needs them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from llmos.schemas.base import Codec, Message, Value
from llmos.schemas.job import ErrorInfo, Lane
from llmos.schemas.limits import (
    Count,
    Digest,
    Key,
    ModelRef,
    Name,
    Seconds,
    Short,
    TenantName,
    Timeout,
    TopicName,
)


class Model(Message, frozen=True, kw_only=True, tag="model/1"):
    """A verified model that some node holds; keyed by its identity."""

    identity: str
    name: Name
    architecture: str
    kinds: list[str]
    parameters: Count
    weight_bytes: Count
    context_tokens: Count
    width: Count = 0
    """Hidden size: the length of an embedding."""
    dtype: str
    licence: str = ""
    damaged: ErrorInfo | None = None
    """Not written any more: what is damaged is damaged on a node, see `NodeModels`."""
    kv_bytes_per_token: Count = 0
    """Keys and values of one token of one sequence in the dtype above; 0: it keeps none."""
    chat: bool = False
    """It has a chat template: `generate` takes messages."""
    native: bool = True
    """An engine of llmos runs it; else the slower one of `transformers`."""


class Quarantined(Value, frozen=True, kw_only=True):
    """A model directory that must not be used, and why."""

    name: Name
    directory: Short
    error: ErrorInfo


class NodeModels(Message, frozen=True, kw_only=True, tag="node_models/1"):
    """Which models a node has whole, and which it has put in quarantine; keyed `node:<node>`, written anew whenever that
    changes and after each `verify`."""

    node: Name
    at: Seconds
    models: list[str] = []
    """Identities."""
    quarantined: list[Quarantined] = []
    verified_at: Seconds = 0.0
    """When all bytes were last read and hashed (Unix seconds)."""


class Pin(Message, frozen=True, kw_only=True, tag="pin/1"):
    """The model stays resident once it is loaded, and is loaded without being asked for; keyed `pin:<identity>:<device>`."""

    identity: str
    device: str = ""
    """Empty: on every device of a node that has it."""


class Alias(Message, frozen=True, kw_only=True, tag="alias/1"):
    """A name that stands for an identity; keyed `alias:<name>`."""

    name: Name
    identity: str


class Quotas(Value, frozen=True, kw_only=True):
    """What a tenant may use; 0: as much as there is."""

    jobs: Count = 0
    """Submissions in flight."""
    bytes: Count = 0
    """Payload bytes in flight."""
    requests_per_second: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    tokens_per_second: Annotated[float, Meta(ge=0, le=1e12)] = 0.0
    """Tokens read and written. Those of answers are charged once they are known: above it, new requests are refused."""
    burst_seconds: Annotated[float, Meta(ge=1, le=86_400)] = 10.0
    """How much of the two rates may be saved up: so many seconds' worth."""


class Tenant(Message, frozen=True, kw_only=True, tag="tenant/1"):
    """Who may ask; keyed by name."""

    name: TenantName
    plaintext: Literal["allow", "forbid"] = "forbid"
    """Whether payloads may come, and answers go, in the clear."""
    mac: Literal["optional", "required"] = "required"
    wrapped_secret: Key = b""
    """The tenant's secret under the system's key-encryption key."""
    key_id: str = ""
    fingerprint: Digest = b""
    """Of the secret, to compare."""
    previous_secret: Key = b""
    """The secret before the last rotation, wrapped alike; it holds until `previous_until`."""
    previous_key_id: str = ""
    previous_until: Seconds = 0.0
    reply_key: Key = b""
    """Public key to which answers are sealed where a request names none (see `llmos.infra.crypto.hpke`)."""
    reply_prefixes: list[TopicName] = []
    """`reply_to` topics begin with one of these, beside the system's own rule; empty: with `reply.<name>.`"""
    lanes: list[Lane] = []
    """It may use these; empty: all. So are `kinds` and `models`."""
    kinds: list[Name] = []
    models: list[ModelRef] = []
    """Names, aliases, identities; `*` stands for any characters."""
    weight: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    """Of its share of the devices' time while others wait."""
    quotas: Quotas = Quotas()
    default_timeout: Timeout = 600.0
    longest_timeout: Timeout = 86_400.0
    made_at: Seconds = 0.0
    note: Short = ""
    version: Count = 0
    """Grows with each change: a row with a lower one than was seen is an old one that was put there again."""
    seal_key_id: str = ""
    """Of the seal."""
    seal: Digest = b""
    """HMAC-SHA-256 of all other fields under the system's key: services go by no row without it."""

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What its `reply_to` topics may begin with."""
        return tuple(self.reply_prefixes) or (f"reply.{self.name}.",)

    @property
    def usual_timeout(self) -> float:
        """Of a request that names none, in seconds."""
        return min(self.default_timeout, self.longest_timeout)


def alias_key(name: str) -> bytes:
    """Key of an alias."""
    return f"alias:{name}".encode()


def node_models_key(node: str) -> bytes:
    """Key of what a node has."""
    return f"node:{node}".encode()


def pin_key(identity: str, device: str) -> bytes:
    """Key of a pin."""
    return f"pin:{identity}:{device}".encode()


CATALOG = Codec.of(Model, Alias, NodeModels, Pin)
TENANTS = Codec.of(Tenant)
