"""Many pods at once: thirty that come and go together, and as many as the rack has addresses."""

from __future__ import annotations

import time

import pytest

from containerlab.driver import CniError
from containerlab.ping import ping
from containerlab.probe import Flow
from tests.fabric import eventually
from tests.servers import Pod, Server, each

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

TOGETHER = 30
RACK_ADDRESSES = 506
"""Two /24 without network, broadcast and gateway."""


def reaches_all(source: Server, pods: list[Pod]) -> bool:
    return not ping([Flow(source.place, pod.place, version) for pod in pods for version in (4, 6)])


def assert_nothing_is_left(server: Server, plugged: set[str]) -> None:
    """Look at every plane, and at both ToRs."""
    assert server.attachments() == {}
    assert server.flows() == []
    assert server.ports() >= plugged, "slots stay plugged"
    assert server.look("routes") == []
    assert server.leases("used") == 0
    server.await_routes([])


def test_thirty_pods_at_once_come_and_go_without_a_trace(servers: dict[str, Server], s11: Server) -> None:
    plugged, cooling = s11.ports(), s11.leases("cooling")
    begin = time.monotonic()
    pods = s11.add(TOGETHER)
    print(f"{TOGETHER} ADDs at once: {time.monotonic() - begin:.2f} s")
    addresses = {address for pod in pods for address in pod.place.addresses}
    assert len(addresses) == 2 * TOGETHER
    assert len({pod.port for pod in pods}) == len({pod.mac for pod in pods}) == TOGETHER
    s11.await_routes(pods)
    assert len(s11.flows()) == 5 * TOGETHER
    eventually(lambda: reaches_all(servers["s21"], pods), "every pod answering the other rack")
    eventually(lambda: reaches_all(servers["s12"], pods), "every pod answering its own rack")

    begin = time.monotonic()
    each(s11.detach, pods)
    print(f"{TOGETHER} DELs at once: {time.monotonic() - begin:.2f} s")
    for pod in pods:
        assert s11.devices(pod.netns) == {"lo"}, "the pod's interface went while its namespace is still there"
    s11.remove_netns(pod.netns for pod in pods)
    assert_nothing_is_left(s11, plugged)
    assert s11.leases("cooling") == cooling + TOGETHER, "an address rests before somebody else gets it"


def test_every_address_of_the_rack_is_handed_out_and_not_one_more(s11: Server) -> None:
    whole_rack = {
        "owns: [10.101.0.0/24,": "owns: [10.101.0.0/24, 10.101.1.0/24,",
        '  s12:\n    addresses: [10.1.0.12, "fd00:1::12"]\n    owns: [10.101.1.0/24, "fd00:101::2:0/112"]\n': "",
        "state: /var/lib/routed": "state: /var/lib/routed/whole-rack",
    }
    with s11.configured(whole_rack):
        assert s11.leases("free") == RACK_ADDRESSES
        begin = time.monotonic()
        pods = s11.add(RACK_ADDRESSES)
        plugged = s11.ports()
        print(f"{RACK_ADDRESSES} ADDs: {time.monotonic() - begin:.1f} s")
        assert len({pod.address(4) for pod in pods}) == RACK_ADDRESSES
        assert len({pod.address(6) for pod in pods}) == RACK_ADDRESSES
        s11.await_routes(pods)

        with pytest.raises(CniError) as refused:
            s11.add(1)
        assert refused.value.code == 101
        assert "10.101.0.0/24" in refused.value.msg
        assert str(RACK_ADDRESSES) in refused.value.msg
        print(f"the 507th is told: {refused.value}")
        assert len(s11.attachments()) == RACK_ADDRESSES, "the refused one left no trace"

        begin = time.monotonic()
        s11.delete(pods)
        print(f"{RACK_ADDRESSES} DELs: {time.monotonic() - begin:.1f} s")
        assert_nothing_is_left(s11, plugged)
        assert s11.leases("cooling") == RACK_ADDRESSES
