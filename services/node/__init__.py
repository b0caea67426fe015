"""The node: one per machine; starts its workers, which die with it, and says so when one dies.

`app`: its life. `devices`: which there are, and their workers' processes. `fencing`: ends a worker that was given up.
"""
