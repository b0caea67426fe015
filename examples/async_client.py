"""The asynchronous client: a stream, a list, many jobs at once, a repeated key, a refusal, a request that nobody may send.

python examples/async_client.py HOST:PORT
"""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from contextlib import aclosing

from llmos.client import (
    Client,
    DeadLettered,
    EchoInput,
    EmbedInput,
    Final,
    GenerateInput,
    JobFailed,
    Moved,
    Task,
    TokenText,
)

PREFIX = os.environ.get("LLMOS_KAFKA__TOPIC_PREFIX", "")


async def main(bootstrap: str) -> None:
    async with Client(bootstrap=bootstrap, topic_prefix=PREFIX, tenant="demo") as client:
        # Tokens as they come. Should a worker die, `Moved` says what remains valid; the final is the truth.
        prompt = GenerateInput(prompt="ROMEO:\n", max_tokens=24, temperature=0.8, seed=1)
        submission = await client.submit(
            "generate", prompt, model="shakespeare-decoder", lane="interactive", events="tokens"
        )
        text = ""
        async with aclosing(client.stream(submission, timeout=120)) as events:
            async for event in events:
                if isinstance(event, TokenText):
                    text += event.text
                elif isinstance(event, Moved):
                    text = event.text
                elif isinstance(event, Final):
                    text = event.replaced.get(0, text)
        print("streamed:", repr(text))

        # A list is one job with one answer; its items are in the order of the input.
        submission = await client.submit("embed", EmbedInput(text=["a cat", "a dog"]), model="minilm-l6-v2")
        answer = await client.result(submission, timeout=120, check=True)
        print("embedded:", [len(output.embedding) for output in client.outputs(answer)])

        # Many jobs travel in batches.
        submissions = await client.submit_many(Task("echo", EchoInput(text=f"text {i}")) for i in range(100))
        answers = await asyncio.gather(*(client.result(s, timeout=120, check=True) for s in submissions))
        print("echoed:", len(answers))

        # The same key is the same job: done once, answered twice.
        key = uuid.uuid4().hex
        for _ in range(2):
            submission = await client.submit("echo", EchoInput(text="once"), idempotency_key=key)
            answer = await client.result(submission, timeout=120)
            print("job:", answer.job_id.hex(), answer.status)

        # A refusal is an answer too; with `check` it is an exception.
        submission = await client.submit("generate", prompt, model="no-such-model")
        try:
            await client.result(submission, timeout=120, check=True)
        except JobFailed as problem:
            print("refused:", problem)

    # What no stage may use (here: of a tenant that does not exist) has no answer; the reason comes at once.
    async with Client(bootstrap=bootstrap, topic_prefix=PREFIX, tenant="nobody") as stranger:
        submission = await stranger.submit("echo", EchoInput(text="hello"))
        try:
            await stranger.result(submission, timeout=120)
        except DeadLettered as problem:
            print("dead-lettered:", problem)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
