"""What the kernel answers is what callers get: values, or an error that says what was being done."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from routed.attach.answers import Neighbour, Route
from routed.attach.errors import KernelError, NotFound
from routed.attach.kernel import Rtnl
from routed.attach.rtnl import (
    add_address,
    add_route,
    add_veth,
    delete_device,
    delete_route,
    set_device,
    set_neighbour,
    tx_checksums_off,
)
from tests.fixtures.pods import run, server

pytestmark = pytest.mark.system


@pytest.fixture
def home() -> Iterator[Rtnl]:
    with server(), Rtnl() as opened:
        yield opened


def veth(home: Rtnl, name: str = "a", peer: str = "b") -> int:
    home.apply(add_veth(name, peer, 1500), set_device(name, up=True), set_device(peer, up=True))
    device = home.device(name)
    assert device is not None
    return device.index


def test_a_device_that_is_not_there_is_none(home: Rtnl) -> None:
    assert home.device("none") is None


def test_a_veth_names_its_other_end(home: Rtnl) -> None:
    index = veth(home)
    device, peer = home.device("a"), home.device("b")

    assert device is not None
    assert peer is not None
    assert (device.kind, device.mtu, device.up, device.carrier) == ("veth", 1500, True, True)
    assert (device.parent, peer.parent, device.parent_elsewhere) == (peer.index, index, False)


def test_devices_are_found_by_the_beginning_of_their_alias(home: Rtnl) -> None:
    veth(home)
    home.apply(set_device("a", alias="ours and more"), set_device("b", alias="not ours"))

    assert [device.name for device in home.devices(alias="ours")] == ["a"]


def test_a_refusal_says_what_was_being_done_and_does_not_stop_the_rest(home: Rtnl) -> None:
    veth(home)

    with pytest.raises(KernelError, match="create veth a and c: File exists") as caught:
        home.apply(add_veth("a", "c", 1500), set_device("a", mtu=1400))

    assert caught.value.code == errno.EEXIST
    device = home.device("a")
    assert device is not None
    assert device.mtu == 1400


def test_the_kernels_own_words_are_passed_on(home: Rtnl) -> None:
    veth(home)

    with pytest.raises(KernelError, match=r"mtu (greater|less) than device"):
        home.apply(set_device("a", mtu=100_000))


def test_what_is_gone_is_told_from_other_refusals(home: Rtnl) -> None:
    veth(home)
    device = home.device("a")
    assert device is not None
    home.apply(delete_device(device))

    with pytest.raises(NotFound):
        home.apply(delete_device(device))


def test_addresses_routes_and_neighbours_read_as_written(home: Rtnl) -> None:
    index = veth(home)
    addresses = [ip_interface("10.0.0.1/32"), ip_interface("fd00::1/128")]
    routes = [
        Route(ip_network("10.0.0.254/32"), None, 0),
        Route(ip_network("0.0.0.0/0"), ip_address("10.0.0.254"), 0),
        Route(ip_network("fd00::fe/128"), None, 1024),
        Route(ip_network("::/0"), ip_address("fd00::fe"), 1024),
    ]
    mac = "02:00:00:00:00:01"
    home.apply(
        *(add_address(index, address) for address in addresses),
        *(add_route(index, route) for route in routes),
        *(set_neighbour(index, ip_address(address), mac) for address in ("10.0.0.254", "fd00::fe")),
    )

    assert home.addresses(index) == addresses
    assert set(routes) <= set(home.routes(index))
    permanent = [entry for entry in home.neighbours(index) if entry.permanent]
    assert permanent == [
        Neighbour(index, ip_address(address), mac, permanent=True, fresh=True, usable=True)
        for address in ("10.0.0.254", "fd00::fe")
    ]

    home.apply(*(delete_route(index, route) for route in reversed(routes)))
    assert not set(routes) & set(home.routes(index))


def test_only_the_asked_devices_entries_are_listed(home: Rtnl) -> None:
    index = veth(home)
    run("ip", "address", "add", "10.9.0.1/24", "dev", "b")
    run("ip", "neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:02", "dev", "b")

    assert home.addresses(index) == []
    assert [route for route in home.routes(index) if route.destination.version == 4] == []
    assert {entry.index for entry in home.neighbours(index)} <= {index}  # the kernel's own for multicast, maybe


def test_lists_longer_than_one_answer_are_complete(home: Rtnl) -> None:
    home.apply(*(add_veth(f"a{number}", f"b{number}", 1500) for number in range(100)))
    for end in "ab":
        home.apply(*(set_device(f"{end}{number}", alias="many") for number in range(100)))

    assert len(home.devices(alias="many")) == 200


@pytest.mark.usefixtures("home")
def test_checksums_of_a_device_that_is_not_there_cannot_be_turned_off() -> None:
    with pytest.raises(KernelError, match="checksums of none"):
        tx_checksums_off("none")
