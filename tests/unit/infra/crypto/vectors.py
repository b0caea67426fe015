"""Makes docs/vectors/envelope-v1.json: `python -m tests.unit.infra.crypto.vectors`. Published once, never changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmos.infra.crypto.envelope import Bound, DataKey
from llmos.infra.crypto.keyring import Keyring

VECTORS = Path(__file__).parents[4] / "docs" / "vectors" / "envelope-v1.json"

_CASES: tuple[tuple[str, Bound, bytes], ...] = (
    ("a part", Bound("demo", "part", bytes(range(16)), 0, "echo"), b"\x81\xa4text\xa5hello"),
    ("nothing inside", Bound("demo", "part", bytes(16), 1023, "embed"), b""),
    ("an event of a stream", Bound("a.b-c_d", "event", b"\xff" * 16, 3, "generate", 2**40), "ünïcödé".encode()),
    ("JSON", Bound("demo", "request", bytes(range(16)), 0, "generate", 0, "application/json", "2"), b'{"prompt": "x"}'),
    ("long", Bound("t" * 64, "item", bytes(range(1, 17)), 7, "k" * 128, 300), bytes(range(256)) * 8),
)


def make() -> dict[str, Any]:
    """Envelopes under fresh keys, with everything that is needed to open them."""
    keyring = Keyring.memory()
    cases = []
    for name, bound, plaintext in _CASES:
        key = DataKey.fresh(keyring, context=bound.job_id)
        key.seal(bound, b"so that the nonce of the published one is not 0")
        binding = bound._asdict() | {"job_id": bound.job_id.hex()}
        cases.append(
            {
                "name": name,
                "bound": binding,
                "plaintext": plaintext.hex(),
                "envelope": key.seal(bound, plaintext).hex(),
            }
        )
    return {
        "about": "llmos envelope v1; bytes are hex; `keys` are key-encryption keys by id (for these vectors only)",
        "keys": {entry.id: entry.key.hex() for entry in keyring.entries if entry.purpose == "pool"},
        "cases": cases,
    }


if __name__ == "__main__":
    if VECTORS.exists():
        raise SystemExit(f"{VECTORS} is published; a new format gets a new file")
    VECTORS.parent.mkdir(parents=True, exist_ok=True)
    VECTORS.write_text(json.dumps(make(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
