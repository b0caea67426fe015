"""Checks a submission and splits it: all that nothing behind verify can see any more. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from llmos.infra.crypto.keyring import Keys
from llmos.infra.crypto.macs import mac
from llmos.infra.settings.tree import Verify
from llmos.pipelines.admission.model_rights import may_use_model
from llmos.pipelines.kinds import Kind, PartPlan, kind_named
from llmos.pipelines.kinds.contents import content_of, options_of
from llmos.pipelines.kinds.sizes import item_bytes
from llmos.schemas.admitted import Admitted
from llmos.schemas.catalog import Model, Tenant
from llmos.schemas.errors import (
    InvalidRequest,
    ModelGone,
    ModelQuarantined,
    ModelUnavailable,
    NoChatTemplate,
    NotAllowed,
    ReplyTopicForbidden,
    TooLarge,
    TooLong,
    UnknownModel,
    WrongModel,
)
from llmos.schemas.job import Head
from llmos.schemas.limits import ANSWER_BYTES
from llmos.schemas.tasks import GenerateInput, Prompt
from llmos.services.verify.opening import check_whole, open_payload


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


def check(
    message: Admitted,
    tenant: Tenant,
    secrets: Sequence[bytes],
    keys: Keys,
    models: Directory,
    settings: Verify,
    now: float,
) -> Checked:
    """The submission, opened, checked and split. `secrets`: those of the tenant that hold, the one in use first.

    Raises:
        RefusedError: it cannot be done as asked; says what to change, and never quotes the payload.
        EnvelopeRejected: the payload is sealed, and does not open as what the request says it is.
        ModelGone, ModelUnavailable: the model that it asks for is nowhere.
    """
    head = message.head
    # First of all: a refusal for any other reason is copied there.
    _check_reply_topic(head, tenant, settings)
    check_whole(message)
    _check_rights(head, tenant)
    opened = open_payload(message, tenant, keys, now)
    head = opened.head
    if tenant.plaintext == "forbid" and not head.reply_key:
        raise InvalidRequest(where="reply_key", problem="answers must be sealed for this tenant, and it names no key")
    kind = kind_named(head.kind)
    request = kind.read(opened.body, opened.encoding)
    model = _resolve(models, head, tenant) if kind.needs_model else None
    if model is not None and not model.chat and isinstance(request, GenerateInput) and request.messages:
        raise NoChatTemplate(model=model.name)
    parts = _split(kind, request, model, models, settings)
    _check_answer(kind, request, parts, model, head)
    content = msgspec.msgpack.encode([head.job_id, head.kind, head.model_name, content_of(request)])
    digest, other = [*(mac(secret, content) for secret in secrets[:2]), b""][:2]
    return Checked(
        msgspec.structs.replace(
            head,
            model=model.identity if model else "",
            content_digest=digest,
            other_digest=other,
            options=options_of(request),
            parts=len(parts),
            items=sum(part.items for part in parts),
            sealed=message.sealed,
            sealed_at=now,
        ),
        parts,
    )


def _check_reply_topic(head: Head, tenant: Tenant, settings: Verify) -> None:
    if head.reply_to is None:
        return
    for prefixes in (settings.reply_prefixes, tenant.prefixes):
        if not head.reply_to.startswith(tuple(prefixes)):
            raise ReplyTopicForbidden(topic=head.reply_to, prefixes=", ".join(prefixes))


def _check_rights(head: Head, tenant: Tenant) -> None:
    """Ingest has looked already, a moment before: here rights hold that were taken away since."""
    if tenant.lanes and head.lane not in tenant.lanes:
        raise NotAllowed(tenant=tenant.name, what="lane", name=head.lane)
    if tenant.kinds and head.kind not in tenant.kinds:
        raise NotAllowed(tenant=tenant.name, what="kind", name=head.kind)


def _split(kind: Kind, request: Any, model: Model | None, models: Directory, settings: Verify) -> list[PartPlan]:
    """The parts, their tokens counted. Raises `TooLong`."""
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
    return parts


def _check_answer(kind: Kind, request: Any, parts: Sequence[PartPlan], model: Model | None, head: Head) -> None:
    """Raises `TooLarge` where the answer, sealed as it will be, may not fit a record; `InvalidRequest` for a reply key."""
    try:
        around = item_bytes(head.reply_key)
    except ValueError as problem:
        raise InvalidRequest(where="reply_key", problem=str(problem)) from None
    size = kind.answer_bytes(request, parts, model.width if model else 0) + around * sum(part.items for part in parts)
    if size > ANSWER_BYTES:
        raise TooLarge(what="the answer to this request", size=size, limit=ANSWER_BYTES)


def _resolve(models: Directory, head: Head, tenant: Tenant) -> Model:
    if not head.model_name:
        raise InvalidRequest(
            where="model", problem=f"{head.kind} needs a model; `llmos models list` shows what there is"
        )
    model = _allowed(models, head.model_name, tenant)
    if model.damaged is not None:
        raise ModelUnavailable(model=model.name, device="any device", problem=model.damaged.message)
    if head.kind not in model.kinds:
        raise WrongModel(model=model.name, kind=head.kind, architecture=model.architecture)
    return model


def _allowed(models: Directory, asked: str, tenant: Tenant) -> Model:
    """The model of that name.

    Raises:
        NotAllowed: the tenant may not use it; in the same words where there is no such model, or none that is whole, as
            long as its rights do not cover the name itself.
        UnknownModel, ModelQuarantined, ModelGone: see `Directory.resolve`.
    """
    forbidden = NotAllowed(tenant=tenant.name, what="model", name=asked)
    try:
        model = models.resolve(asked)
    except (UnknownModel, ModelQuarantined, ModelGone):
        if may_use_model(tenant, [asked]):
            raise
        raise forbidden from None
    if not may_use_model(tenant, [asked, model.name, model.identity]):
        raise forbidden
    return model


def _items_per_part(kind: Kind, settings: Verify) -> int:
    by_setting = {"embed": settings.embed_items_per_part, "echo": settings.echo_items_per_part}
    return by_setting.get(kind.name, kind.items_per_part)
