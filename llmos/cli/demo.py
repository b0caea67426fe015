"""`python -m llmos.cli.demo` is `llmos demo`."""

from __future__ import annotations

import sys

from llmos.cli.app import main

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])
