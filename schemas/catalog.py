"""`catalog` (models and aliases) and `tenants`: compacted topics, followed live by every service that needs them."""

from __future__ import annotations

from typing import Literal

from llmos.schemas.base import Codec, Message
from llmos.schemas.job import ErrorInfo
from llmos.schemas.limits import Count, Key, Name, TenantName, Timeout


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


CATALOG = Codec.of(Model, Alias)
TENANTS = Codec.of(Tenant)
