"""What several processes run of the suite at the same time (``pytest -n 2``): a scheduler of xdist.

A file's tests stay in one process, in their order; so do files that share a fabric, a control plane or a machine, which
is brought up once then. What takes long is handed out first. Agents on the fabric, whose timers are short, run beside
the bare fabric and the kernel's machines, and not beside a cluster or forty servers of a rack.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

AGENTS, BARE, KERNEL = "agents", "bare fabric", "kernel"
TOGETHER = {
    "tests/lab/test_fabric.py": BARE,
    "tests/lab/test_lab_doctor.py": BARE,
    "tests/lab/test_traces.py": BARE,
    "tests/lab": AGENTS,
    "tests/kube": AGENTS,  # after them (tests/kube/conftest.py): a cluster and forty servers of a rack are a load
    "tests/kernel": KERNEL,
}
"""Files, and the folders of all others, that run one after the other, and as what."""
ON_THEIR_OWN = ("tests/lab/test_chaos_run.py", "tests/lab/test_grown_fabric.py", "tests/lab/test_interop.py")
"""Files in there that bring up a fabric of their own."""
TURNS = (AGENTS, BARE, KERNEL, "tests/system/", "tests/deploy/", "tests/unit/", "")
"""How names begin of what is handed out first, second, and so on."""


class Sharing(LoadScopeScheduling):
    """Hands out what belongs together, whole."""

    def _split_scope(self, nodeid: str) -> str:
        """Return what a test belongs to: its file, or what that file is part of."""
        file = nodeid.partition("::")[0]
        if file in ON_THEIR_OWN:
            return file
        return TOGETHER.get(file) or TOGETHER.get(file.rpartition("/")[0], file)

    def _assign_work_unit(self, node: WorkerController) -> None:
        """Hand out the first of what is left."""
        self.workqueue.move_to_end(min(self.workqueue, key=_turn), last=False)
        super()._assign_work_unit(node)


def _turn(scope: str) -> int:
    return next(number for number, start in enumerate(TURNS) if scope.startswith(start))
