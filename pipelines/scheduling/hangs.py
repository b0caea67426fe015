"""Whether a worker hangs: a step that runs for longer than such steps take, or silence. Pure."""

from __future__ import annotations

from llmos.schemas.telemetry import Heartbeat

STEP_GRACE_SECONDS = 0.25
"""A step whose end and heartbeat crossed each other is not hung."""


def hung(heartbeat: Heartbeat, heard_at: float, now: float, silence_seconds: float) -> str | None:
    """Why the worker that sent `heartbeat`, heard at `heard_at`, is taken for hung at `now`; None: it is not.

    A step is hung when it ran for longer than its limit, which the worker predicts from such steps before (0: unknown,
    nobody is hung by it); a worker is hung when nothing was heard of it for `silence_seconds`. Times in seconds.
    """
    limit = heartbeat.step_limit_seconds
    if limit > 0 and heartbeat.step_seconds > limit + STEP_GRACE_SECONDS:
        return f"a step runs for {heartbeat.step_seconds:.1f} s, at most {limit:.1f} s are expected"
    silent = now - heard_at
    if silent > silence_seconds:
        return f"silent for {silent:.1f} s"
    return None
