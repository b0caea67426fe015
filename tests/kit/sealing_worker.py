"""A worker as a client meets it: outputs and token events sealed for the asker, with digests under the tenant's secret."""

from __future__ import annotations

from typing import Any

import msgspec

from llmos.client import Submission
from llmos.infra.crypto.channels import (
    EventBody,
    digest_key,
    encode_body,
    event_bound,
    item_bound,
    item_digest,
)
from llmos.infra.crypto.credentials import Credentials, PublicKey, ReplyKey
from llmos.infra.crypto.envelope import DataKey, Secret
from llmos.infra.crypto.keyring import Keyring
from llmos.schemas.job import ErrorInfo, Item
from llmos.schemas.results import Answer
from llmos.schemas.stream import Tokens

SECRET = b"s" * 32


def credentials_of(keys: Keyring, tenant: str = "demo", secret: bytes = SECRET, **fields: Any) -> Credentials:
    """Credentials for a system with these keys."""
    ingress = keys.active("ingress")
    system = [PublicKey(id=ingress.id, purpose="ingress", key=ingress.public)]
    values: dict[str, Any] = {"reply_keys": [ReplyKey.fresh()], "system_keys": system} | fields
    return Credentials(tenant=tenant, secret=secret, **values)


class Worker:
    """Seals for one reply key, with a data key for each attempt."""

    def __init__(self, public: bytes, secret: bytes = SECRET, tenant: str = "demo") -> None:
        self._tenant = tenant
        self._secret = secret
        self._for_asker = Secret.for_public(public, tenant)
        self._attempts: dict[tuple[bytes, str, int], DataKey] = {}

    def items(self, answer: Answer, *outputs: Any, part: int = 0, first: int = 0, of: int = 0) -> list[Item]:
        """Items of one part of an answer that names its epochs, from `first` on, of `of` items that the job has (by default
        these); an `ErrorInfo` is an item that failed."""
        items = of or len(outputs)
        return [self._item(answer, part, index, items, output) for index, output in enumerate(outputs, first)]

    def _item(self, answer: Answer, part: int, index: int, items: int, output: Any) -> Item:
        key = digest_key(self._secret, answer.job_id)
        if isinstance(output, ErrorInfo):
            digest = item_digest(key, index, items, b"", output.code)
            return Item(output_index=index, part=part, error=output, digest=digest)
        plain = msgspec.msgpack.encode(output)
        bound = item_bound(answer, part, answer.epochs[part], index)
        digest = item_digest(key, index, items, plain, "")
        sealed = self._data_key(bound).seal(bound, plain)
        return Item(output_index=index, part=part, output=sealed, sealed=True, digest=digest)

    def event(self, to: Submission, epoch: int, sequence: int, text: str, **fields: Any) -> Tokens:
        """A token event of a submission."""
        body: dict[str, Any] = {"first_token": sequence, "tokens": 1, "finish": "", "resume_at": 0}
        body |= {name: fields.pop(name) for name in list(fields) if name in body}
        event = Tokens(
            job_id=to.job_id, request_id=to.request_id, origin=to.origin, partition=to.partition, s=1, epoch=epoch,
            source="w", sequence=sequence, **fields,
        )  # fmt: skip
        bound = event_bound(self._tenant, event)
        return msgspec.structs.replace(
            event, sealed=self._data_key(bound).seal(bound, encode_body(EventBody(text=text, **body)))
        )

    def _data_key(self, bound: Any) -> DataKey:
        name = (bound.job_id, bound.request_id, bound.epoch)
        if name not in self._attempts:
            self._attempts[name] = self._for_asker.data_key(bound)
        return self._attempts[name]
