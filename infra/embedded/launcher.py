"""Runs a command that dies with its parent: `python -I -S launcher.py PARENT COMMAND…`; run as a file, imports nothing of ours.

The kernel sends SIGKILL when the parent's thread that forked us ends (PR_SET_PDEATHSIG survives exec, not fork), so a
killed supervisor leaves no orphan. The parent may have died before the call: then we are somebody else's child already.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ties this process to its parent, then becomes the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        sys.exit(f"prctl failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit("the parent is gone")
    try:
        os.execvp(command[0], command)
    except OSError as problem:
        sys.exit(f"{command[0]} cannot be run: {problem}")


main()
