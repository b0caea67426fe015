"""The services, each its own process: thin I/O around the pure functions of `pipelines`.

Rooms, in the order in which a job meets them:

- `ingest`: requests → admitted: reads, authenticates, takes credits.
- `verify`: admitted → sealed: checks, resolves the model, splits, seals.
- `scheduler`: sealed → work.<device>: which job, on which device; verdicts.
- `worker`: work.<device> → partials, stream: one process per device.
- `aggregator`: partials → results, usage: the one transactional writer.
- `node`: one per machine: starts the workers and sees their deaths.

Each has an `app.py` with `async def run(ctx)`, built from settings; it owns every task and takes the turns.
"""
