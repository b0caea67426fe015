"""Events: one JSON object a line with stable names, libraries included, and a loop that never waits for the disk."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from llmos.infra.settings import load
from llmos.infra.telemetry import sink as sink_module
from llmos.infra.telemetry.events import Events, configure
from llmos.infra.telemetry.sink import Sink
from llmos.schemas.errors import BadSetting

pytestmark = pytest.mark.usefixtures("_restored_logging")


@pytest.fixture
def _restored_logging() -> Iterator[None]:
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


def started(tmp_path: Path, level: str = "info", instance: str | None = None) -> tuple[Events, Path]:
    """Events that go to a file."""
    path = tmp_path / "logs" / "ingest.log"
    return configure(load(telemetry={"log_file": path, "log_level": level}), "ingest", instance), path


def lines(path: Path) -> list[dict[str, Any]]:
    """The events in a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_an_event_is_one_json_line(tmp_path: Path) -> None:
    """Name, time, level, service, what is bound, what is said; bytes and objects do not break it."""
    events, path = started(tmp_path, instance="1")
    with structlog.contextvars.bound_contextvars(job="0f"):
        structlog.get_logger().info("record", outcome="admitted", text="ü\nx", odd=object(), key=b"\x01")
    events.close()
    (event,) = lines(path)
    assert event.pop("at") > 1.7e9
    assert event.pop("odd").startswith("<object")
    assert event == {
        "event": "record",
        "level": "info",
        "service": "ingest",
        "instance": "1",
        "job": "0f",
        "outcome": "admitted",
        "text": "ü\nx",
        "key": "AQ==",
    }


def test_an_error_has_its_traceback(tmp_path: Path) -> None:
    """As one string, in the same line."""
    events, path = started(tmp_path)
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("failed")
    events.close()
    (event,) = lines(path)
    assert event["level"] == "error"
    assert "ValueError: broken" in event["exception"]


def test_less_severe_events_are_left_out(tmp_path: Path) -> None:
    """By `telemetry.log_level`."""
    events, path = started(tmp_path, level="warning")
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    events.close()
    assert [event["event"] for event in lines(path)] == ["loud"]


def test_library_logs_are_events(tmp_path: Path) -> None:
    """With the logger's name; of aiokafka only warnings."""
    events, path = started(tmp_path)
    logging.getLogger("some.library").info("said %s", "this")
    logging.getLogger("aiokafka.consumer").info("chatter")
    logging.getLogger("aiokafka.consumer").warning("trouble")
    events.close()
    assert [(event["logger"], event["message"], event["level"]) for event in lines(path)] == [
        ("some.library", "said this", "info"),
        ("aiokafka.consumer", "trouble", "warning"),
    ]


def test_without_a_file_events_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON, where it is no terminal."""
    events = configure(load(), "ingest")
    structlog.get_logger().info("started")
    events.close()
    assert json.loads(capsys.readouterr().err)["event"] == "started"


def test_on_a_terminal_events_are_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """No JSON there."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    events = configure(load(), "ingest")
    structlog.get_logger().info("started", port=5)
    events.close()
    assert "started" in terminal.getvalue()
    assert "{" not in terminal.getvalue()


def test_a_log_file_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    """It stops the start."""
    (tmp_path / "logs").touch()
    with pytest.raises(BadSetting, match=r"telemetry\.log_file"):
        started(tmp_path)


def test_close_undoes_the_set_up(tmp_path: Path) -> None:
    """No handler and no thread stays behind."""
    handlers, threads = list(logging.getLogger().handlers), threading.active_count()
    events, _ = started(tmp_path)
    events.close()
    assert logging.getLogger().handlers == handlers
    assert threading.active_count() == threads
    assert not structlog.is_configured()


class Stuck(io.StringIO):
    """A pipe nobody reads, until `gate` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.reached = threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        assert self.gate.wait(10)
        return super().write(text)


def test_a_pipe_nobody_reads_never_blocks_and_what_is_lost_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines wait up to a number; order is kept; the rest is left out and counted."""
    monkeypatch.setattr(sink_module, "LINES", 3)
    stream = Stuck()
    sink = Sink(stream)
    sink.write("0")
    assert stream.reached.wait(10)  # the thread hangs in line 0 now
    for i in range(1, 6):
        sink.write(str(i))
    assert sink.lost == 2
    assert not sink.flush(0.01)
    stream.gate.set()
    sink.close(10)
    assert stream.getvalue() == "0\n1\n2\n3\n"


def test_a_stream_that_fails_is_counted_and_does_not_end_the_thread() -> None:
    """A full disk loses lines, not the service; afterwards lines are written again."""

    class Full(io.StringIO):
        failures = 1

        def write(self, text: str) -> int:
            if self.failures:
                self.failures -= 1
                raise OSError("no space left")
            return super().write(text)

    stream = Full()
    sink = Sink(stream)
    sink.write("lost")
    assert sink.flush(10)
    sink.write("kept")
    assert sink.flush(10)
    assert (stream.getvalue(), sink.lost) == ("kept\n", 1)
    sink.close(10)
