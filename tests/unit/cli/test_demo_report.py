"""The demo's verdict: exactly one answer each, and figures that are right."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from llmos.cli.demo_jobs import TENANTS, Answered, workload
from llmos.cli.demo_reader import Witnessed
from llmos.cli.demo_report import first_outputs, judge, quantile, stage_seconds, throughput
from llmos.cli.demo_tour import nearest
from llmos.client import Answer, Submission
from llmos.schemas.job import LANES, ErrorInfo, Item, Origin
from llmos.schemas.results import Stages


def answered(offset: int, *, sealed: bool = False, **fields: Any) -> Answered:
    origin = Origin("requests", 0, offset)
    submission = Submission(job_id=bytes(16), request_id="r", origin=origin, tenant="demo", partition=0, sealed=sealed)
    values: dict[str, Any] = {"status": "completed", "kind": "echo"} | fields
    answer = Answer(
        job_id=bytes(16), tenant="demo", request_id="r", origin=origin, partition=0, s=offset, **values
    )  # fmt: skip
    return Answered(submission, answer)


def seen(*offsets: int, sealed: tuple[int, ...] = ()) -> Witnessed:
    origins = [("requests", 0, offset) for offset in offsets]
    ciphertext = frozenset(("requests", 0, offset) for offset in sealed)
    return Witnessed(Counter(origins), Counter(completed=len(offsets)), ciphertext)


BAD = ErrorInfo(code="failed", message="no luck")


@pytest.mark.parametrize(
    ("got", "witnessed", "problems"),
    [
        ([answered(1), answered(2)], seen(1, 2), []),
        ([answered(1)], seen(), ["0 answers"]),
        ([answered(1)], seen(1, 1), ["2 answers"]),
        ([answered(1)], seen(1, 2), ["nobody sent"]),
        ([answered(1, status="failed", error=BAD)], seen(1), ["ended as failed: no luck"]),
        ([answered(1, sealed=True)], seen(1), ["its answer on results is not"]),
        ([answered(1, sealed=True)], seen(1, sealed=(1,)), []),
        ([answered(1, items=[Item(output_index=3, error=BAD)])], seen(1), ["item 3"]),
    ],
)
def test_every_kind_of_fault_is_found(got: list[Answered], witnessed: Witnessed, problems: list[str]) -> None:
    """None, two, somebody else's, no result: each is a problem of its own; else there is none."""
    found = judge(got, witnessed).problems
    assert len(found) == len(problems)
    for said, expected in zip(found, problems, strict=True):
        assert expected in said


@pytest.mark.parametrize(
    ("values", "q", "found"),
    [([1.0], 0.99, 1.0), ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0), (list(map(float, range(1, 101))), 0.99, 99.0)],
)
def test_quantiles_are_nearest_ranks(values: list[float], q: float, found: float) -> None:
    """A quantile is one of the values."""
    assert quantile(values[::-1], q) == found


def test_time_is_shared_out_over_the_stages_passed() -> None:
    """Stages that a job did not pass are left out; the parts add up to the whole."""
    stages = Stages(submitted_at=10.0, admitted_at=11.0, sealed_at=13.0, answered_at=17.0)
    answer = answered(1, stages=stages).answer
    found = stage_seconds(answer)
    assert found == {"submitted → admitted": 1.0, "admitted → sealed": 2.0, "sealed → answered": 4.0, "in total": 7.0}


def test_throughput_and_first_outputs() -> None:
    """Answers by the time from first submission to last answer; first outputs of what generates."""
    stages = [Stages(submitted_at=10.0 + i, first_output_at=12.0 + i, answered_at=14.0 + i) for i in range(3)]
    answers = [answered(i, stages=s, kind="generate").answer for i, s in enumerate(stages)]
    assert throughput(answers) == 3 / 6
    assert first_outputs(answers) == [2.0, 2.0, 2.0]
    assert first_outputs([answered(9).answer]) == []


def test_the_work_is_of_all_kinds_on_all_lanes_for_all_tenants() -> None:
    """Dealt out as the demo does, each tenant has every kind on some lane, and each lane has every kind."""
    tasks = workload(300, ["a", "b"])
    assert Counter(task.kind for task in tasks) == {"echo": 150, "embed": 90, "generate": 60}
    assert {(task.kind, task.lane) for task in tasks} == {
        (kind, lane) for kind in ("echo", "embed", "generate") for lane in LANES
    }
    for i in range(len(TENANTS)):
        assert {task.kind for task in tasks[i :: len(TENANTS)]} == {"echo", "embed", "generate"}


def test_the_nearest_sentence_comes_first() -> None:
    """Cosine similarity does not depend on length."""
    found = nearest([1.0, 0.0], [[0.0, 3.0], [5.0, 0.0], [1.0, 1.0]], ["across", "along", "between"])
    assert [sentence for _, sentence in found] == ["along", "between", "across"]
    assert [round(similarity, 3) for similarity, _ in found] == [1.0, 0.707, 0.0]
