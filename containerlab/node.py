"""One node: a process that holds a mount, UTS, IPC, PID and network namespace, and what to do with it.

Everything in a node lives and dies with its init. Who finds the node again, from another process or after a crash,
needs its folder only: the holder, which is init's parent, writes its process id there before it makes the namespaces.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from containerlab.errors import CommandError, NodeError
from containerlab.init import IMAGES
from containerlab.topology import NodeSpec

HERE = Path(__file__).parent
PROGRAMS = Path(sys.executable).parent
"""Where the agent and ExaBGP are: nodes have the machine's files."""
PYTHON = (sys.executable, "-I", "-S")  # no site packages: a start takes milliseconds
ENTER = ("nsenter", "--mount", "--uts", "--ipc", "--net", "--pid", "--target")
ENDING = ("setpriv", "--pdeathsig", "KILL", "--")
"""What has a command end with whoever waits for it."""
UNSHARE = ("unshare", "--fork", "--kill-child", "--mount", "--mount-proc", "--uts", "--ipc", "--net", "--pid")
BASE_ENV = {
    "PATH": f"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{PROGRAMS}",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
PIDFILES = {
    "ovsdb-server": "/run/openvswitch/ovsdb-server.pid",
    "ovs-vswitchd": "/run/openvswitch/ovs-vswitchd.pid",
    "zebra": "/run/frr/zebra.pid",
    "bgpd": "/run/frr/bgpd.pid",
    "bfdd": "/run/frr/bfdd.pid",
    "bird": "/run/bird/bird.pid",
    "gobgpd": "/run/gobgpd.pid",
    "fibd": "/run/fibd.pid",
    "tord": "/run/tord.pid",
}
"""Where the images' daemons write their process id, as the node counts."""
_CHILDREN: list[subprocess.Popen[str]] = []
"""Holders that this process started: they may outlive it, and are reaped when it stops them itself."""


class Node:
    """A node that was started; `folder` is its place in the lab's state, `state` where that is when it was moved."""

    plugin: ClassVar[Path] = HERE.parent / "build" / "routed-cni"
    """The CNI plugin, as the node sees it. The agent and ExaBGP are in its PATH."""

    def __init__(self, folder: Path, state: Path | None = None) -> None:
        self.born = str(folder)
        self.folder = state or folder
        self.name = folder.name

    @classmethod
    def start(cls, folder: Path, spec: NodeSpec) -> Node:
        """Make the namespaces and start the image's entrypoint in them. NodeError when that fails."""
        folder.mkdir(mode=0o700)
        binds = [(str(bind.source), bind.target, bind.read_only) for bind in spec.binds]
        document = {
            "name": spec.name,
            "group": spec.group,
            "command": [f"{IMAGES}/{spec.image.name}/start.sh"],
            "env": {**BASE_ENV, "HOSTNAME": spec.name, **spec.env},
            "sysctls": spec.sysctls,
            "binds": [(str(spec.image.parent), IMAGES, True), *binds],
        }
        (folder / "spec.json").write_text(json.dumps(document, indent=1))
        # The pid file first: should this process die now, what it started can still be found. Then the shell becomes
        # the holder.
        script = 'echo $$ >"$0/holder.pid" && exec "$@"'
        holder = subprocess.Popen(
            ["/bin/sh", "-c", script, str(folder), *UNSHARE, *PYTHON, str(HERE / "init.py"), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # an interrupt from the terminal is for the runner
            text=True,
        )
        _CHILDREN.append(holder)
        assert holder.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
        assert holder.stderr is not None  # noqa: S101 - for the type checker: it is a pipe
        with holder.stdout, holder.stderr:
            if holder.stdout.readline().strip() != "ready":
                raise NodeError(f"{spec.name}: {holder.stderr.read().strip() or 'did not start'}")
        return cls(folder)

    @property
    def spec(self) -> dict[str, Any]:
        """What the node was started as."""
        document: dict[str, Any] = json.loads((self.folder / "spec.json").read_text())
        return document

    @property
    def pid(self) -> int:
        """The node's init, as the host counts. NodeError when the node is not there."""
        holder = self._holder()
        children = [] if holder is None else _children(holder)
        if not children:
            raise NodeError(f"{self.name} stopped; its last words:\n{self.last_words()}")
        return children[0]

    @property
    def netns_path(self) -> str:
        """The node's network namespace, for whoever wants to open it."""
        return f"/proc/{self.pid}/ns/net"

    def path(self, inner: str | Path) -> Path:
        """Return where a file of the node is found from outside it."""
        return Path(f"/proc/{self.pid}/root", str(inner).lstrip("/"))

    def run(
        self,
        command: Sequence[str | Path],
        *,
        check: bool = True,
        timeout: float | None = 60,
        env: Mapping[str, str] | None = None,
        input: str | None = None,  # noqa: A002 - named as in subprocess
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside the node and capture what it prints.

        Raises:
            CommandError: the command failed and `check` was asked for; the message has its output.
            subprocess.TimeoutExpired: it took longer than `timeout` seconds, and was killed.
        """
        done = subprocess.run(
            [*ENTER, str(self.pid), *ENDING, *(str(word) for word in command)],  # a tenth of what enter.py costs
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env=self._environment(env),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
        )
        if check and done.returncode:
            words = " ".join(str(word) for word in command)
            raise CommandError(f"{self.name}: {words}: exit {done.returncode}: {(done.stderr + done.stdout).strip()}")
        return done

    def popen(
        self, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a command inside the node; `options` are those of `subprocess.Popen`.

        Signals sent to the returned process reach the command, SIGKILL included, and its exit status is the command's.
        """
        return subprocess.Popen(self._entering(command), env=self._environment(env), **options)

    def exec(self, command: Sequence[str]) -> None:
        """Become the command inside the node, terminal and all; does not return."""
        entering = self._entering(command)
        environment = {**self._environment(None), "TERM": os.environ.get("TERM", "dumb")}
        os.execve(entering[0], entering, environment)  # noqa: S606 - the caller's argument vector, as it is

    def daemon_pid(self, daemon: str) -> int:
        """Return a daemon's process id as the host counts; NodeError when it does not run."""
        inner = _read(str(self.path(PIDFILES[daemon]))).strip()
        for status in Path("/proc").glob("[0-9]*/status"):
            fields = dict(line.split(":\t", 1) for line in _read(str(status)).splitlines() if ":\t" in line)
            pids = fields.get("NSpid", "").split()
            if len(pids) == 2 and pids[1] == inner and _same_namespace(int(pids[0]), self.pid):
                return int(pids[0])
        raise NodeError(f"{self.name}: {daemon} does not run")

    def kill_daemon(self, daemon: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one daemon of the image."""
        os.kill(self.daemon_pid(daemon), number)

    def start_daemon(self, daemon: str) -> None:
        """Start one daemon of the image again, as the start script does."""
        self.run([f"{IMAGES}/daemon.sh", daemon])

    def last_words(self) -> str:
        """Return the end of what the entrypoint printed."""
        return _read(str(self.folder / "log"))[-2000:].strip()

    def stop(self) -> None:
        """Kill everything in the node and wait until it is gone; nothing to do when it is gone already."""
        holder = self._holder()
        if holder is not None:
            # Init first: a PID namespace dies with it. A holder without a child yet takes it along (--kill-child).
            for pid in (*_children(holder), holder):
                _kill_and_wait(pid)
        shutil.rmtree(self.folder, ignore_errors=True)
        _CHILDREN[:] = [child for child in _CHILDREN if child.poll() is None]

    def _holder(self) -> int | None:
        """Return the holder's process id, None when it does not live (the number may be another process's by now)."""
        text = _read(str(self.folder / "holder.pid")).strip()
        if not text:
            return None
        command = _read(f"/proc/{text}/cmdline").split("\0")
        return int(text) if self.born in command else None

    def _entering(self, command: Sequence[str | Path]) -> list[str]:
        return [*PYTHON, str(HERE / "enter.py"), str(self.pid), *(str(word) for word in command)]

    def _environment(self, extra: Mapping[str, str] | None) -> dict[str, str]:
        environment: dict[str, str] = {**self.spec["env"], **(extra or {})}
        return environment


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _children(pid: int) -> list[int]:
    return [int(child) for child in _read(f"/proc/{pid}/task/{pid}/children").split()]


def _same_namespace(pid: int, other: int) -> bool:
    try:
        return Path(f"/proc/{pid}/ns/pid").readlink() == Path(f"/proc/{other}/ns/pid").readlink()
    except OSError:
        return False


def _kill_and_wait(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], 10)
        finally:
            os.close(handle)
