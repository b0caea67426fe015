"""What llmos stands on: the log, the ledger, crypto, telemetry, settings, the embedded stack. Knows schemas, nothing above.

Rooms:

- `log`: the port to the log, on Kafka and in memory.
- `stages`: the three ways a service may read and write it (one in, one out; transactional; derived state), written once.
- `ledger`: Redis: credits, leases and the residency cache; rebuildable, never the truth.
- `crypto`: checksums, authentication codes, signatures, keyring, envelopes.
- `telemetry`: structured logs, metrics, health.
- `settings`: the one typed tree.
- `embedded`: Kafka and Redis as child processes. `deploy`: files for other ways to run.
"""
