"""Any bytes as the value of any field of an otherwise good request, so that the loose reading of wrong ones is met, too."""

from __future__ import annotations

import atheris

from tests.fuzz.looking import look

with atheris.instrument_imports(include=["llmos"]):
    from llmos.schemas.base import JSON
    from tests.fuzz.material import (
        INPUT_FIELDS,
        JSON_VALUES,
        MSGPACK_VALUES,
        REQUEST_FIELDS,
        packed_input,
        packed_request,
        written_input,
        written_request,
    )
    from tests.fuzz.pipeline import Pipeline

_KINDS = sorted(INPUT_FIELDS)
SEEDS = [
    bytes([at % 256, 0]) + value[:2000] for at, value in enumerate((*MSGPACK_VALUES.values(), *JSON_VALUES.values()))
]


def main() -> None:
    """Looks until the time is over."""
    pipeline = Pipeline()

    def one(data: bytes) -> None:
        if len(data) < 2:
            return
        choice, in_json, value = data[0], data[1] & 1, data[2:]
        kind = _KINDS[choice % len(_KINDS)]
        names = (*REQUEST_FIELDS, *(f"input.{name}" for name in INPUT_FIELDS[kind]))
        field = names[choice // len(_KINDS) % len(names)]
        if field.startswith("input."):
            write = written_input if in_json else packed_input
            field, value = "input", write(kind, {field.removeprefix("input."): value})
        if in_json:
            pipeline.request(written_request(kind, {field: value}), JSON)
        else:
            pipeline.request(packed_request(kind, {field: value}))

    look(one, SEEDS)


if __name__ == "__main__":
    main()
