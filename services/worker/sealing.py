"""Seals what attempts bring, for those who asked: a secret per tenant and reply key for a minute, a data key per attempt.

Wrapping a secret for a reply key costs a hundred times what sealing an item does, so a worker keeps it for a while; a data key
is made of it with a salt of its own for each attempt, so that no two attempts at a part ever share key and nonce, whatever
epoch they have and however often the process starts.
"""

from __future__ import annotations

import msgspec

from llmos.infra.crypto.channels import EventBody, encode_body, event_bound, item_bound, item_digest
from llmos.infra.crypto.envelope import DataKey, Secret
from llmos.infra.crypto.kept_secrets import KeptSecrets
from llmos.schemas.errors import InvalidRequest
from llmos.schemas.job import Head, Item
from llmos.schemas.stream import Tokens
from llmos.services.worker.held import HeldTask
from llmos.services.worker.runners.events import ItemEnded
from llmos.services.worker.telling import told


class OutputSeals:
    """The secrets that this process has for askers. Belongs to the event loop."""

    def __init__(self) -> None:
        self.secrets: KeptSecrets[tuple[str, bytes]] = KeptSecrets()
        """By tenant and reply key."""

    def item(self, held: HeldTask, ended: ItemEnded, now: float) -> Item:
        """The item as it travels: its output sealed for the asker (or clear, where the job has no reply key), and the
        keyed digest of the clear output. Where the reply key cannot be used, it is an item that failed."""
        head, task = held.work.head, held.work.task
        index = held.work.part.first_item + ended.item
        output, error, sealed = ended.output, ended.error, False
        travels = output
        if output and head.reply_key:
            try:
                travels = self._data_key(held, now).seal(item_bound(head, task.part, task.epoch, index), output)
                sealed = True
            except InvalidRequest as problem:
                output, travels, error = b"", b"", problem
        code = error.code if error is not None else ""
        return Item(
            output_index=index,
            output=travels,
            error=told(error, head) if error is not None else None,
            sealed=sealed,
            part=task.part,
            digest=item_digest(held.digest_key, index, head.items, output, code) if held.digest_key else b"",
            tokens_in=ended.tokens_in,
            tokens_out=ended.tokens_out,
        )

    def tokens(self, held: HeldTask, event: Tokens, body: EventBody, now: float) -> Tokens | None:
        """The event, made without its body, with it: sealed, or clear where the job has no reply key; None where the reply
        key cannot be used: the items tell of that."""
        head = held.work.head
        if not head.reply_key:
            return msgspec.structs.replace(
                event,
                text=body.text,
                first_token=body.first_token,
                tokens=body.tokens,
                finish=body.finish,
                resume_at=body.resume_at,
            )
        try:
            data_key = self._data_key(held, now)
        except InvalidRequest:
            return None
        return msgspec.structs.replace(event, sealed=data_key.seal(event_bound(head.tenant, event), encode_body(body)))

    def _data_key(self, held: HeldTask, now: float) -> DataKey:
        """The attempt's own data key. Raises `InvalidRequest` where the job's reply key cannot be used."""
        if held.data_key is None:
            head, task = held.work.head, held.work.task
            secret = self.secrets.get((head.tenant, head.reply_key), now, lambda: _fresh(head))
            held.data_key = secret.data_key(item_bound(head, task.part, task.epoch, 0))
        return held.data_key


def _fresh(head: Head) -> Secret:
    try:
        return Secret.for_public(head.reply_key, head.tenant)
    except ValueError as problem:
        raise InvalidRequest(where="reply_key", problem=f"nothing can be sealed to it: {problem}") from None
