"""Whether an authenticated request is one of now, and the name under which it is taken once. Pure.

A copy of a right request is right, too: whoever can read and write the topic could have it done again, at its tenant's
expense. So a signed request says when it was made, and that must be near the time at which the log took it, which no client can
choose; and it carries a nonce, which is remembered for longer than a copy could pass for a fresh one (see `nonces`).
"""

from __future__ import annotations

import hashlib
from typing import Final

from llmos.infra.log.port import Record
from llmos.infra.stages.replays import replay_name
from llmos.schemas.dead import Replay
from llmos.schemas.errors import Stale
from llmos.schemas.requests import Request
from llmos.services.ingest.loose import Loose

NONCE_BYTES: Final = 16
"""A nonce has so many bytes at least."""
LONGEST_NONCE_BYTES: Final = 32
_REPLAY_BYTES: Final = NONCE_BYTES - 1
"""Of the name of an operator's replay: no nonce is as short, so that none can be chosen to be one."""


def once(request: Request | Loose, record: Record, replay: Replay | None, limit: float) -> bytes:
    """The name under which a signed request of its tenant may be taken once: its nonce.

    With an operator's word (`replay`) it is as fresh as the record that died first, and each such word is taken once, under a
    name of its own. Empty: the request has no usable nonce, and is refused for that.

    Raises:
        Stale: its time lies further than `limit` seconds from the time at which the log took it.
    """
    taken_at = replay.timestamp if replay is not None else record.timestamp
    if isinstance(request.submitted_at, float):
        apart = abs(request.submitted_at - taken_at)
        if apart > limit:
            raise Stale(seconds=apart, limit=limit)
    if replay is not None:
        return hashlib.sha256(replay_name(replay).encode()).digest()[:_REPLAY_BYTES]
    nonce = request.nonce
    return nonce if isinstance(nonce, bytes) and NONCE_BYTES <= len(nonce) <= LONGEST_NONCE_BYTES else b""
