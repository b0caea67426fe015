"""Submissions for verify's handler, and what it made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from llmos.infra.log.port import Place
from llmos.infra.stages.one_in_one_out import Emitted, Settlement
from llmos.infra.stages.origins import Origins
from llmos.schemas.admitted import Admitted, Refusal
from llmos.schemas.base import MSGPACK, encode
from llmos.schemas.sealed import SEALED, Job
from llmos.services.verify.handler import VerifyHandler
from tests.kit.bench import head, record

PLACE = Place("admitted", 1)


def echo(offset: int, text: Any = "hello", **fields: Any) -> Admitted:
    payload = msgspec.msgpack.encode({"text": text})
    return Admitted(head=head(f"k{offset}", offset, **fields), payload=payload, encoding=MSGPACK)


async def settle(handler: VerifyHandler, *messages: Any, origins: Origins | None = None) -> Sequence[Settlement]:
    values = [message if isinstance(message, bytes) else encode(message) for message in messages]
    records = [record(value, "admitted", 1, offset) for offset, value in enumerate(values)]
    return await handler.settle(PLACE, records, origins or Origins())


def message_of(settlement: Settlement) -> Job | Refusal:
    assert isinstance(settlement, Emitted)
    assert settlement.place == Place("sealed", 1)
    message: Job | Refusal = SEALED.decode(settlement.out.value)
    assert settlement.out.key == message.head.job_id
    return message
