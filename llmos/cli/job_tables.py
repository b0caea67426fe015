"""Tables of jobs as the scheduler knows them: submissions, their parts, and why a part waits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from llmos.cli.rules import in_words
from llmos.cli.tables import table
from llmos.cli.units import UNKNOWN, at_time


def submissions(found: Iterable[Mapping[str, Any]], title: str) -> Table:
    """Submissions."""
    return table(
        title,
        ("job", "partition:s", "state", "status", "code", "tenant", "lane", "kind", "model", "parts", "waits for"),
        [
            (
                job.get("job_id", ""),
                f"{job['partition']}:{job['s']}",
                job["state"],
                job.get("status") or UNKNOWN,
                job.get("code") or UNKNOWN,
                job["tenant"],
                job["lane"],
                job["kind"],
                job["model_name"] or UNKNOWN,
                ", ".join(f"{count} {state}" for state, count in sorted(job.get("parts_by_state", {}).items())),
                _waits(job.get("waits") or {}),
            )
            for job in found
        ],
    )


def _waits(why: Mapping[str, Any]) -> str:
    """What the first part that waits waits for."""
    return in_words(why.get("rule") or "", why.get("need") or 0.0, why.get("have") or 0.0)


def parts(submission: Mapping[str, Any], now: float) -> Table:
    """The parts of one submission: where each is, what it waits for, when it should begin and end, seen from `now`."""
    return table(
        f"parts of {submission['partition']}:{submission['s']}",
        ("part", "state", "device", "position", "attempts", "begins", "ends", "waits for"),
        [_part(part, now) for part in submission["parts"]],
    )


def _part(part: Mapping[str, Any], now: float) -> tuple[object, ...]:
    return (
        part["part"],
        part["state"],
        part.get("device") or UNKNOWN,
        part.get("position") or UNKNOWN,
        part.get("attempts", 0),
        at_time(part.get("predicted_start_at") or 0.0, now),
        at_time(part.get("predicted_done_at") or 0.0, now),
        _waits(part) or UNKNOWN,
    )
