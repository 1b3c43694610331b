"""Runs a command inside a node: ``enter.py PID COMMAND...``, where PID is the node's init as the host sees it.

nsenter(1) with two differences: signals that this process gets reach the command, and the command dies with this
process, so that to a caller it behaves like a child of its own. Only the standard library is used.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import warnings  # noqa: F401 - os.execvp imports it, and inside a container this Python's library is out of sight

NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000  # mount, UTS, IPC, PID, network (setns(2))
PR_SET_PDEATHSIG = 1
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

libc = ctypes.CDLL(None, use_errno=True)


def main(init: int, command: list[str]) -> None:
    """Join the namespaces, run the command, end as it ends."""
    target = os.pidfd_open(init)
    if libc.setns(target, NAMESPACES):
        raise OSError(ctypes.get_errno(), f"cannot enter node: {os.strerror(ctypes.get_errno())}")
    os.close(target)
    os.chdir("/")
    child = os.fork()  # only a child is inside the PID namespace
    if child == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            os.execvp(command[0], command)  # noqa: S606 - the caller's argument vector, as it is
        except OSError as error:
            print(f"{command[0]}: {error.strerror}", file=sys.stderr)
            os._exit(127)
    for number in FORWARDED:
        signal.signal(number, lambda received, _frame: os.kill(child, received))
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) in FORWARDED:
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
