"""The prefix of topics, groups and transactional ids, put on before Kafka hears a name and taken off behind it."""

from __future__ import annotations

from aiokafka import TopicPartition

from llmos.infra.log.port import Place


class Names:
    """Translates names and places, remembering both ways."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._partitions: dict[Place, TopicPartition] = {}
        self._places: dict[TopicPartition, Place] = {}

    def wire(self, name: str) -> str:
        """A topic, group or transactional id as Kafka knows it."""
        return self._prefix + name

    def partition(self, place: Place) -> TopicPartition:
        """The place as aiokafka knows it."""
        found = self._partitions.get(place)
        if found is None:
            found = TopicPartition(self._prefix + place.topic, place.partition)
            self._partitions[place] = found
            self._places[found] = place
        return found

    def place(self, partition: TopicPartition) -> Place:
        """The place behind aiokafka's name."""
        found = self._places.get(partition)
        if found is None:
            found = Place(partition.topic.removeprefix(self._prefix), partition.partition)
            self._places[partition] = found
        return found
