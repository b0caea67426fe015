"""Serving: tokens per second and time to the first token beside `transformers`, and the scheduler's policies side by side.

- `throughput`: the decoder that ships and a random-weight model of 386 M parameters (the shape of Qwen2 with 0.5 B, a
  smaller vocabulary), on one CPU device with all cores. So many requests are sent at once, all of as many prompt tokens and
  output tokens, and the wall time until the last answer is read counts: through the whole pipeline, by the engine called
  directly, and by `transformers` `generate` in one batch. Prompts are read within that time, in all three. Beside it the time
  to the first token of one request alone, as a stream shows it. Bound: a step reads all weights once, so at batch 1 tokens/s
  is at most memory bandwidth over the bytes of the weights; at 16 the same step makes 16 tokens, and arithmetic binds.
- `policies`: two emulated devices of which one has a third of the other's speed, the same Poisson arrivals (60 % of what both
  can do) under the default policy and under each baseline: latency from the planned arrival to the answer read, p50 and p99,
  answers per second, and how many of the requests were completed. The scheduler is started anew for each policy.

Peers run in processes of their own, with as many threads, one after the other. Rooms: `models` has the models and the
prompts, `writer` writes the big one; `process` runs `engine` and `peer`; `pipeline` asks a running system; `switching` has a
system whose scheduler changes; `throughput` and `policies` are the two parts.

`make bench BENCH=serving` takes about twelve minutes, `BENCH=serving:policies` only that part.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from benchmarks.harness import Row
from benchmarks.serving import policies, throughput

PARTS = {"throughput": throughput.run, "policies": policies.run}


async def run(console: Console, parts: Sequence[str] = ()) -> list[Row]:
    """The figures of the parts that are named, else of all. Raises `KeyError` for one that there is not."""
    rows: list[Row] = []
    for part in [PARTS[name] for name in parts or PARTS]:
        rows += await part(console)
    return rows
