"""The blocking client, for scripts and threads.

python examples/blocking_client.py HOST:PORT
"""

from __future__ import annotations

import os
import sys

from llmos.client import BlockingClient, Client, EchoInput, GenerateInput, TokenText

PREFIX = os.environ.get("LLMOS_KAFKA__TOPIC_PREFIX", "")


def main(bootstrap: str) -> None:
    with BlockingClient(Client(bootstrap=bootstrap, topic_prefix=PREFIX)) as client:
        submission = client.submit("echo", EchoInput(text="hello"))
        print("job:", submission)  # this text is enough to find the answer later: `llmos result JOB`
        answer = client.result(submission, timeout=120, check=True)
        print("echo:", client.outputs(answer)[0].text)

        prompts = GenerateInput(prompt="My lord,\n", max_tokens=16)
        submission = client.submit("generate", prompts, model="shakespeare-decoder", events="tokens")
        for event in client.stream(submission, timeout=120):
            if isinstance(event, TokenText):
                print(event.text, end="", flush=True)
        print()


if __name__ == "__main__":
    main(sys.argv[1])
