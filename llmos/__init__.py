"""llmos, an operating system for large models: what users import and type.

Rooms:

- `client`: submit, stream, result, cancel (async and blocking).
- `cli`: the `llmos` command; it composes everything else.
- `schemas`, `infra`, `pipelines`, `services`: links to the folders of the same names at the top of the
  repository, so that all code imports `llmos.schemas…` and nothing generic lands in site-packages.
"""

__version__ = "0.1.0"
