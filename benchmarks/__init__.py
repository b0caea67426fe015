"""Benchmarks: `make bench` runs all, `make bench BENCH=pipeline` one. Each is a module with `async def run() -> list[Row]`.

- `harness`: rows, the machine they were measured on, the table and `results/<name>.json`.
- `pipeline`: `echo` from produce to answer read, beside a bare chain of as many hops on the same broker.
"""
