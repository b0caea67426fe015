"""How jobs are named."""

from __future__ import annotations

import pytest

from llmos.client import BadReference, JobRef, Submission, parse_reference
from llmos.client.references import reference_of
from llmos.schemas.job import Origin

JOB = bytes(range(16))
ORIGIN = Origin("requests.interactive", 3, 42)


@pytest.mark.parametrize("ref", [JobRef(JOB), JobRef(JOB, ORIGIN), JobRef(JOB, Origin("requests", 0, 2**62))])
def test_what_is_printed_is_read_back(ref: JobRef) -> None:
    """A reference survives the way over a terminal."""
    assert parse_reference(str(ref)) == ref


@pytest.mark.parametrize(
    "text",
    ["", "zz", "00" * 15, "00" * 17, f"{'00' * 16}@requests:1", f"{'00' * 16}@re quests:1:2", f"{'00' * 16}@:1:2"],
)
def test_what_names_no_job_is_refused(text: str) -> None:
    """A slip of the finger is told, not searched for."""
    with pytest.raises(BadReference, match="names no job"):
        parse_reference(text)


def test_everything_that_names_a_job_is_understood() -> None:
    """Submission, reference, id and text mean the same job."""
    submission = Submission(job_id=JOB, request_id="r", origin=ORIGIN, tenant="demo", partition=1)
    assert reference_of(submission) == reference_of(str(submission)) == JobRef(JOB, ORIGIN)
    assert reference_of(JOB) == reference_of(JOB.hex()) == JobRef(JOB)
    with pytest.raises(BadReference):
        reference_of(b"short")
