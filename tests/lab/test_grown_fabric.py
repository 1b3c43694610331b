"""A fabric of another size, from the generator: it converges, and its racks reach each other."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from containerlab.generate import plan, write
from containerlab.lab import Lab
from containerlab.runners import Runner

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def grown(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three racks of one server."""
    topology = write(tmp_path_factory.mktemp("grown"), "grown", 3, 1)
    with runner.lab.up(topology, name=f"grown-{os.getpid()}") as up:
        up.wait_ready()
        yield up


def test_every_server_reaches_every_other(grown: Lab) -> None:
    servers = [server for rack in plan(3, 1) for server in rack.servers]
    for one in servers:
        others = [address for other in servers if other is not one for address in (other.ipv4, other.ipv6)]
        for address in others:
            done = grown.node(one.name).run(["ping", "-n", "-c", "1", "-W", "2", address], check=False)
            assert done.returncode == 0, f"{one.name} to {address}: {done.stdout}"


def test_spines_know_every_rack(grown: Lab) -> None:
    for spine in ("sp1", "sp2"):
        peers = grown.vtysh_json(spine, "show bgp ipv4 unicast summary")["peers"].values()
        assert {peer["desc"] for peer in peers} == {tor.name for rack in plan(3, 1) for tor in rack.tors}
        assert {f"10.{rack.number}.0.0/24" for rack in plan(3, 1)} <= set(grown.kernel_routes(spine))
