"""A worker, one process per device: work.<device> → partials and stream.

The heart is `decode → attempt → classify → settle`:

- `intake`: reads work, decodes it (opens the envelope), hands it to the engine thread; ends when the device is claimed
  by a later life.
- `engine_thread` with `crew` and `runners/`: attempts: one thread steps the runners, one runner a family of kinds; the crew
  keeps deadlines and faults, and makes a runner anew that broke.
- `runners/events`: what an attempt brought; `runners/classify`: the one place where exceptions are sorted.
- `runners/keeper` and `runners/models`: who waits for which model; loads run in a thread of their own.
- `settling`: what events mean for the tasks held: records to send.

Around it: `app` (opens the device), `life` (claims it, owns every task, drains), `equipment` (a device as the rest sees
it), `held` (the tasks this worker has), `publisher` (sends what was settled), `orders` (control and pins), `heart`
(heartbeats), `residency` (what the ledger knows of residents), `catalog` (which models this node has).
"""
