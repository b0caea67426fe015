"""The bare chain: six topics, five processes, the last one transactional."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

TOPICS = ("bare.requests", "bare.admitted", "bare.sealed", "bare.work", "bare.partials", "bare.results")
SECOND = "bare.usage"


@asynccontextmanager
async def bare_chain(bootstrap: str, partitions: int) -> AsyncIterator[tuple[str, str]]:
    """Runs the chain; gives its first and its last topic."""
    await _make_topics(bootstrap, partitions)
    hops: list[asyncio.subprocess.Process] = []
    try:
        for source, target in itertools.pairwise(TOPICS):
            last = ["--second", SECOND] if target == TOPICS[-1] else []
            hops.append(
                await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "benchmarks.pipeline.hop",
                    "--bootstrap", bootstrap, "--source", source, "--target", target,
                    "--partitions", str(partitions), *last,
                    stdout=asyncio.subprocess.PIPE,
                )
            )  # fmt: skip
        async with asyncio.timeout(60):
            for hop in hops:
                assert hop.stdout is not None
                if await hop.stdout.readline() != b"ready\n":
                    raise RuntimeError("a hop of the bare chain did not start")
        yield TOPICS[0], TOPICS[-1]
    finally:
        for hop in hops:
            if hop.returncode is None:
                hop.terminate()
        for hop in hops:
            await hop.wait()


async def _make_topics(bootstrap: str, partitions: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic(name, partitions, 1) for name in (*TOPICS, SECOND)])
        failed = [error for error in answer.topic_errors if error[1] not in (0, 36)]
        if failed:
            raise RuntimeError(f"topics could not be made: {failed}")
    finally:
        await admin.close()
