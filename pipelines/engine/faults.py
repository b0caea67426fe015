"""What a computation raised, as one of our errors: memory that ran out, numbers that are not finite, anything else."""

from __future__ import annotations

import torch

from llmos.schemas.errors import DeviceOutOfMemory, EngineFailed, FailedError, LlmosError, NotFinite, RefusedError

PROBLEM_CHARACTERS = 500

_NO_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")
"""How torch says it where it raises a plain RuntimeError: its CPU allocator, and some libraries of accelerators."""


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether memory ran out."""
    if isinstance(problem, torch.OutOfMemoryError | MemoryError | DeviceOutOfMemory):
        return True
    return isinstance(problem, RuntimeError) and any(words in str(problem).lower() for words in _NO_MEMORY)


def as_error(problem: BaseException, device: str = "this device") -> LlmosError:
    """The error as it travels: our own as it is, anything else as a fault of the engine; all of those may be tried again."""
    if isinstance(problem, RefusedError | FailedError):
        return problem
    text = f"{type(problem).__name__}: {problem}"[:PROBLEM_CHARACTERS]
    error: LlmosError
    if is_out_of_memory(problem):
        error = DeviceOutOfMemory(device=device, problem=text)
    elif isinstance(problem, FloatingPointError):
        error = NotFinite()
    else:
        error = EngineFailed(problem=text)
    error.raised = type(problem).__name__
    return error
