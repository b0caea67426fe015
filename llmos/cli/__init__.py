"""The `llmos` command: composes services, client and the embedded stack.

Rooms, one per family of commands:

- `app`: the command itself, its global options, errors and exit codes. `session`: what every command is given.
- `overrides`: `--set group.name=value`. `origins`: where each setting came from.
- `running`: up, down, run. `up`, `first_start`, `attach`, `deaths`: what they do.
- `jobs`: submit, attach, result, cancel. `asking`: jobs show, status, devices, models. `setup`: config, doctor, keys, topics.
- `services`: the processes of this machine. `outages`: one sentence when Kafka is away.
- `inputs`: from texts and options to a kind's input. `showing`: answers and streams on a terminal or as JSON. `tables`: rich.
- `checks`: what `doctor` looks at.
- `pages`: writes the generated pages of `docs/`; `page_of_messages`: the longest of them.
- `demo_start`: `llmos demo` (`demo`: as a module); `demo_tour`: its acts; `demo_jobs`: its work; `demo_reader`: an
  independent witness; `demo_report`: its verdict.
"""

from llmos.cli.app import main

__all__ = ["main"]
