"""`catalog` (models and aliases) and `tenants`: compacted topics, followed live by every service that needs them."""

from __future__ import annotations

from typing import Literal

from llmos.schemas.base import Codec, Message, Value
from llmos.schemas.job import ErrorInfo
from llmos.schemas.limits import Count, Key, Name, Seconds, Short, TenantName, Timeout


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


class Tenant(Message, frozen=True, kw_only=True, tag="tenant/1"):
    """Who may ask; keyed by name."""

    name: TenantName
    plaintext: Literal["allow", "forbid"] = "forbid"
    mac: Literal["optional", "required"] = "required"
    wrapped_secret: Key = b""
    """The tenant's secret under the system's key-encryption key."""
    key_id: str = ""
    weight: float = 1.0
    longest_timeout: Timeout = 86_400.0


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
