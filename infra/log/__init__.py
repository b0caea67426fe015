"""The log: `port` says what it promises, `kafka` and `memory` keep it, `topics` makes the topics of the table.

Rooms:

- `port`: places, records, commits, and the protocols of log, reader, transactor and clock.
- `kafka`: over real Kafka. `memory`: inside one process, with faults, for tests and the simulator.
- `lanes`: one awaited batch at a time per place, calls queue up; both implementations emit through it.
- `sizes`: how large a record may be. `clock`: wall time.
- `topics`: the topics of the table, with this system's N, made and checked.
"""
