"""The lab, and agents on three of its servers."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from containerlab.agents import LOG
from containerlab.lab import Lab
from tests.fabric import eventually, lab, runner
from tests.servers import Residents, Server, each

__all__ = ["lab", "runner"]

LOGS = (LOG, Path("/var/log/tord.log"))
"""What agents and ToRs say."""
LAST_LINES = 25


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what needs agents last: a server whose bridge an agent has taken over is not the bare fabric any more.

    Of that, what cuts links under dense traffic comes late: beside it only light tests run by then (tests/sharing.py).
    Last of all what has an agent follow an API server for a while: it is another one then, with another rack.
    """
    late = ("tenants", "link_a", "servers")
    items.sort(key=lambda item: [name in getattr(item, "fixturenames", ()) for name in late])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure how the nodes' logs ended: the fabric is gone when somebody reads of it."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(lab, Lab):
        for node in lab.nodes.values():
            for log in filter(Path.exists, map(node.path, LOGS)):
                last = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
                report.sections.append((f"{node.name}: {log.name}", "\n".join(last)))
    return report


@pytest.fixture(scope="session")
def servers(lab: Lab) -> dict[str, Server]:
    """Two servers of one rack, one of the other, each with its agent; they end with the lab."""
    names = ("s11", "s12", "s21")
    found = {name: Server(lab, name) for name in names}
    each(Server.start, found.values())
    return found


@pytest.fixture(scope="module")
def residents(servers: dict[str, Server]) -> Iterator[Residents]:
    """Two pods on s11, one on s12, one on s21."""
    first, second, third = (servers[name] for name in ("s11", "s12", "s21"))
    pods = Residents(*first.add(2), *second.add(1), *third.add(1))
    first.await_routes([pods.one, pods.two])
    second.await_routes([pods.rack])
    third.await_routes([pods.far])
    for server in (second, third):
        eventually(server.at_rest, f"{server.name} at rest")
    yield pods
    for server in servers.values():
        server.clean_up()


@pytest.fixture
def s11(servers: dict[str, Server]) -> Iterator[Server]:
    """The server that is tested: its agent is at rest before and after, and has the pods that it had."""
    server = servers["s11"]
    eventually(server.at_rest, "s11 at rest")
    before = dict(server.pods)
    yield server
    if not server.agent.alive():
        server.start()
    server.clean_up(keep=before)
    eventually(server.at_rest, "s11 as it was")
