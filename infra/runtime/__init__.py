"""How a service runs as a process: `context` is what it is given, `main` starts it, drains it and ends it."""
