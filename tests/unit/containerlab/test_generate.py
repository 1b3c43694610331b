"""Fabrics of any size: the two racks are what the generator makes, and no number of a larger one is taken twice."""

from __future__ import annotations

import re
from collections import Counter
from ipaddress import IPv4Network, IPv6Network, ip_interface
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from containerlab.errors import LabError
from containerlab.generate import MAX_RACKS, MAX_SERVERS, files, plan, uplinks, write
from containerlab.topology import TWO_RACKS, load
from routed.settings import load as load_rack

FOLDER = TWO_RACKS.parent
SIZES = [(1, 1), (1, 3), (3, 4), (9, 9), (10, 2), (2, 10), (12, 33), (MAX_RACKS, MAX_SERVERS)]


def test_two_racks_of_two_servers_are_the_files_beside_the_topology_file() -> None:
    made = files("two-racks", 2, 2)
    topology = made.pop(Path("two-racks.clab.yml"))
    assert yaml.safe_load(topology) == yaml.safe_load(TWO_RACKS.read_text())
    assert len(made) == 12
    for path, text in made.items():
        assert text == (FOLDER / path).read_text(), path


@pytest.mark.parametrize(("racks", "servers"), SIZES)
def test_every_name_and_number_is_given_once(racks: int, servers: int) -> None:
    numbered = plan(racks, servers)
    everybody = [server for rack in numbered for server in rack.servers]
    tors = [tor for rack in numbered for tor in rack.tors]
    links = uplinks(numbered)
    assert len(everybody) == racks * servers
    assert len(links) == 4 * racks
    for taken in (
        [server.name for server in everybody] + [tor.name for tor in tors],
        [address for server in everybody for address in (server.ipv4, server.ipv6)],
        [server.mac for server in everybody],
        [tor.asn for tor in tors] + [65100, 65500],
        [tor.loopback for tor in tors] + ["10.255.0.1", "10.255.0.2"],
        [address for link in links for address in (link.spine4, link.tor4, link.spine6, link.tor6)],
        [server.owns6 for server in everybody],
    ):
        assert [name for name, times in Counter(taken).items() if times > 1] == []
    for tor in tors:
        assert 64512 <= tor.asn <= 65534
    for link in links:
        assert ip_interface(f"{link.spine4}/31").network == ip_interface(f"{link.tor4}/31").network
        assert ip_interface(f"{link.spine6}/127").network == ip_interface(f"{link.tor6}/127").network
    for rack in numbered:
        shares = [IPv4Network(server.owns4) for server in rack.servers]  # in the order of their addresses
        assert all(one.broadcast_address < other.network_address for one, other in pairwise(shares))
        assert all(0 < server.host < 100 for server in rack.servers), "the LACP keys of the two ToRs are 100 apart"


def test_subnets_of_the_largest_fabric_do_not_overlap() -> None:
    racks = plan(MAX_RACKS, 1)
    ipv4 = [f"10.{rack.number}.0.0/24" for rack in racks] + [f"10.{rack.pool}.0.0/23" for rack in racks]
    ipv6 = [f"fd00:{rack.number}::/64" for rack in racks] + [f"fd00:{rack.pool}::/64" for rack in racks]
    links = ["10.254.1.0/24", "10.254.2.0/24", "10.255.0.0/16"], ["fd00:254:1::/64", "fd00:254:2::/64"]
    networks4, networks6 = sorted(map(IPv4Network, ipv4 + links[0])), sorted(map(IPv6Network, ipv6 + links[1]))
    assert not any(one.overlaps(other) for one, other in pairwise(networks4))
    assert not any(one.overlaps(other) for one, other in pairwise(networks6))


@pytest.mark.parametrize(("racks", "servers"), [(0, 1), (1, 0), (MAX_RACKS + 1, 1), (1, MAX_SERVERS + 1)])
def test_a_fabric_that_the_numbers_do_not_reach_is_refused(racks: int, servers: int) -> None:
    with pytest.raises(LabError, match="1 to 53 racks of 1 to 90 servers"):
        plan(racks, servers)


@pytest.mark.parametrize(("racks", "servers"), [(1, 1), (3, 4), (11, 12)])
def test_a_written_fabric_is_whole(tmp_path: Path, racks: int, servers: int) -> None:
    topology = load(write(tmp_path, "grown", racks, servers))
    assert topology.name == "grown"
    assert len(topology.nodes) == 2 + 2 * racks + racks * servers
    assert len(topology.links) == 4 * racks + 2 * racks * servers
    for rack in plan(racks, servers):
        settings = load_rack(tmp_path / "racks" / f"r{rack.number}.yaml")
        assert set(settings.servers) == {server.name for server in rack.servers}
        for tor in rack.tors:
            text = (tmp_path / "configs" / tor.name / "frr.conf").read_text()
            assert text.count(" peer-group SERVER\n") == len(rack.servers)
            neighbours = re.findall(r"^ neighbor (10\.254\.\S+) peer-group SPINE$", text, re.MULTILINE)
            assert len(neighbours) == 2
