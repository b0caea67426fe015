"""Which task, on which device, when: pure functions of a snapshot and the time.

What a decision is made of:

- `snapshot`: what it sees. `decision`: what it is: chosen, held with rule, need and have, and when to ask again.
- `order`: which task first; `shares`: of which tenant; `ageing`: that nobody starves. `queue` merges the lines by them.
- `filters`: one criterion a file: whether a device may take a task, and why not.
- `rankings`: which of the devices that may: least predicted completion, or a baseline.
- `seats`, `alike`: devices and kinds of tasks while one decision is made. `decide`: puts it all together.

What is measured, and what follows from it:

- `rates`: λ and μ. `costs`: what a task takes. `fitting`, `speed`, `pooling`: from measurements, of one device and of all.
  `meter`: all of that for one device.
- `windows`: how many tasks a device may hold. `hangs`: whether it hangs. `deadlines`: whether a job can be in time.

What is told: `explain`: why a task waits, for people. `replay`: recorded decisions, decided again.
"""
