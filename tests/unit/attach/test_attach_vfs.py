"""Slots of VFs: every VF of the uplink has its own, and keeps it whatever is plugged in later."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from routed.attach.answers import NicPort
from routed.attach.sysfs import Pf, discover
from routed.attach.sysfs import Vf as Function
from routed.attach.vf import own_mac, own_name
from routed.attach.vfs import numbered, tabulate
from routed.domain.wiring import VF_SLOTS, VFS_OF_A_PF, Vf
from tests.fakes.nics import FAMILIES, Server

BUSES = st.lists(st.integers(1, 200), min_size=1, max_size=4, unique=True)


def port(name: str) -> NicPort:
    return NicPort(2, name, "", True, 1500, "02:00:00:00:00:02", None, "0a", name, "")


def cards(buses: list[int]) -> tuple[Pf, ...]:
    """PFs of cards with two ports and three VFs on each, as they are found."""

    def vf(bus: int, function: int, index: int) -> Function:
        address = f"0000:{bus:02x}:{1 + function:02x}.{index}"
        return Function(address, index, "mlx5_core", (), port(f"ens{bus}f{function}r{index}"))

    return tuple(
        Pf(
            address=f"0000:{bus:02x}:00.{function}",
            vendor="15b3",
            device="1018",
            driver="mlx5_core",
            devices=(),
            most_vfs=64,
            autoprobe=True,
            vfs=tuple(vf(bus, function, index) for index in range(3)),
            uplinks=(port(f"ens{bus}f{function}"),),
        )
        for bus in sorted(buses)
        for function in range(2)
    )


@given(BUSES, st.integers(201, 250))
def test_a_slot_is_one_vfs_for_good(buses: list[int], later: int) -> None:
    pfs = cards(buses)
    numbers = numbered(pfs, {}, {})
    slots = tabulate(pfs, numbers)
    assert len(slots) == 3 * len(pfs)
    assert len({vf.address for vf in slots.values()}) == len({vf.representor for vf in slots.values()}) == len(slots)
    more = cards([*buses, later])
    assert slots.items() <= tabulate(more, numbered(more, numbers, {})).items(), "of those that the agent knows"


@given(BUSES, st.integers(201, 250), st.data())
def test_a_vf_that_a_pod_has_keeps_its_slot_when_the_agent_has_forgotten_all(
    buses: list[int], later: int, data: st.DataObject
) -> None:
    """A card was put in meanwhile, and some are not to be seen at first; nobody but the ledger remembers."""
    pfs = cards([*buses, later])
    before = tabulate(pfs, numbered(pfs, {}, {}))
    slots = data.draw(st.lists(st.sampled_from(sorted(before)), max_size=4))
    taken = {before[slot].address: slot for slot in slots}
    late = data.draw(st.sets(st.sampled_from(pfs)))
    now = cards([*buses, later, 255])
    numbers = numbered([pf for pf in now[::-1] if pf not in late], {}, taken)
    after = tabulate(now, numbered(now, numbers, taken))
    assert {slot: before[slot] for slot in slots}.items() <= after.items()
    assert len(after) == 3 * len(now)


def test_slots_are_counted_by_pf_and_index() -> None:
    pfs = cards([3])
    assert tabulate(pfs, numbered(pfs, {}, {})) == {
        VF_SLOTS + pf * VFS_OF_A_PF + index: Vf(f"ens3f{pf}r{index}", pfs[pf].vfs[index].address)
        for pf in range(2)
        for index in range(3)
    }


def test_a_vf_without_a_certain_representor_has_no_slot(tmp_path: Path) -> None:
    server = Server(tmp_path / "sys")
    [pf] = server.add_card(FAMILIES["mlx5"], "0a", 3, ports=1)
    server.make_vfs(pf, 2)
    server.switchdev(pf)
    server.move_away(server.representor(pf, 0))
    pfs = discover(server.tree, server.ports.values())
    assert tabulate(pfs, numbered(pfs, {}, {})).keys() == {VF_SLOTS + 1}


@given(
    st.sets(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 255), st.integers(0, 31), st.integers(0, 7)), min_size=2)
)
def test_what_a_vf_is_called_while_it_is_nobodys_is_its_own(places: set[tuple[int, int, int, int]]) -> None:
    addresses = [f"{domain:04x}:{bus:02x}:{device:02x}.{function}" for domain, bus, device, function in sorted(places)]
    names, macs = {own_name(address) for address in addresses}, {own_mac(address) for address in addresses}
    assert len(names) == len(macs) == len(addresses)
    assert all(re.fullmatch(r"[^\s/:]{1,15}", name) for name in names)
    assert all(mac.startswith("0a:56:") for mac in macs), "no pod's: those begin with 0a:58"
