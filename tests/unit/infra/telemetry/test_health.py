"""Health: a loop that stops taking turns makes the service not live; catching up is over when it is over."""

from __future__ import annotations

from llmos.infra.telemetry.health import CATCH_UP, ProgressHealth


class Hands:
    """A clock set by hand."""

    def __init__(self) -> None:
        self.time = 50.0
        self.health = ProgressHealth(live_seconds=30.0, clock=lambda: self.time)


def test_a_service_that_named_no_loop_is_live() -> None:
    """It starts; it is not ready."""
    health = Hands().health
    assert health.live() == (True, "")
    assert not health.is_ready()


def test_a_loop_that_stops_is_told_by_name() -> None:
    """The one that stands longest, when it stands for more than the limit; a turn mends it."""
    hands = Hands()
    hands.health.progress("ingest")
    hands.time += 1
    hands.health.progress("telemetry")
    hands.time += 30
    assert hands.health.live() == (False, "loop 'ingest' has taken no turn for 31 s")
    assert hands.health.ages() == {"ingest": 31.0, "telemetry": 30.0}
    hands.health.progress("ingest")
    assert hands.health.live() == (True, "")


def test_catching_up_counts_until_another_loop_takes_turns_or_the_service_is_ready() -> None:
    """A start that hangs is seen; a start that is over is not taken for a hang."""
    for over in (lambda h: h.progress("ingest"), lambda h: h.ready()):
        hands = Hands()
        hands.health.progress(CATCH_UP)
        hands.time += 31
        assert not hands.health.live()[0]
        hands.health.progress(CATCH_UP)
        over(hands.health)
        hands.time += 20
        hands.health.progress("ingest")
        hands.time += 20
        assert hands.health.live() == (True, "")


def test_a_service_is_ready_from_its_word_until_it_drains() -> None:
    """Draining stays live."""
    hands = Hands()
    hands.health.ready("scheduler")
    assert hands.health.is_ready()
    hands.health.drain()
    assert not hands.health.is_ready()
    assert hands.health.live() == (True, "")
