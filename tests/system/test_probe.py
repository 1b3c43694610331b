"""The probe and the pings against two network namespaces with a cable between them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from containerlab.driver import network_namespace
from containerlab.ping import ping
from containerlab.probe import Flow, Place, Probe, Report, both_ways
from tests.fabric import eventually

pytestmark = pytest.mark.system


def ip(place: Place, *words: str) -> None:
    subprocess.run(["nsenter", f"--net={place.netns}", "ip", *words], check=True)


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[Place, Place]]:
    with ExitStack() as stack:
        left, right = (
            Place(name, stack.enter_context(network_namespace(tmp_path / name)), tuple(map(ip_address, addresses)))
            for name, addresses in (("left", ("10.66.0.1", "fd66::1")), ("right", ("10.66.0.2", "fd66::2")))
        )
        ip(left, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(right.netns))
        for place in (left, right):
            ip(place, "link", "set", "cable", "up")
            ip(place, "address", "add", f"{place.address(4)}/24", "dev", "cable")
            ip(place, "address", "add", f"{place.address(6)}/64", "dev", "cable", "nodad")
        # The cable carries when the kernel says so, a moment later.
        eventually(lambda: not ping(both_ways([(left, right)])), "both answer")
        yield left, right


def report_of(reports: list[Report], source: Place, version: int) -> Report:
    return next(report for report in reports if (report.flow.source, report.flow.version) == (source, version))


def test_every_packet_of_every_flow_arrives(places: tuple[Place, Place]) -> None:
    flows = both_ways([places])
    with Probe(flows, rate_hz=500) as probe:
        eventually(lambda: probe.sent >= 500, "packets leave")
        reports = probe.stop()
    assert [report.flow for report in reports] == flows
    assert all(report.sent > 100 and report.lost == 0 and report.worst_gap_s == 0 for report in reports), reports


def test_a_loss_has_a_direction_and_a_length(places: tuple[Place, Place]) -> None:
    _, right = places
    with Probe(both_ways([places]), rate_hz=500) as probe:
        eventually(lambda: probe.sent >= 500, "packets leave")
        ip(right, "route", "add", "blackhole", "10.66.0.1/32")
        eventually(lambda: probe.sent >= 1500, "packets leave")
        ip(right, "route", "delete", "blackhole", "10.66.0.1/32")
        eventually(lambda: probe.sent >= 2000, "packets leave")
        reports = probe.stop()
    hurt = report_of(reports, right, 4)
    assert 0 < hurt.lost < hurt.sent
    assert hurt.worst_gap_s >= (hurt.lost - 1) / 500, "one gap, as long as what was lost in it"
    assert [report.lost for report in reports if report is not hurt] == [0, 0, 0]


def test_all_is_lost_where_no_way_leads(places: tuple[Place, Place]) -> None:
    left, right = places
    ip(left, "link", "set", "cable", "down")
    with Probe([Flow(left, right, 4)], rate_hz=500) as probe:
        eventually(lambda: probe.sent >= 100, "packets leave")
        (report,) = probe.stop()
    assert report.lost == report.sent >= 100


def test_pings_tell_who_is_silent(places: tuple[Place, Place]) -> None:
    left, right = places
    flows = both_ways([places])
    assert ping(flows * 20) == []
    ip(right, "address", "delete", "fd66::2/64", "dev", "cable")
    gone = [Flow(left, right, 6)]
    assert ping([*gone, Flow(left, right, 4)]) == gone
