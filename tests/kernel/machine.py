"""A machine with a kernel of its own: User-Mode Linux, an ordinary process, on this machine's files.

Owns the process and its folder. Whatever kills the process that started it, SIGKILL included, ends the machine.
Source: Documentation/virt/uml/user_mode_linux_howto_v2.rst.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

KERNEL = "linux.uml"
INIT = Path(__file__).with_name("init.py")
MEMORY = "1024M"
TAIL = 40
"""Lines of the console that say why a machine has ended."""
HOLD = ("setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--pid", "--fork", "--kill-child")
"""Its processes are in a namespace of their own, which ends with whoever started it."""
REALTIME = ("chrt", "--rr", "1")
POLL_S = 0.05


class MachineError(Exception):
    """The machine ended early or hangs; the message has the end of its console."""


def missing() -> str | None:
    """Return why there can be no machine here; None when there can."""
    if shutil.which(KERNEL) is None:
        return "no User-Mode Linux here: make kernel-lab installs Debian's package user-mode-linux"
    return None if os.geteuid() == 0 else "User-Mode Linux needs root, for the files that its tests read"


class Machine:
    """A machine that runs pytest once."""

    def __init__(self, folder: Path, arguments: Sequence[str], env: Mapping[str, str]) -> None:
        """Boot; `folder` is where it can write, `env` what the tests find in their environment."""
        self.folder = folder
        self._console = folder / "console"
        (folder / "spec.json").write_text(json.dumps({"arguments": list(arguments), "env": dict(env)}))
        command = [*HOLD, *self.command()]
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT, start_new_session=True
            )

    def command(self) -> list[str]:
        """Return what starts the kernel, with its console on standard output."""
        kernel = [*_ahead(), KERNEL, f"mem={MEMORY}"]
        kernel += ["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"]
        kernel += ["con=null", "con0=null,fd:1", f"uml_dir={self.folder}", f"init={sys.executable}"]
        return [*kernel, "--", str(INIT), str(self.folder)]

    def lines(self, name: str, patience_s: float) -> Iterator[dict[str, Any]]:
        """Yield the lines of a file of JSON as the machine writes it, until it halts.

        Raises:
            MachineError: no line has come for this long.
        """
        file, done, asked = self.folder / name, 0, time.monotonic()
        while True:
            ended = self._process.poll() is not None
            text = file.read_text() if file.exists() else ""
            whole = text[: text.rfind("\n") + 1]
            for line in whole[done:].splitlines():
                yield json.loads(line)
                asked = time.monotonic()
            if ended:
                return
            if len(whole) == done and time.monotonic() - asked > patience_s:
                raise MachineError(f"nothing has happened for {patience_s} s; the console ends with:\n{self.tail()}")
            done = len(whole)
            time.sleep(POLL_S)  # between two looks: what a kernel writes to the host's files wakes nobody

    def tail(self) -> str:
        """Return the end of the console."""
        return "\n".join(self._console.read_text(errors="replace").splitlines()[-TAIL:])

    def kill(self) -> None:
        """End it, whatever it does, and wait for that: the kernel first, so that its holder reaps it."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended by itself
            for pid in Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
        self._process.wait()


def _ahead() -> Sequence[str]:
    """Return what starts a kernel with a priority next to that of the fabric's daemons and probes, where it is allowed.

    Each system call of a program inside is two switches between processes here. Where these wait for their turn behind
    a fabric that is at work, an agent's start of four seconds takes minutes.
    """
    return REALTIME if subprocess.run([*REALTIME, "true"], capture_output=True, check=False).returncode == 0 else ()
