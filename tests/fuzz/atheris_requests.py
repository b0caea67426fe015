"""Any bytes as a request, in MessagePack or JSON by the first bit, through ingest, verify and a worker's intake."""

from __future__ import annotations

import atheris

from tests.fuzz.looking import look

with atheris.instrument_imports(include=["llmos"]):
    from llmos.schemas.base import JSON, MSGPACK
    from tests.fuzz.material import packed_request, written_request
    from tests.fuzz.pipeline import Pipeline

SEEDS = [b"\x00" + packed_request(kind) for kind in ("echo", "embed", "generate")] + [b"\x01" + written_request()]


def main() -> None:
    """Looks until the time is over."""
    pipeline = Pipeline()

    def one(data: bytes) -> None:
        if data:
            pipeline.request(data[1:], JSON if data[0] & 1 else MSGPACK)

    look(one, SEEDS)


if __name__ == "__main__":
    main()
