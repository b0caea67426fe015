"""Which of the devices that may take a task takes it: a file a ranking.

`completion`, the default, predicts; the others are baselines to measure it against (`scheduler.policy`).
"""

from collections.abc import Sequence

from llmos.pipelines.scheduling.rankings.least_work import least
from llmos.pipelines.scheduling.rankings.random_device import any_of
from llmos.pipelines.scheduling.rankings.round_robin import next_in_turn
from llmos.pipelines.scheduling.rankings.shortest_queue import shortest
from llmos.pipelines.scheduling.rankings.two_choices import better_of_two
from llmos.pipelines.scheduling.snapshot import Carried, Load

__all__ = ["baseline"]


def baseline(policy: str, devices: Sequence[Load], all_devices: Sequence[str], carried: Carried) -> tuple[int, Carried]:
    """The place in `devices` of the one that a baseline takes, and what it goes on with."""
    if policy == "round-robin":
        place, turn = next_in_turn(devices, all_devices, carried.turn)
        return place, carried._replace(turn=turn)
    if policy == "shortest-queue":
        return shortest(devices), carried
    if policy == "least-work":
        return least(devices), carried
    place, drawn = (any_of if policy == "random" else better_of_two)(devices, carried.drawn)
    return place, carried._replace(drawn=drawn)
