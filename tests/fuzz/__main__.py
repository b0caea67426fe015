"""`make fuzz`: looks for bytes that break a stage, FUZZ_SECONDS per target, guided by what code they reach (atheris)."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile

TARGETS = ("atheris_envelopes", "atheris_fields", "atheris_requests")
LONGEST_BYTES = 4096
"""Longer records are what the tests are for."""


def main() -> int:
    """Runs every target in a process of its own; 1: one of them found something, which is written to a file and named."""
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed; it is in the extra `fuzz`: pip install 'llmos[fuzz]'", file=sys.stderr)
        return 2
    seconds = int(os.environ.get("FUZZ_SECONDS", "60"))
    found = tempfile.mkdtemp(prefix="llmos-fuzz-")
    failed = []
    for target in TARGETS:
        print(f"{target}: {seconds} s", flush=True)
        options = [
            f"-max_total_time={seconds}",
            f"-max_len={LONGEST_BYTES}",
            f"-artifact_prefix={found}/{target}-",
            "-verbosity=0",
        ]
        if subprocess.run(
            [sys.executable, "-m", f"tests.fuzz.{target}", *options, "-print_final_stats=1"], check=False
        ).returncode:
            failed.append(target)
    print(f"found something: {', '.join(failed)}; the bytes are in {found}" if failed else "nothing was found")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
