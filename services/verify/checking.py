"""Checks a submission and splits it: all that nothing behind verify can see any more. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import msgspec

from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.macs import mac
from llmos.infra.settings.tree import Verify
from llmos.pipelines.kinds import Kind, PartPlan, kind_named
from llmos.schemas.admitted import Admitted
from llmos.schemas.catalog import Model, Tenant
from llmos.schemas.errors import (
    InvalidRequest,
    ModelUnavailable,
    NoChatTemplate,
    PayloadDamaged,
    PlaintextForbidden,
    ReplyTopicForbidden,
    TooLarge,
    TooLong,
    WrongModel,
)
from llmos.schemas.job import Head
from llmos.schemas.limits import ANSWER_BYTES
from llmos.schemas.tasks import GenerateInput, Prompt


class Counted(NamedTuple):
    """Token counts of texts."""

    tokens: Sequence[int]
    exact: bool
    """By the model's own tokenizer; else estimated, and the worker has the last word."""


class Directory(Protocol):
    """The models there are."""

    def resolve(self, name: str) -> Model:
        """By identity, name or alias. Raises `UnknownModel`, `ModelQuarantined`, `ModelGone`."""

    def count(self, model: Model, texts: Sequence[Prompt]) -> Counted:
        """Tokens of texts and conversations. Raises `NoChatTemplate`, `InvalidRequest` for conversations."""


class Checked(NamedTuple):
    """A submission that will be done."""

    head: Head
    """With model identity, content digest and number of parts."""
    parts: list[PartPlan]


def check(message: Admitted, tenant: Tenant, secret: bytes, models: Directory, settings: Verify, now: float) -> Checked:
    """The submission, checked and split.

    Raises:
        RefusedError: it cannot be done as asked; says what to change.
        ModelGone, ModelUnavailable: the model that it asks for is nowhere.
    """
    head = message.head
    # First of all: a refusal for any other reason is copied there.
    if head.reply_to is not None and not head.reply_to.startswith(tuple(settings.reply_prefixes)):
        raise ReplyTopicForbidden(topic=head.reply_to, prefixes=", ".join(settings.reply_prefixes))
    _check_payload(message, tenant)
    kind = kind_named(head.kind)
    request = kind.read(message.payload, message.encoding)
    model = _resolve(models, head) if kind.needs_model else None
    if model is not None and not model.chat and isinstance(request, GenerateInput) and request.messages:
        raise NoChatTemplate(model=model.name)
    exact = True

    def count(texts: Sequence[Prompt]) -> Sequence[int]:
        nonlocal exact
        if model is None:
            return [0] * len(texts)
        counted = models.count(model, texts)
        exact = counted.exact
        return counted.tokens

    parts = kind.plan(request, count, _items_per_part(kind, settings))
    longest = max(part.longest_item_tokens for part in parts)
    if model is not None and exact and longest > model.context_tokens:
        raise TooLong(tokens=longest, model=model.name, limit=model.context_tokens)
    size = kind.answer_bytes(request, parts, model.width if model else 0)
    if size > ANSWER_BYTES:
        raise TooLarge(what="the answer to this request", size=size, limit=ANSWER_BYTES)
    content = msgspec.msgpack.encode([head.kind, head.model_name, _content(request)])
    items = sum(part.items for part in parts)
    return Checked(
        msgspec.structs.replace(
            head,
            model=model.identity if model else "",
            content_digest=mac(secret, content),
            parts=len(parts),
            items=items,
            sealed_at=now,
        ),
        parts,
    )


def _check_payload(message: Admitted, tenant: Tenant) -> None:
    if message.crc32c is not None:
        found = crc32c(message.payload)
        if found != message.crc32c:
            raise PayloadDamaged(found=found, said=message.crc32c)
    if message.sealed:
        raise InvalidRequest(
            where="sealed", problem="client envelopes cannot be opened yet; send the payload in the clear"
        )
    if message.head.reply_key:
        raise InvalidRequest(
            where="reply_key", problem="answers cannot be sealed for you yet; leave it out to get them in the clear"
        )
    if tenant.plaintext == "forbid":
        raise PlaintextForbidden(tenant=tenant.name)


def _resolve(models: Directory, head: Head) -> Model:
    if not head.model_name:
        raise InvalidRequest(
            where="model", problem=f"{head.kind} needs a model; `llmos models list` shows what there is"
        )
    model = models.resolve(head.model_name)
    if model.damaged is not None:
        raise ModelUnavailable(model=model.name, device="any device", problem=model.damaged.message)
    if head.kind not in model.kinds:
        raise WrongModel(model=model.name, kind=head.kind, architecture=model.architecture)
    return model


def _content(request: msgspec.Struct) -> dict[str, Any]:
    """What differs from the defaults: equal work is equal content, whether a default was written out or not.

    Left to itself the encoder leaves out a default only where it meets the very object.
    """
    content = {}
    for name, default in _defaults(type(request)):
        value = getattr(request, name)
        if value != default:
            content[name] = value
    return content


@lru_cache(maxsize=64)
def _defaults(kind: type[msgspec.Struct]) -> tuple[tuple[str, Any], ...]:
    # msgspec reads the annotations anew for each question, which costs more than everything else of a check.
    return tuple(
        (field.name, field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory())
        for field in msgspec.structs.fields(kind)
    )


def _items_per_part(kind: Kind, settings: Verify) -> int:
    by_setting = {"embed": settings.embed_items_per_part, "echo": settings.echo_items_per_part}
    return by_setting.get(kind.name, kind.items_per_part)
