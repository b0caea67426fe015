"""How services open envelopes: what does not open is counted. (Clients have no metrics, and need not load them.)"""

from __future__ import annotations

from llmos.infra.crypto.envelope import Bound, open_envelope
from llmos.infra.crypto.keyring import Opener
from llmos.infra.telemetry.metrics import ENVELOPES_REJECTED, counter
from llmos.schemas.errors import EnvelopeRejected


def open_counted(keys: Opener, bound: Bound, envelope: bytes) -> bytes:
    """As `open_envelope`. Raises `EnvelopeRejected`."""
    try:
        return open_envelope(keys, bound, envelope)
    except EnvelopeRejected:
        counter(ENVELOPES_REJECTED, bound.channel).inc()
        raise
