"""Makes topics, with the retention, time stamps and sizes that the table asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from llmos.infra.log.kafka.errors import RAISED, ambiguous
from llmos.infra.log.kafka.names import Names
from llmos.infra.log.kafka.queries import Queries
from llmos.infra.log.port import TopicSpec
from llmos.infra.log.sizes import SLACK_BYTES
from llmos.infra.settings.tree import Kafka
from llmos.schemas.errors import BadSetting, OperatorError

_SETTINGS: dict[type[Exception], str] = {
    kafka.InvalidReplicationFactorError: "kafka.replication_factor",
    kafka.InvalidPartitionsError: "kafka.partitions",
    kafka.InvalidTopicError: "kafka.topic_prefix",
}
"""Which setting an error of creation speaks of."""


def configuration(spec: TopicSpec, replication_factor: int) -> dict[str, str]:
    """The topic's configuration in Kafka's words (its times are in milliseconds)."""
    result = {
        "max.message.bytes": str(spec.record_bytes + SLACK_BYTES),
        # Clients may compress with codecs that are not installed here: the broker unpacks their batches.
        "compression.type": "uncompressed",
        "message.timestamp.type": "LogAppendTime" if spec.append_time else "CreateTime",
    }
    if spec.retention_seconds is None:
        result["cleanup.policy"] = "compact"
    else:
        result |= {
            "cleanup.policy": "delete",
            "retention.ms": str(round(spec.retention_seconds * 1000)),
            "retention.bytes": "-1",
        }
    if replication_factor >= 3:
        # An acknowledgement then means that two have it.
        result["min.insync.replicas"] = "2"
    return result


async def ensure(settings: Kafka, client: str, names: Names, queries: Queries, specs: Sequence[TopicSpec]) -> None:
    """Makes the topics that do not exist yet, and waits until all have leaders.

    Raises:
        BadSetting: the cluster cannot keep what the settings ask for.
        OperatorError: the cluster refuses for another reason.
        Ambiguous: no answer came.
    """
    if not specs:
        return
    new = [
        NewTopic(
            names.wire(spec.name),
            spec.partitions,
            settings.replication_factor,
            topic_configs=configuration(spec, settings.replication_factor),
        )
        for spec in specs
    ]
    admin = AIOKafkaAdminClient(
        bootstrap_servers=settings.bootstrap,
        client_id=client,
        request_timeout_ms=round(settings.request_seconds * 1000),
    )
    try:
        async with asyncio.timeout(settings.request_seconds):
            await admin.start()
            response = await admin.create_topics(new)
            _look_at(response.topic_errors)
            for spec in specs:
                await queries.led(spec.name)
    except RAISED as error:
        raise ambiguous("making topics", error) from error
    finally:
        await admin.close()


def _look_at(topic_errors: Sequence[tuple[str, int, str]]) -> None:
    """`create_topics` raises nothing by itself."""
    for name, code, message in topic_errors:
        error = kafka.for_code(code)
        if error in (kafka.NoError, kafka.TopicAlreadyExistsError):
            continue
        if error in _SETTINGS:
            raise BadSetting(setting=_SETTINGS[error], problem=f"topic {name}: {message}")
        raise OperatorError(problem=f"topic {name} could not be made: {error.__name__} {message or ''}".strip())
