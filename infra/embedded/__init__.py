"""The stack that `llmos up` starts: the real Kafka broker and a real Redis as child processes.

Rooms:

- `stack`: starts what the settings leave empty and fills in the addresses; `broker` and `redis_server` say how.
- `jars`: Kafka's jars, each held to a committed SHA-256 (`kafka.lock.toml`, made by `lock`); `java`: a Java that runs them.
- `child`: a process with a log, a readiness probe and a death that is seen at once; `launcher` makes it die with us;
  `identity` tells one process from another that got its id.
- `directory`: the state directory: one owner, one layout; `ports`: loopback ports that stay.
"""
