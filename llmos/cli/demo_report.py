"""The demo's verdict and figures, pure: exactly one answer each, and where the time went."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table

from llmos.cli.demo_jobs import Answered
from llmos.cli.demo_reader import Witnessed
from llmos.cli.tables import passed, table
from llmos.client import Answer

MILLISECONDS = 1000.0


class Verdict(NamedTuple):
    """Whether everything ended as it should, and what did not."""

    submissions: int
    answers: int
    statuses: Counter[str]
    problems: list[str]
    sealed: int = 0
    """Answers of which every output stands on `results` as ciphertext."""


def judge(answered: Sequence[Answered], seen: Witnessed) -> Verdict:
    """Holds what the clients got against what the witness saw."""
    problems = []
    for submission, answer in answered:
        origin = (submission.origin.topic, submission.origin.partition, submission.origin.offset)
        count = seen.answers[origin]
        if submission.sealed and answer.status == "completed" and origin not in seen.sealed:
            problems.append(f"job {submission} was sealed, and its answer on results is not")
        if count != 1:
            problems.append(f"job {submission} has {count} answers on results")
        if answer.status != "completed":
            error = answer.error.message if answer.error else "no reason given"
            problems.append(f"job {submission} ended as {answer.status}: {error}")
        problems += [
            f"item {item.output_index} of job {submission} failed: {item.error.message}"
            for item in answer.items
            if item.error is not None
        ]
    ours = {(s.origin.topic, s.origin.partition, s.origin.offset) for s, _ in answered}
    problems += [f"an answer to {origin}, which nobody sent" for origin in seen.answers if origin not in ours]
    return Verdict(len(answered), seen.answers.total(), seen.statuses, problems, len(seen.sealed))


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least the share `q` of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(math.ceil(q * len(ordered)) - 1, 0)]


def stage_seconds(answer: Answer) -> dict[str, float]:
    """Seconds that the job spent up to each stage since the stage before, and in total."""
    times = passed(answer.stages)
    found = {f"{before} → {name}": at - earlier for (before, earlier), (name, at) in itertools.pairwise(times)}
    if len(times) > 1:
        found["in total"] = times[-1][1] - times[0][1]
    return found


def latencies(answers: Sequence[Answer]) -> Table:
    """p50 and p99 by stage."""
    by_stage: dict[str, list[float]] = {}
    for answer in answers:
        for name, seconds in stage_seconds(answer).items():
            by_stage.setdefault(name, []).append(seconds)
    total = by_stage.pop("in total", [])
    rows = [*by_stage.items(), *([("in total", total)] if total else [])]
    return table(
        "latency",
        ("from → to", "jobs", "p50 ms", "p99 ms"),
        [(name, len(values), _ms(quantile(values, 0.5)), _ms(quantile(values, 0.99))) for name, values in rows],
    )


def first_outputs(answers: Sequence[Answer]) -> list[float]:
    """Seconds from submission to first output, of jobs that generate."""
    return [
        answer.stages.first_output_at - answer.stages.submitted_at
        for answer in answers
        if answer.kind == "generate" and answer.stages.first_output_at
    ]


def throughput(answers: Sequence[Answer]) -> float:
    """Answers per second, from the first submission to the last answer."""
    first = min(answer.stages.submitted_at for answer in answers)
    last = max(answer.stages.answered_at for answer in answers)
    return len(answers) / max(last - first, 1e-9)


def summary(verdict: Verdict, answers: Sequence[Answer], first_token_seconds: float) -> Table:
    """The figures in one table."""
    rows: list[tuple[str, object]] = [
        ("submissions", verdict.submissions),
        ("answers on results, by the independent reader", verdict.answers),
        ("statuses", ", ".join(f"{count} {status}" for status, count in sorted(verdict.statuses.items()))),
        ("sealed by default", f"{verdict.sealed} of {verdict.answers} answers are sealed for their askers"),
        ("throughput of the many", f"{throughput(answers):.1f} answers/s"),
        ("time to first token, streamed", f"{_ms(first_token_seconds)} ms"),
    ]
    firsts = first_outputs(answers)
    if firsts:
        rows.append(("time to first output of the many, p50", f"{_ms(quantile(firsts, 0.5))} ms"))
        rows.append(("time to first output of the many, p99", f"{_ms(quantile(firsts, 0.99))} ms"))
    return table("what came of it", ("what", "value"), rows)


def _ms(seconds: float) -> str:
    return f"{seconds * MILLISECONDS:.1f}"
