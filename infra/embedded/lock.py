"""Makes `kafka.lock.toml` anew: `python -m llmos.infra.embedded.lock`, when the version of Kafka below changes.

Resolving reads some hundred POMs (10 s); a start never does it, it goes by the lock.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from llmos.infra.embedded.jars import LOCK, digest, resolver_modules

ROOTS = (
    "org.apache.kafka:kafka_2.13:4.3.1",
    # Without a binding of slf4j the broker logs nothing; the version is the one of kafka's slf4j-api.
    "org.slf4j:slf4j-simple:1.7.36",
)

_HEAD = f"""\
# The jars of the embedded broker and the SHA-256 of each, compared before every start.
# Made by `python -m llmos.infra.embedded.lock` from {" and ".join(ROOTS)}.
"""


def make(path: Path = LOCK) -> int:
    """Resolves the tree of `ROOTS` and writes the lock; gives the number of jars."""
    maven, parse = resolver_modules()
    with tempfile.TemporaryDirectory() as scratch:
        context = maven.MavenContext(repo_cache=Path(scratch), timeout=30)
        roots = [context.create_dependency(parse.Coordinate.parse(root)) for root in ROOTS]
        inputs, transitive = maven.PythonResolver().resolve(roots)
        rows = [_row(dependency.artifact) for dependency in (*inputs, *transitive)]
    path.write_text(_HEAD + "".join(rows))
    return len(rows)


def _row(artifact: object) -> str:
    coordinate = ":".join(str(getattr(artifact, part)) for part in ("groupId", "artifactId", "version"))
    return f'\n[[jar]]\ncoordinate = "{coordinate}"\nsha256 = "{digest(artifact.resolve())}"\n'  # type: ignore[attr-defined]


if __name__ == "__main__":
    print(f"{make()} jars in {LOCK.name}")
