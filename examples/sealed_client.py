"""A client that seals: with a tenant's credentials nothing else is to be done for it.

    python examples/sealed_client.py HOST:PORT .llmos/tenants/demo.json

Requests are sealed for the system, answers and tokens for the tenant; with `reply="ephemeral"` for this very client alone.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from llmos.client import CannotOpen, Client, EchoInput, GenerateInput, TokenText

PREFIX = os.environ.get("LLMOS_KAFKA__TOPIC_PREFIX", "")


async def main(bootstrap: str, credentials: Path) -> None:
    async with Client(bootstrap=bootstrap, topic_prefix=PREFIX, credentials=credentials) as client:
        submission = await client.submit(
            "generate", GenerateInput(prompt="ROMEO:\n", max_tokens=24), model="shakespeare-decoder", events="tokens"
        )
        text = [event.text async for event in client.stream(submission, timeout=120) if isinstance(event, TokenText)]
        print("streamed:", repr("".join(text)))

        private = await client.submit("echo", EchoInput(text="for my eyes only"), reply="ephemeral", hybrid=True)
        answer = await client.result(private, timeout=120, check=True)
        print("echo:", client.outputs(answer)[0].text)

        # Another process of the tenant reads what was sealed to the tenant's key, and not what was sealed to that client's.
        async with Client(bootstrap=bootstrap, topic_prefix=PREFIX, credentials=credentials) as other:
            again = await other.result(str(submission), timeout=120, check=True)
            print("read again:", repr(other.outputs(again)[0].text))
            try:
                await other.result(str(private), timeout=120)
            except CannotOpen as problem:
                print("closed:", problem)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
