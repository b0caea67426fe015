"""Sealing: what it costs per record, and what it costs the whole pipeline.

- `records`: microseconds of one core for each thing that is sealed, opened, authenticated or signed on a job's way, for
  payloads of 200 B, 4 KiB and 64 KiB. Beside each the bound that no implementation passes: AES-256-GCM alone (of codes:
  HMAC-SHA-256 alone, of receipts: Ed25519 alone) on as many bytes; in the note what the same step costs in the clear, and
  what sealing adds to the record. Envelopes are fresh ones in each round, so that no cache of opened keys helps. Beside them
  the HPKE wrappings, which a client and a worker pay once a minute, with X25519 and with the hybrid with ML-KEM-768.
- `pipeline`: `echo` through a whole system, everything on (request sealed and signed, answer sealed to the tenant's reply key
  and opened) beside everything off (request and answer in the clear, no code), by the same tenant on the same stack, in
  turns. The asker's own sealing and opening counts. Goal: at most 1.15 times the latency, at least 0.9 times the rate.

`make bench BENCH=seal` takes about three minutes, `BENCH=seal:records` twenty seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from benchmarks.harness import Row
from benchmarks.seal import pipeline, records

PARTS = {"records": records.run, "pipeline": pipeline.run}


async def run(console: Console, parts: Sequence[str] = ()) -> list[Row]:
    """The figures of the parts that are named, else of all. Raises `KeyError` for one that there is not."""
    rows: list[Row] = []
    for part in [PARTS[name] for name in parts or PARTS]:
        rows += await part(console)
    return rows
