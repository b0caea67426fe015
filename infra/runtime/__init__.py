"""How a service runs as a process, and how processes are kept.

Rooms:

- `context`: what a service is given; `main` starts it, drains it and ends it; `beside` runs helpers next to its main loop.
- `processes`: a service as a child process; `supervisor` keeps children running; `deadline` is a shutdown's one budget.
"""
