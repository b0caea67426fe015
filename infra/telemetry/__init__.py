"""What a service says about itself: events, metrics, health, and the endpoint that shows them.

Rooms:

- `events`: structured logs, one JSON object a line. `sink`: the thread that writes them, so that the loop never waits.
- `metrics`: every Prometheus metric, once, under its stable name.
- `health`: whether a service is alive and ready, from the progress of its loops.
- `host`: the machine, watched: processor, memory, pressure. `processors`: some of its cores, and what slows them.
- `endpoint`: /livez, /readyz and /metrics over HTTP, and the file that tells where.
"""
