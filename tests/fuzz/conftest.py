"""The three stages for a module's records, and silence: what they log of rubbish is nobody's concern here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from tests.fuzz.pipeline import Pipeline


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    """Ingest, verify and a worker's intake, alive as long as the module: what one record does to them, the next ones meet."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    found = Pipeline()
    yield found
    found.close()
    structlog.reset_defaults()
