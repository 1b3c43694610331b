"""Has tests run in machines with a kernel of their own, which are booted once; two plugins of pytest.

Outside, every test with the machines' mark is handed to one, and the reports that come back are passed on as if the
test had run here. Inside, each report is written down where those outside read it. A machine has one CPU: tests whose
mark names another (``kernel(machine="...")``) run in that one, at the same time where there are CPUs enough.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import pytest

from tests.kernel.machine import Machine, MachineError

FOLDER = "KERNEL_LAB"
"""Variable that tells those inside where to write."""
REPORTS = "reports"
PATIENCE_S = 240.0
"""Longest time between two reports, the machine's boot and the fabric's included."""
AT_ONCE = max(1, len(os.sched_getaffinity(0)) * 3 // 2 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
"""Machines that run: three on two CPUs, one where these are shared with the rest of the suite; else timers run out."""


class _Running:
    """A machine, and what it has to say."""

    def __init__(self, kind: type[Machine], tests: Sequence[str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kernel-lab-")
        environment = {FOLDER: self._folder.name, "HOME": os.environ.get("HOME", "/root"), "LANG": "C.UTF-8"}
        options = ("--color=no", "--verbose", "-p", "no:cacheprovider")
        self._machine = kind(Path(self._folder.name), [*options, *tests], environment)
        self.lines = self._machine.lines(REPORTS, PATIENCE_S)
        self.tail = self._machine.tail

    def end(self) -> None:
        """End it, whatever it does."""
        self._machine.kill()
        self._folder.cleanup()


class Outside:
    """Gives tests to machines of a kind: those with its mark, unless something that it takes is missing."""

    def __init__(
        self, config: pytest.Config, mark: str, kind: type[Machine], missing: Callable[[], str | None]
    ) -> None:
        self._config = config
        self._mark, self._kind, self._missing = mark, kind, missing
        self._tests: dict[str, list[str]] = {}
        """By machine, in the order in which they are asked for."""
        self._running: dict[str, _Running] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Ask for its tests last, for one machine's after the other's.

        How long each may take is decided inside, here only how long nothing may be heard.
        """
        items.sort(key=lambda item: (self._is_ours(item), self._whose(item)))
        for item in filter(self._is_ours, items):
            item.add_marker(pytest.mark.timeout(0), append=False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Report what becomes of a test inside; not of others."""
        if not self._is_ours(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._outcome(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_sessionfinish(self) -> None:
        """End the machines."""
        for running in self._running.values():
            running.end()

    def _outcome(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        if (reason := self._missing()) is not None:
            yield _own(item, "skipped", (str(item.path), item.location[1] or 0, f"Skipped: {reason}"))
            return
        self._boot(item)
        try:
            yield from self._reports(item)
        except MachineError as error:
            yield _own(item, "failed", str(error))

    def _boot(self, item: pytest.Item) -> None:
        """Let the test's machine run, and the next ones: those before it have ended."""
        if not self._tests:
            for other in filter(self._is_ours, item.session.items):
                self._tests.setdefault(self._whose(other), []).append(other.nodeid)
        names = [*self._tests]
        first = names.index(self._whose(item))
        for name in names[first : first + AT_ONCE]:
            if name not in self._running:
                self._running[name] = _Running(self._kind, self._tests[name])

    def _reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        hook, config, running = self._config.hook, self._config, self._running[self._whose(item)]
        for line in running.lines:
            report = hook.pytest_report_from_serializable(config=config, data=line)
            if report.nodeid == item.nodeid:
                yield report
                if report.when == "teardown":
                    return
        raise MachineError(f"the machine has ended; its console ends with:\n{running.tail()}")

    def _whose(self, item: pytest.Item) -> str:
        mark = item.get_closest_marker(self._mark)
        return str(mark.kwargs.get("machine", "")) if mark is not None else ""

    def _is_ours(self, item: pytest.Item) -> bool:
        return item.get_closest_marker(self._mark) is not None


class Inside:
    """Tells those outside."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._file = Path(os.environ[FOLDER], REPORTS).open("a")  # noqa: SIM115 - open for as long as the machine runs

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write a report to the host's disk at once: this kernel would keep it to itself for a while."""
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._file.write(json.dumps(data) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _own(
    item: pytest.Item, outcome: Literal["failed", "skipped"], words: str | tuple[str, int, str]
) -> pytest.TestReport:
    """Return a report of ours, of a test that did not run."""
    return pytest.TestReport(item.nodeid, item.location, dict.fromkeys(item.keywords, 1), outcome, words, "setup")
