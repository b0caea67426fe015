"""Other terminals find the stack that runs, and only that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmos.cli.attach import attach_settings, note_of
from llmos.infra.embedded.directory import StateDirectory, write_json
from llmos.infra.settings import Settings, load
from llmos.schemas.errors import OperatorError


@pytest.fixture
def running(tmp_path: Path):  # type: ignore[no-untyped-def]
    """This process as the stack of a state directory."""
    directory = StateDirectory.take(tmp_path / "state")
    settings = load(
        state_directory=directory.path,
        kafka={"bootstrap": "127.0.0.1:19092", "topic_prefix": "p."},
        redis={"url": "redis://127.0.0.1:16379/0", "prefix": "q:"},
    )
    write_json(directory.run_file("stack"), note_of(settings, os.getpid(), ready=True))
    yield directory
    directory.release()


def bare(directory: StateDirectory, **overrides: object) -> Settings:
    return load(state_directory=directory.path, **overrides)


def test_the_addresses_and_prefixes_are_filled_in(running: StateDirectory) -> None:
    """A terminal without any setting talks to the stack of the directory, under its names."""
    found = attach_settings(bare(running))
    assert (found.kafka.bootstrap, found.kafka.topic_prefix) == ("127.0.0.1:19092", "p.")
    assert (found.redis.url, found.redis.prefix) == ("redis://127.0.0.1:16379/0", "q:")


def test_a_named_broker_is_left_alone(running: StateDirectory) -> None:
    """Whoever names a broker means that one."""
    found = attach_settings(bare(running, kafka={"bootstrap": "other:9092"}))
    assert (found.kafka.bootstrap, found.kafka.topic_prefix) == ("other:9092", "")


def test_a_dead_stack_is_not_attached_to(running: StateDirectory) -> None:
    """When nobody holds the directory any more, the note that was left behind counts for nothing."""
    running.release()
    with pytest.raises(OperatorError, match="llmos up"):
        attach_settings(bare(running))


def test_a_note_of_another_process_counts_for_nothing(running: StateDirectory) -> None:
    """The directory is held again, but the note is of an earlier owner: the new one is not ready to be found."""
    write_json(running.run_file("stack"), note_of(bare(running), os.getpid() + 1, ready=True))
    with pytest.raises(OperatorError, match="llmos up"):
        attach_settings(bare(running))


def test_without_a_stack_a_named_broker_is_enough(tmp_path: Path) -> None:
    """A client of a cluster needs no stack here."""
    settings = load(state_directory=tmp_path, kafka={"bootstrap": "other:9092"})
    assert attach_settings(settings) == settings
