"""Which submissions get credits, and when a paused lane goes on: pure functions in `credits`."""
