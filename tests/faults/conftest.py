"""A clean environment for stacks that serve a whole module: they start before any test's own fixtures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def clean_module() -> Iterator[None]:
    """No setting of the developer's shell, and no settings file lying about, reaches the module's stack."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LLMOS_")]:
            patch.delenv(name)
        patch.setattr("llmos.infra.settings.tree.config_file", lambda: Path(os.devnull))
        yield
