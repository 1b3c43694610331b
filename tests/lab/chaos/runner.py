"""Plays the steps of a seed on a lab and judges the lab after each."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

from containerlab.errors import LabError
from containerlab.lab import Lab
from tests.lab.chaos.churn import GaveUpError, Kubelet
from tests.lab.chaos.events import Churn, Step, draw
from tests.lab.chaos.faults import Scene, mend, strike
from tests.lab.chaos.invariants import Finding, Invariant, compare
from tests.lab.chaos.survey import Surveyor
from tests.servers import Server

PATIENCE_S = 90.0
"""For everything to be as it must be once all is mended: three times the restart time of BGP."""
POLL_S = 0.5
BLIND = (LabError, OSError, http.client.HTTPException, ValueError, KeyError, subprocess.SubprocessError)
"""What a look ends with while a node, a daemon or an agent does not answer yet."""
LOG_LINES = 200

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a run ended."""

    seed: int
    steps: tuple[Step, ...]
    findings: tuple[Finding, ...]
    """Violations of the last step that was played; a run ends with the first."""
    failure: str | None
    """Why the run could not go on, and no invariant says it."""
    slowest_s: float
    """The longest time from the last mend until everything was as it must be."""
    logs: Mapping[str, str] = field(default_factory=dict)
    """Server -> the end of its agent's log, where something is wrong."""

    @property
    def good(self) -> bool:
        """Whether everything held."""
        return not self.findings and self.failure is None

    def json(self) -> str:
        """Return all that is known, for whoever looks for the reason."""
        return json.dumps(asdict(self), indent=1)


class NotWellError(Exception):
    """The lab did not become as it must be in time."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__(f"{len(findings)} violations")
        self.findings = findings


class Run:
    """One run on one lab, all of whose servers have agents that serve, and no pods."""

    def __init__(self, lab: Lab, servers: Mapping[str, Server], seed: int, report: Report) -> None:
        self._scene = Scene(lab, servers)
        self._surveyor = Surveyor(servers)
        self._seed, self._report = seed, report
        self._mended = threading.Event()
        self._mended.set()
        self._began = time.monotonic()
        self._kubelets = {name: Kubelet(server, self._mended, self._note) for name, server in servers.items()}

    def play(self, seconds: float, least_steps: int = 1) -> Verdict:
        """Play so many steps and on until one ends after so many seconds, or something is wrong."""
        self._began = time.monotonic()
        self._host_flows = self._surveyor.look().host_flows
        steps: list[Step] = []
        findings: list[Finding] = []
        failure: str | None = None
        slowest_s = 0.0
        for step in draw(self._seed, self._surveyor.site):
            steps.append(step)
            try:
                self._play(step)
                slowest_s = max(slowest_s, self._converge(step))
            except NotWellError as error:
                findings = error.findings
                break
            except (GaveUpError, LabError, AssertionError) as error:
                failure = f"step {step.number}: {error}"
                break
            if len(steps) >= least_steps and time.monotonic() - self._began > seconds:
                break
        logs = {} if not findings and failure is None else dict(self._logs())
        return Verdict(self._seed, tuple(steps), tuple(findings), failure, slowest_s, logs)

    def _play(self, step: Step) -> None:
        """Let faults and churn happen at the same time, mend the faults, and wait until the kubelets are done."""
        self._mended.clear()
        with ThreadPoolExecutor(max(1, len(step.churns))) as pool:
            begun = [] if step.head_start_s is None else self._begin(pool, step)
            time.sleep(step.head_start_s or 0)  # the churn's, before the faults strike
            try:
                for fault in step.faults:
                    self._note(f"step {step.number}: {fault}")
                    strike(self._scene, fault)
                begun = begun or self._begin(pool, step)
                if step.faults:
                    time.sleep(step.lasts_s)  # this is how long the faults last
                for fault in step.mended:
                    mend(self._scene, fault)
                self._note(f"step {step.number}: mended after {step.lasts_s} s")
            finally:
                self._mended.set()
            for churn in begun:
                churn.result()

    def _begin(self, pool: ThreadPoolExecutor, step: Step) -> list[Future[None]]:
        return [pool.submit(self._churn, step, churn) for churn in step.churns]

    def _churn(self, step: Step, churn: Churn) -> None:
        self._note(f"step {step.number}: {churn}")
        self._kubelets[churn.server].do(churn)

    def _converge(self, step: Step) -> float:
        """Look until everything is as it must be; returns the seconds that it took. NotWellError when too many."""
        mended, last = time.monotonic(), ""
        while findings := self._judge():
            last = f"; {findings[0]}, last of all"
            if time.monotonic() - mended > PATIENCE_S:
                raise NotWellError(findings)
            time.sleep(POLL_S)  # there is no event for "all of the fabric has settled"
        took_s = time.monotonic() - mended
        self._note(f"step {step.number}: all is well after {took_s:.1f} s{last}")
        return took_s

    def _judge(self) -> list[Finding]:
        """Look at everything; the expensive looks only when the cheap ones find nothing."""
        try:
            findings = compare(self._surveyor.look(), self._host_flows)
            return findings or self._surveyor.unreachable() or self._surveyor.unconfirmed()
        except BLIND as error:
            return [Finding(Invariant.SEEN, type(error).__name__, "look", "the lab", str(error))]

    def _logs(self) -> Iterator[tuple[str, str]]:
        for name, server in self._scene.servers.items():
            yield name, server.agent.last_words(LOG_LINES)

    def _note(self, line: str) -> None:
        self._report(f"{time.monotonic() - self._began:7.1f} s  {line}")


@contextlib.contextmanager
def prepared(name: str, report: Report) -> Iterator[tuple[Lab, dict[str, Server]]]:
    """Bring up a lab with an agent on every server."""
    with Lab.up(name=name, report=report) as lab:
        lab.wait_ready()
        servers = {node.name: Server(lab, node.name) for node in lab.nodes.values() if node.spec["group"] == "server"}
        with ThreadPoolExecutor(len(servers)) as pool:
            list(itertools.chain(pool.map(Server.start, servers.values())))
        yield lab, servers
