"""Runs one target of atheris: from seeds, for as long as the command line says, silent but for what is found."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import atheris
import structlog


def look(one: Callable[[bytes], None], seeds: Sequence[bytes]) -> None:
    """Calls `one` with bytes that lead to code not reached before; ends the process, with an error where `one` raised."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory() as directory:
        for at, seed in enumerate(seeds):
            (Path(directory) / f"seed-{at}").write_bytes(seed)
        atheris.Setup([*sys.argv, directory], one)
        atheris.Fuzz()
