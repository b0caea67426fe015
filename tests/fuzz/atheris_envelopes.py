"""Any bytes as an envelope: it is taken apart, or rejected with one error; it never opens."""

from __future__ import annotations

import atheris

from tests.fuzz.looking import look

with atheris.instrument_imports(include=["llmos"]):
    from llmos.infra.crypto.channels import part_bound
    from llmos.infra.crypto.envelope import Secret, open_envelope, parse
    from llmos.schemas.errors import EnvelopeRejected
    from tests.fuzz.test_sealed import ABSURD
    from tests.kit.bench import KEYS, head

_BOUND = part_bound(head(), 0, 0, 1)
_GOOD = Secret.under(KEYS, ["pool"], "demo").data_key(_BOUND).seal(_BOUND, b"inside")


def main() -> None:
    """Looks until the time is over."""

    def one(data: bytes) -> None:
        try:
            parse(data)
            opened = open_envelope(KEYS, _BOUND, data)
        except EnvelopeRejected:
            return
        assert data == _GOOD, f"it opened: {opened!r}"

    look(one, [_GOOD, *(envelope[:2000] for envelope in ABSURD)])


if __name__ == "__main__":
    main()
