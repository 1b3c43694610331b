"""The part of the failure matrix that every test run can afford; `make matrix` measures all of it.

Times are held against what the fabric took in the same moment, never against the clock.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from containerlab.lab import Lab
from tests.lab.matrix import catalog, measure
from tests.lab.matrix.model import PACKET_MS, Event, Row
from tests.lab.matrix.site import Site
from tests.lab.matrix.traffic import FABRIC
from tests.servers import Server

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

RATE_HZ = 40
"""The machine is busy with the switches of the whole fabric; what a step costs is `make matrix`'s to say."""
GENEROUS = 5
"""Times what the fabric takes for the server's own address: a test machine may stop for a while."""


@pytest.fixture(scope="module")
def site(lab: Lab, servers: dict[str, Server]) -> Iterator[Site]:
    made = Site(lab, servers)
    made.rate_hz = RATE_HZ
    yield made
    made.rest()
    made.clean_up()


def run(event: Event, site: Site, *, controls: bool = False) -> list[Row]:
    return measure.run(event, site, print, controls=controls)


def test_a_cut_cable_costs_what_the_fabric_takes_and_without_steering_it_stays_black(site: Site) -> None:
    cut, repaired, control = run(catalog.LINK_CUT, site, controls=True)
    assert cut.healed
    assert repaired.healed
    assert control.bites, "half of the flows are lost until the repair"
    assert not control.healed
    fabric = cut.losses[FABRIC]
    assert fabric.packets, "the cut did cut something off"
    pods = max(loss.worst_ms for name, loss in cut.losses.items() if name != FABRIC)
    assert pods <= GENEROUS * (fabric.worst_ms + PACKET_MS), cut
    assert cut.losses["bystander"].packets == 0
