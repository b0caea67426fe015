"""How services open envelopes: what does not open is counted. (Clients have no metrics, and need not load them.)"""

from __future__ import annotations

from llmos.infra.crypto.envelope import Bound, Parsed, open_parsed, parse
from llmos.infra.crypto.keyring import Opener
from llmos.infra.telemetry.metrics import ENVELOPES_REJECTED, counter
from llmos.schemas.errors import EnvelopeRejected


def parse_counted(channel: str, envelope: bytes) -> Parsed:
    """As `parse`, of what should be an envelope of this channel (see `Bound`). Raises `EnvelopeRejected`."""
    try:
        return parse(envelope)
    except EnvelopeRejected:
        counter(ENVELOPES_REJECTED, channel).inc()
        raise


def open_counted(keys: Opener, bound: Bound, envelope: bytes | Parsed) -> bytes:
    """As `open_envelope`, or `open_parsed` where it was taken apart already. Raises `EnvelopeRejected`."""
    try:
        return open_parsed(keys, bound, parse(envelope) if isinstance(envelope, bytes) else envelope)
    except EnvelopeRejected:
        counter(ENVELOPES_REJECTED, bound.channel).inc()
        raise
