"""The log over real Kafka, through aiokafka; what it leans on was tried on a broker and is tested against one.

Rooms:

- `connection`: `KafkaLog`, a service's connection: it emits, and makes readers and transactors.
- `reader`: reads places assigned by hand. `consumption`: one consumer of it, for what is committed or for whatever lies there.
- `transactor`: a transactional producer. `deliveries`: what it sends, awaited, and who holds it up.
- `queries`: partitions, offsets, commits. `creation`: makes topics.
- `batches`: fills batches. `clients`: aiokafka's clients with our options, started and stopped within a time.
- `names`: the prefix. `errors`: what each of aiokafka's errors means to us.
"""

from llmos.infra.log.kafka.connection import KafkaLog

__all__ = ["KafkaLog"]
