"""Which task, on which device, when: pure functions of a snapshot and the time.

- `snapshot`: what the decisions see.
- `decision`: what a decision is: chosen, held with rule, need and have, and when to ask again.
- `order`: which task first.
- `filters`: one criterion a file: whether a device may take a task, and why not.
- `rankings`: which of the devices that may: least predicted completion, or round-robin.
- `decide`: puts them together.
- `rates`: λ and μ from measurements.
"""
