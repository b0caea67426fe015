"""How kinds run on a device: one runner a file, stepped by the engine thread. A new kind's runner is a file here.

`registry` says which runner runs which kind.
"""
