"""`llmos jobs …`: what is live, why it waits."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from typer.testing import Result

from llmos.schemas.control import Cancel

JOB = "00" * 16
PART = {
    "part": 0, "state": "waiting", "device": None, "epoch": 0, "attempts": 2, "rule": "window", "need": 17, "have": 16,
    "position": 3, "predicted_start_at": 1.0, "predicted_done_at": 0.0,
}  # fmt: skip
SUBMISSION = {
    "partition": 1, "s": 5, "state": "waiting", "origin": ["requests", 0, 1], "tenant": "demo", "lane": "standard",
    "kind": "generate", "model_name": "tiny", "deadline": 1.0, "parts": [PART], "parts_by_state": {"waiting": 1},
}  # fmt: skip


def test_a_job_is_shown_with_its_parts(llmos: Callable[..., Result], system: Any) -> None:
    """What the scheduler knows of it, and that there is no answer yet."""
    system.bodies = {"job": {"job_id": JOB, "submissions": [SUBMISSION]}, "jobs": {"jobs": [SUBMISSION]}}
    said = llmos("jobs", "show", JOB)
    assert "the devices have as much as they begin soon" in said.stdout
    assert "no answer yet" in said.stderr
    assert "1 waiting" in llmos("jobs", "list").stdout
    assert json.loads(llmos("jobs", "list", "--json").stdout)["s"] == 5


def test_a_wait_is_explained(llmos: Callable[..., Result], system: Any) -> None:
    """Of each part the place in the queue, the rule in words with its figures, when it should begin, its attempts."""
    running = PART | {"part": 1, "state": "dispatched", "device": "node-0.cpu0", "rule": "", "position": 0}
    system.bodies = {"explain": {"job_id": JOB, "submissions": [SUBMISSION | {"parts": [PART, running]}]}}
    said = llmos("jobs", "explain", JOB).stdout
    waits, runs = said.splitlines()[-2:]
    assert waits.split()[:5] == ["0", "waiting", "–", "3", "2"]
    assert waits.endswith("the devices have as much as they begin soon: 16 tasks, 16 at most")
    assert "ago" in waits
    assert runs.split()[:4] == ["1", "dispatched", "node-0.cpu0", "–"]
    shown = json.loads(llmos("jobs", "explain", JOB, "--json").stdout)
    assert shown["submissions"][0]["parts"][0]["rule"] == "window"


def test_what_has_ended_waits_for_nothing(llmos: Callable[..., Result], system: Any) -> None:
    """It is told with its end; what was never there is an error."""
    system.bodies = {"explain": {"job_id": JOB, "submissions": []}}
    said = llmos("jobs", "explain", JOB)
    assert said.exit_code == 1
    assert "no such job" in said.stderr


def test_a_job_is_cancelled_where_jobs_are_shown(llmos: Callable[..., Result], system: Any) -> None:
    """`jobs cancel` is `cancel`."""
    system.bodies = {"job": {"job_id": JOB, "submissions": [SUBMISSION]}}
    assert llmos("jobs", "cancel", JOB).exit_code == 0
    (cancel,) = system.cancels
    assert isinstance(cancel, Cancel)
