"""Every message, topic, state machine, limit and error code, once. Imports nothing but msgspec and the standard library.

Rooms, one file per topic (or group of topics) and what they share:

- `requests` → `admitted` → `sealed` → `work` → `partials` → `results` (with `usage`): a job's way.
- `stream`: what a client hears meanwhile. `telemetry`, `control`: what services tell and are told.
- `catalog` (with `tenants`), `epochs`, `dead`: what outlives jobs.
- `job`: heads, parts, items, tasks: the values inside those messages. `tasks`: input and output of each kind.
- `topics`: the table that creates the topics. `states`: state machines. `limits`: every bound.
- `errors`: the error tree. `ids`: job ids, partitions, epochs. `base`: how a message becomes bytes.

A message may gain fields with defaults; anything else is a new version beside the old one (see `base`).
"""
