"""Opens what was sealed to this client, answers and token events, and holds outputs to their digests; no I/O.

Anyone who may write to the log can seal to a public key. That an output is the worker's is shown by its digest, whose key only
the tenant, verify and the worker have.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Sequence

import msgspec
import structlog

from llmos.client.errors import CannotOpen
from llmos.infra.crypto.channels import EventBody, digest_key, event_bound, item_bound, item_digest
from llmos.infra.crypto.credentials import ReplyKey, ReplyKeys
from llmos.infra.crypto.envelope import open_envelope, parse
from llmos.infra.crypto.hpke import key_id_of
from llmos.schemas.errors import EnvelopeRejected
from llmos.schemas.job import Item
from llmos.schemas.results import Answer
from llmos.schemas.stream import Tokens

log = structlog.get_logger()

EPHEMERAL_KEYS = 100_000
"""Ephemeral reply keys that a client keeps, those made last: what is sealed to older ones can never be opened."""

_body = msgspec.msgpack.Decoder(EventBody)


class AskerKeys:
    """The reply keys of the credentials and the ephemeral ones of this client, as `keyring.Opener`."""

    def __init__(self, keys: Sequence[ReplyKey]) -> None:
        self._lasting = ReplyKeys(keys)
        self._ephemeral: OrderedDict[str, ReplyKeys] = OrderedDict()

    def add(self, key: ReplyKey, public: bytes) -> None:
        """Keeps an ephemeral key; the oldest makes room."""
        self._ephemeral[key_id_of(public)] = ReplyKeys([key])
        if len(self._ephemeral) > EPHEMERAL_KEYS:
            self._ephemeral.popitem(last=False)

    def has(self, key_id: str) -> bool:
        """Whether the key is here."""
        return key_id in self._ephemeral or self._lasting.has(key_id)

    def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        """The secret. Raises `EnvelopeRejected`."""
        return self._ephemeral.get(key_id, self._lasting).unwrap(key_id, wrapped, context)


class Opening:
    """Belongs to one client."""

    def __init__(self, tenant: str, secrets: Sequence[bytes], keys: Sequence[ReplyKey]) -> None:
        """`secrets`: the tenant's, and those before it, which answers may still be proved by; none: nothing is proved."""
        self.keys = AskerKeys(keys)
        self.refused_events = 0
        """Token events that were not shown: they could not be opened, or came clear although the request was sealed."""
        self._told = b""
        self._tenant = tenant
        self._secrets = [secret for secret in secrets if secret]

    def answer(self, answer: Answer, *, sealed: bool = False) -> Answer:
        """The answer with its outputs in the clear; `sealed`: its request was, so that nothing else is believed.

        Raises:
            CannotOpen: a key is missing, an output is not as the worker wrote it, or one is left out or there twice.
        """
        keys = [digest_key(secret, answer.job_id) for secret in self._secrets] if answer.items else []
        _check_complete(answer)
        items = [self._item(answer, item, keys, sealed) for item in answer.items]
        return msgspec.structs.replace(answer, items=items) if items else answer

    def _item(self, answer: Answer, item: Item, keys: Sequence[bytes], sealed: bool) -> Item:
        output = item.output
        if item.sealed:
            output = self._output(answer, item)
        elif sealed and output:
            raise CannotOpen(answer, f"output {item.output_index} is clear although the request was sealed")
        # What the scheduler ended, and a part that no worker could open, fail without a digest: nobody had its key.
        if keys and (output or item.digest or item.error is None):
            code = item.error.code if item.error is not None else ""
            items = len(answer.items)
            digests = (item_digest(key, item.output_index, items, output, code) for key in keys)
            if not any(hmac.compare_digest(digest, item.digest) for digest in digests):
                problem = f"the digest of output {item.output_index} is not one under this tenant's secret"
                raise CannotOpen(answer, problem)
        return msgspec.structs.replace(item, output=output, sealed=False) if item.sealed else item

    def _output(self, answer: Answer, item: Item) -> bytes:
        if item.part >= len(answer.epochs):
            raise CannotOpen(answer, f"output {item.output_index} names part {item.part}, which it does not have")
        bound = item_bound(answer, item.part, answer.epochs[item.part], item.output_index)
        try:
            return open_envelope(self.keys, bound, item.output)
        except EnvelopeRejected:
            raise CannotOpen(answer, self._why(item)) from None

    def _why(self, item: Item) -> str:
        """Only the holder learns more than that it could not be opened: which key it takes is in the clear anyway."""
        where = f"output {item.output_index}"
        try:
            key_ids = [key_id for key_id, _ in parse(item.output).wrapped]
        except EnvelopeRejected:
            return f"{where} is no envelope"
        if any(self.keys.has(key_id) for key_id in key_ids):
            return f"{where} was damaged or forged"
        return f"{where} is sealed to key {' or '.join(key_ids)}, which this client does not have"

    def event(self, event: Tokens, *, sealed: bool = False) -> Tokens | None:
        """The event in the clear; None (and a line in the log) where it cannot be opened: the final will tell."""
        if not event.sealed:
            if sealed:
                self._refused(event, "it is clear and the request was sealed")
            return None if sealed else event
        try:
            body = _body.decode(open_envelope(self.keys, event_bound(self._tenant, event), event.sealed))
        except (EnvelopeRejected, msgspec.DecodeError, UnicodeDecodeError):
            self._refused(event, "it cannot be opened")
            return None
        return msgspec.structs.replace(
            event,
            sealed=b"",
            text=body.text,
            first_token=body.first_token,
            tokens=body.tokens,
            finish=body.finish,
            resume_at=body.resume_at,
        )

    def _refused(self, event: Tokens, problem: str) -> None:
        self.refused_events += 1
        if self._told != event.job_id:  # where a key is missing, all events of a job come this way
            self._told = event.job_id
            log.warning("event_refused", job=event.job_id.hex(), epoch=event.epoch, problem=problem)


def _check_complete(answer: Answer) -> None:
    """Holds the items to be 0 to n - 1, each once; that there are n of them the digests say.

    Raises `CannotOpen`.
    """
    indices = sorted(item.output_index for item in answer.items)
    if indices != list(range(len(indices))):
        raise CannotOpen(answer, f"its outputs are not 0 to {len(indices) - 1}, each of them once")
    if not indices and answer.status == "completed":
        raise CannotOpen(answer, "it is completed and has no output")
