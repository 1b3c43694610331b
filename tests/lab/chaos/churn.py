"""The kubelet of a lab's server: does what a churn says, and does not give up before it is done.

A call that fails is repeated as a kubelet does it: what an ADD left is deleted, then it is asked for again, with the
same names, so that queued deletions and what is still on its way out get in the way if they can.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterable

from containerlab.driver import CniError
from tests.lab.chaos.events import Churn
from tests.servers import NETNS, Pod, Server, each

PAUSE_S = 0.3
"""Between two tries of a call, as a kubelet has it; there is no event that says that it would work now."""
DEADLINE_S = 90.0
"""For a call to succeed, counted from the moment when everything is mended."""

Note = Callable[[str], None]


class GaveUpError(Exception):
    """A call still failed long after everything was mended."""


class Kubelet:
    """Pods of one server. Its calls about different pods may run at the same time."""

    def __init__(self, server: Server, mended: threading.Event, note: Note) -> None:
        """`mended` is set while nothing is broken on purpose; `note` takes a line when a call fails."""
        self._server, self._mended, self._note = server, mended, note
        self._sandboxes = threading.Lock()
        """No runtime lets a GC overlap with the start of a sandbox (CNI 1.1, GC)."""

    def do(self, churn: Churn) -> None:
        """Do it, all pods at the same time. GaveUpError."""
        if churn.kind == "GC":
            self._insist("GC", self._collect)
            return
        calls = {
            "ADD": self._add,
            "ADD again": self._add_again,
            "ADD and DEL at once": self._add_in_vain,
            "DEL": self._delete,
            "DEL twice": self._delete_twice,
            "namespace gone, then DEL": self._vanish,
            "namespace gone, then GC": self._forget,
        }
        if churn.kind in {"ADD", "ADD and DEL at once"}:
            self._make_netns(churn.pods)
        each(calls[churn.kind], churn.pods)
        if churn.kind == "namespace gone, then GC":
            self._insist("GC", self._collect)

    def _add(self, name: str) -> None:
        def attempt() -> None:
            try:
                self._server.attach(NETNS / name)
            except (CniError, subprocess.TimeoutExpired):
                self._insist(f"DEL {name}", lambda: self._server.plugin.delete(self._id(name), NETNS / name))
                raise

        self._insist(f"ADD {name}", attempt)

    def _add_again(self, name: str) -> None:
        """Ask for a pod that is there; the answer must be the same."""
        before = self._pod(name)
        self._insist(f"ADD {name} again", lambda: self._server.attach(before.netns))
        if self._pod(name).result.raw != before.result.raw:
            raise GaveUpError(f"{name}: another ADD answers {self._pod(name).result.raw}, not {before.result.raw}")

    def _add_in_vain(self, name: str) -> None:
        """DEL while the ADD is under way, as after a runtime's time limit; then once more, for whichever came last."""

        def attempt() -> None:
            with contextlib.suppress(CniError, subprocess.TimeoutExpired):
                self._server.attach(NETNS / name)

        def delete() -> None:
            self._insist(f"DEL {name}", lambda: self._server.plugin.delete(self._id(name), NETNS / name))

        each(lambda call: call(), (attempt, delete))
        delete()
        self._server.pods.pop(self._id(name), None)
        self._server.remove_netns([NETNS / name])

    def _delete(self, name: str) -> None:
        pod = self._pod(name)
        self._insist(f"DEL {name}", lambda: self._server.detach(pod))
        self._server.remove_netns([pod.netns])

    def _delete_twice(self, name: str) -> None:
        """DEL by two callers at once, then once more."""
        pod = self._pod(name)
        each(lambda _: self._insist(f"DEL {name}", lambda: self._server.detach(pod)), range(2))
        self._server.remove_netns([pod.netns])
        self._insist(f"DEL {name} again", lambda: self._server.plugin.delete(pod.id, None))

    def _vanish(self, name: str) -> None:
        pod = self._pod(name)
        self._server.remove_netns([pod.netns])
        self._insist(f"DEL {name}", lambda: self._server.plugin.delete(pod.id, None))
        self._server.pods.pop(pod.id)

    def _forget(self, name: str) -> None:
        pod = self._server.pods.pop(self._id(name))
        self._server.remove_netns([pod.netns])

    def _collect(self) -> None:
        """Have everything released that is not a pod. Pods on their way in count: a runtime knows their sandboxes."""
        with self._sandboxes:
            there = {path.name for path in self._server.node.path(NETNS).iterdir()}
            self._server.plugin.gc((self._id(name), "eth0") for name in there)

    def _insist(self, what: str, call: Callable[[], object]) -> None:
        """Call until it succeeds; every other reason for a failure is told once."""
        deadline = told = None
        while True:
            try:
                call()
            except (CniError, subprocess.TimeoutExpired) as error:
                if str(error) != told:
                    told = str(error)
                    self._note(f"{self._server.name}: {what}: {told}")
                if self._mended.is_set():
                    deadline = deadline or time.monotonic() + DEADLINE_S
                    if time.monotonic() > deadline:
                        raise GaveUpError(f"{self._server.name}: {what}: {error}") from error
            else:
                return
            time.sleep(PAUSE_S)

    def _make_netns(self, names: Iterable[str]) -> None:
        lines = "\n".join(f"netns add {name}" for name in names)
        with self._sandboxes:
            self._server.node.run(["ip", "-batch", "-"], input=lines)

    def _id(self, name: str) -> str:
        return f"{self._server.name}-{name}"

    def _pod(self, name: str) -> Pod:
        return self._server.pods[self._id(name)]
