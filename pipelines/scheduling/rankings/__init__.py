"""Which of the devices that may take a task takes it: a file a ranking."""

from llmos.pipelines.scheduling.rankings.completion import completion_seconds, service_seconds
from llmos.pipelines.scheduling.rankings.round_robin import next_in_turn

__all__ = ["completion_seconds", "next_in_turn", "service_seconds"]
