"""Structured logs: one event per record and service, one JSON object a line, stable names; for people on a terminal."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import IO, Any

import msgspec
import structlog

from llmos.infra.settings.tree import Settings
from llmos.infra.telemetry.metrics import EVENTS_LOST
from llmos.infra.telemetry.sink import Sink
from llmos.schemas.errors import BadSetting

FLUSH_SECONDS = 2.0
"""How long the end of a process waits for its last events."""

QUIET = ("aiokafka", "asyncio", "redis")
"""Libraries of which only warnings are worth reading."""


class Events:
    """The event log of this process, as `configure` set it up. `close` writes what is queued and undoes the set-up."""

    def __init__(self, sink: Sink, file: IO[str] | None, handler: logging.Handler) -> None:
        self._sink = sink
        self._file = file
        self._handler = handler

    @property
    def lost(self) -> int:
        """Events left out because the file or pipe did not keep up."""
        return self._sink.lost

    def close(self) -> None:
        """Bounded in time (`FLUSH_SECONDS`)."""
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
        logging.getLogger().removeHandler(self._handler)
        self._sink.close(FLUSH_SECONDS)
        if self._file is not None:
            self._file.close()


def configure(settings: Settings, service: str, instance: str | None = None) -> Events:
    """Sends events and the standard library's logs to `telemetry.log_file`, else to standard error.

    Every event carries `at` (Unix seconds), `level`, `service` and what `structlog.contextvars` binds. Call it before
    the event loop starts.

    Raises:
        BadSetting: the file cannot be written.
    """
    file = _open(settings.telemetry.log_file)
    stream = file or sys.stderr
    sink = Sink(stream)
    EVENTS_LOST.set_function(lambda: sink.lost)
    level = logging.getLevelNamesMapping()[settings.telemetry.log_level.upper()]
    pretty = file is None and stream.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _Named(service, instance),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False) if pretty else _stamp,
            *_renderers(pretty),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(sink),
        cache_logger_on_first_use=False,
    )
    return Events(sink, file, _route_library_logs(level))


class _Lines:
    """What structlog writes to: every level is the same line."""

    def __init__(self, sink: Sink) -> None:
        self.msg = self.log = self.debug = self.info = self.warning = self.warn = sink.write
        self.error = self.err = self.critical = self.fatal = self.failure = self.exception = sink.write


class _Named:
    """Says whose event it is."""

    def __init__(self, service: str, instance: str | None) -> None:
        self._names = {"service": service} | ({} if instance is None else {"instance": instance})

    def __call__(self, logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return self._names | dict(event)


class _Routed(logging.Handler):
    """Makes events of what libraries log."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno, "library", logger=record.name, message=record.getMessage(), exc_info=record.exc_info
        )


_stamp = structlog.processors.TimeStamper(fmt=None, key="at")


def _to_json(event: Any, **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()


def _renderers(pretty: bool) -> list[structlog.typing.Processor]:
    if pretty:
        return [structlog.dev.ConsoleRenderer()]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(serializer=_to_json),
    ]


def _route_library_logs(level: int) -> logging.Handler:
    handler = _Routed()
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    return handler


def _open(path: Path | None) -> IO[str] | None:
    if path is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")
    except OSError as problem:
        raise BadSetting(
            setting="telemetry.log_file", problem=f"{path} cannot be written: {problem.strerror}"
        ) from None
