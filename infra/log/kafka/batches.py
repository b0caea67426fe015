"""Fills aiokafka's batches with our records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmos.infra.log.port import Out


def fill(producer: Any, records: Sequence[Out], start: int) -> tuple[Any, int]:
    """A batch of the records from `start` on, as many as fit; gives it and the index after its last.

    The first record always fits: aiokafka lets one larger than a batch be a batch of its own.
    """
    batch = producer.create_batch()
    append = batch.append
    for index in range(start, len(records)):
        key, value, headers = records[index]
        if append(timestamp=None, key=key, value=value, headers=list(headers)) is None:
            return batch, index
    batch.close()
    return batch, len(records)
