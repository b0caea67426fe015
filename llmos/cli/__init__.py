"""The `llmos` command: composes services, client and the embedded stack.

Rooms, one per family of commands:

- `app`: the command itself, its global options, errors and exit codes. `session`: what every command is given.
- `overrides`: `--set group.name=value`. `origins`: where each setting came from.
- `running`: up, down, run. `up`, `first_start`, `attach`, `deaths`: what they do.
- `jobs`: submit, attach, result, cancel. `asking`: jobs show, status, devices, models. `setup`: config, doctor, topics.
- `dead_commands`: dead list, show, replay. `dead`: which letters are meant; `dead_letters`: reads, puts back; `dead_showing`.
- `tenant_commands`: tenants add, list, show, set, rotate-secret, erase. `tenants`: rows and credentials as they are made;
  `erasure`: what can still be read; `tenant_rows`, `tenant_use`: what is known of them; `tenant_options`, `tenant_tables`;
  `credential_files`: the files beside the system.
- `key_commands`: keys init, list, rotate, export, destroy. `key_advice`: what to do next, what is lost with a key.
- `usage_commands`: usage. `usage`: sums of receipts; `usage_reading`: where receipts come from.
- `services`: the processes of this machine. `outages`: one sentence when Kafka is away.
- `inputs`: from texts and options to a kind's input. `showing`: answers and streams on a terminal or as JSON. `tables`: rich.
- `checks`: what `doctor` looks at.
- `pages`: writes the generated pages of `docs/`; `page_of_messages`: the longest of them.
- `demo_start`: `llmos demo` (`demo`: as a module); `demo_tour`: its acts; `demo_jobs`: its work; `demo_reader`: an
  independent witness; `demo_report`: its verdict.
"""

from llmos.cli.app import main

__all__ = ["main"]
