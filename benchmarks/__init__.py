"""Benchmarks: `make bench` runs all, `make bench BENCH=pipeline` one. Each is a module with
`async def run(console) -> list[Row]`; one with `PARTS` takes the names of those to run beside it.

- `harness`: rows, the machine they were measured on, the table and `results/<name>.json`.
- `pipeline`: `echo` from produce to answer read, beside a bare chain of as many hops on the same broker.
- `seal`: what sealing, codes and signatures cost per record, and the whole pipeline with and without them.
- `serving`: tokens per second and time to the first token beside `transformers`; the scheduler's policies side by side.
"""
