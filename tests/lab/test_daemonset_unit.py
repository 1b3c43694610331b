"""systemd's unit grants the agent what it needs: it does all of its work with the unit's capabilities.

ExaBGP is root's here, since a checkout need not be readable for the unit's user. test_daemonset.py has it give up root
with the same capabilities, and takes each of them away.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerlab.agents import Agent
from containerlab.lab import Lab
from containerlab.ping import ping
from containerlab.probe import both_ways
from tests.fabric import eventually
from tests.manifests import DEPLOY
from tests.servers import RACK, Residents, Server

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("servers"),
    pytest.mark.netns_only("a container has fewer capabilities to choose from than a server"),
]
"""Before test_scale.py, which leaves this server without addresses for a while."""

UNIT = DEPLOY / "systemd/routed.service"
SERVICE = Path("/var/lib/routed-as-a-service")


def granted() -> list[str]:
    """Return the unit's capabilities, without their prefix."""
    (names,) = re.findall(r"^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.MULTILINE)
    return [name.removeprefix("CAP_").lower() for name in names.split()]


@pytest.fixture
def service(lab: Lab) -> Iterator[Server]:
    """A server whose agent runs as the unit has it run."""
    server = Server(lab, "s22")
    bounding = ",".join(["-all", *(f"+{name}" for name in granted())])
    file = server.node.path(SERVICE)
    file.write_text(f'#!/bin/sh\nexec setpriv --bounding-set={bounding} routed "$@"\n')
    file.chmod(0o755)
    server.agent = Agent.start(server.node, binary=SERVICE, env={"ROUTED_CONFIG": str(RACK)})
    yield server
    server.clean_up()
    server.agent.stop()
    server.agent.kill_speaker()
    file.unlink()


def test_the_agent_does_its_work_with_what_the_unit_grants(service: Server, residents: Residents) -> None:
    service.agent.wait_ready()
    eventually(service.speaks, "the sessions")
    status = service.node.path(f"/proc/{service.agent.pid}/status").read_text()
    (bounding,) = re.findall(r"^CapBnd:\s*(\w+)$", status, re.MULTILINE)
    assert int(bounding, 16).bit_count() == len(granted()), "the control: it has these and no other"
    (pod,) = service.add(1)
    service.await_routes([pod])
    eventually(lambda: not ping(both_ways([(pod.place, residents.one.place)])), "traffic with the other rack")
    before = service.sessions()
    service.agent.kill_speaker()
    eventually(lambda: all(service.sessions()[tor] > before[tor] for tor in service.tors), "another ExaBGP")
    service.delete([pod])
    service.await_routes([])
