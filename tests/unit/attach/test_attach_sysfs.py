"""PFs, VFs, uplinks and representors on generated servers: the right one, or none and why; never a wrong one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routed.attach.answers import NicPort
from routed.attach.errors import KernelError
from routed.attach.sysfs import NoAnswer, Pf, Vf, discover, find_vf
from tests.fakes.nics import FAMILIES, Family, Server

CARD = "c2cfc60003a1420c"


def server(tmp_path: Path, family: Family, vfs: int = 3, *, dump_has_parents: bool = True) -> Server:
    """Return a server with one card of two ports in switchdev mode."""
    made = Server(tmp_path / "sys", dump_has_parents=dump_has_parents)
    for pf in made.add_card(family, CARD, bus=3):
        made.make_vfs(pf, vfs)
        made.switchdev(pf)
    return made


def found(made: Server) -> tuple[Pf, ...]:
    return discover(made.tree, made.ports.values())


def representors(made: Server) -> dict[str, str | None]:
    """Return what was found to stand for each VF."""
    return {
        vf.address: None if isinstance(vf.representor, NoAnswer) else vf.representor.name
        for pf in found(made)
        for vf in pf.vfs
    }


def truth(made: Server) -> dict[str, str]:
    return {vf.address: made.representor(pf.address, vf.index) for pf in found(made) for vf in pf.vfs}


def why(answer: object) -> str:
    assert isinstance(answer, NoAnswer)
    return answer.why


def only_vf(made: Server, address: str) -> Vf:
    answer = find_vf(found(made), address)
    assert not isinstance(answer, NoAnswer)
    return answer[1]


@pytest.mark.parametrize("what", ["sriov_totalvfs", "net", "driver"])
def test_what_is_there_and_cannot_be_read_is_an_error_and_not_absent(tmp_path: Path, what: str) -> None:
    made = server(tmp_path, FAMILIES["mlx5"])
    (pf, *_) = found(made)
    place = made.tree / "bus/pci/devices" / pf.address / what
    shutil.rmtree(place) if what == "net" else place.unlink()
    assert found(made) != (), "the negative control: what is not there is no error"
    place.symlink_to(place) if what != "driver" else place.mkdir()
    with pytest.raises(KernelError, match=f"read .*{what}"):
        found(made)


@pytest.mark.parametrize("dump_has_parents", [True, False], ids=["5.14", "older kernel"])
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_vf_of_every_driver_has_its_own_representor(
    tmp_path: Path, family: Family, dump_has_parents: bool
) -> None:
    made = server(tmp_path, family, dump_has_parents=dump_has_parents)
    assert representors(made) == truth(made)
    assert len(set(representors(made).values())) == (3 if family.one_function else 6)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_uplinks_are_told_from_representors(tmp_path: Path, family: Family) -> None:
    uplinks = []
    for pf in found(server(tmp_path, family)):
        assert not isinstance(pf.uplinks, NoAnswer)
        uplinks += [port.name for port in pf.uplinks]
        assert (pf.driver, pf.vendor) == (family.driver, family.vendor)
    assert uplinks == ["ens3f0", "ens3f1"]


@dataclass(frozen=True)
class Slot:
    """A card somewhere in a generated server."""

    family: Family
    bus: int
    ports: int
    vfs: int
    switchdev: bool
    switch_id: str


CARDS = st.lists(
    st.builds(
        Slot,
        family=st.sampled_from(sorted(FAMILIES.values(), key=repr)),
        bus=st.integers(1, 200),
        ports=st.integers(1, 4),
        vfs=st.integers(0, 5),
        switchdev=st.booleans(),
        switch_id=st.sampled_from([CARD, "0000000000000000", "506b4b0300aa55ee"]),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda card: card.bus,
)
CHANGES = st.lists(st.tuples(st.sampled_from(["gone", "unbind", "pod", "vfio", "uplink"]), st.integers(0, 99)))


def build(tree: Path, cards: list[Slot], *, dump_has_parents: bool) -> Server:
    made = Server(tree, dump_has_parents=dump_has_parents)
    for card in cards:
        for pf in made.add_card(card.family, card.switch_id, card.bus, card.ports):
            made.make_vfs(pf, card.vfs)
            if card.switchdev and (card.vfs or not card.family.vfs_first):
                made.switchdev(pf)
    return made


@settings(max_examples=40, deadline=None)
@given(cards=CARDS, dump_has_parents=st.booleans())
def test_whatever_is_in_a_server_no_vf_is_given_the_representor_of_another(
    cards: list[Slot], dump_has_parents: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = build(Path(folder, "sys"), cards, dump_has_parents=dump_has_parents)
        got, right = representors(made), truth(made)
        assert {vf: name for vf, name in got.items() if name not in (None, right[vf])} == {}
        if len({card.switch_id for card in cards}) == len(cards):  # distinct cards leave nothing in doubt
            on = {pf.address for pf in found(made) if made.in_switchdev(pf.address)}
            certain = {vf.address for pf in found(made) for vf in pf.vfs if pf.address in on}
            assert {vf for vf, name in got.items() if name is not None} == certain


@settings(max_examples=40, deadline=None)
@given(cards=CARDS, changes=CHANGES, dump_has_parents=st.booleans())
def test_whatever_is_missing_no_vf_is_given_the_representor_of_another(
    cards: list[Slot], changes: list[tuple[str, int]], dump_has_parents: bool
) -> None:
    """Representors that vanish, VFs without a driver, in a pod or in a virtual machine."""
    with tempfile.TemporaryDirectory() as folder:
        made = build(Path(folder, "sys"), cards, dump_has_parents=dump_has_parents)
        right, before = truth(made), representors(made)
        for change, number in changes:
            apply(made, change, number, right)
        after = representors(made)
        assert {vf: name for vf, name in after.items() if name not in (None, right[vf])} == {}
        gone = {vf for vf, name in right.items() if name not in made.ports}
        kept = {vf for vf, name in before.items() if name is not None} - gone
        if "uplink" not in dict(changes):
            assert {vf for vf in kept if after[vf] is None} == set(), "what happens to a VF does not hide another's"


def apply(made: Server, change: str, number: int, right: dict[str, str]) -> None:
    vfs = sorted(right)
    if not vfs:
        return
    vf = vfs[number % len(vfs)]
    if change == "gone" and right[vf] in made.ports:
        made.move_away(right[vf])
    elif change == "unbind":
        made.bind(vf, "-")
    elif change == "uplink":
        for name in made.uplink_names(sorted(made.families)[number % len(made.families)]):
            made.move_away(name)
    elif change == "vfio":
        made.bind(vf, "vfio-pci")
    elif change == "pod":
        for device in only_vf(made, vf).devices:
            made.move_away(device)


# ---- particular servers


def test_two_ports_of_a_card_share_a_switch_id_and_are_still_two(tmp_path: Path) -> None:
    made = server(tmp_path, FAMILIES["bnxt"])
    assert {pf.switch_id for pf in found(made)} == {CARD}
    assert only_vf(made, made.vf_address("0000:03:00.0", 1)).representor == made.ports["ens3f0r1"]
    assert only_vf(made, made.vf_address("0000:03:00.1", 1)).representor == made.ports["ens3f1r1"]


def test_two_cards_that_call_themselves_the_same_are_told_apart_by_their_slots_or_not_at_all(tmp_path: Path) -> None:
    for name, expected in (("mlx5", 12), ("bnxt", 0)):
        made = Server(tmp_path / name)
        for bus in (3, 4):
            for pf in made.add_card(FAMILIES[name], CARD, bus):
                made.make_vfs(pf, 3)
                made.switchdev(pf)
        got = representors(made)
        assert {vf: rep for vf, rep in got.items() if rep is not None} == dict(list(truth(made).items())[:expected])
    assert "share a switch id and a number" in why(only_vf(made, made.vf_address("0000:03:00.0", 0)).representor)


def test_a_pf_whose_uplink_is_elsewhere_may_still_have_representors_here(tmp_path: Path) -> None:
    made = Server(tmp_path / "sys")
    for bus in (3, 4):
        for pf in made.add_card(FAMILIES["bnxt"], CARD, bus, ports=1):
            made.make_vfs(pf, 1)
            made.switchdev(pf)
    made.move_away("ens4f0")
    made.move_away("ens3f0r0")
    assert set(representors(made).values()) == {None}, "ens4f0r0 is the other card's"


def test_so_it_may_though_its_driver_is_another(tmp_path: Path) -> None:
    made = Server(tmp_path / "sys")
    for bus, name in ((3, "nfp"), (4, "bnxt")):
        for pf in made.add_card(FAMILIES[name], CARD, bus, ports=1):
            made.make_vfs(pf, 1)
            made.switchdev(pf)
    made.move_away("ens4f0")
    made.move_away("ens3f0r0")
    assert set(representors(made).values()) == {None}, "ens4f0r0 is the other card's"


@pytest.mark.parametrize("driver", ["vfio-pci", "uio_pci_generic", "-"])
def test_a_pf_that_a_program_has_leaves_nothing_in_doubt(tmp_path: Path, driver: str) -> None:
    made = Server(tmp_path / "sys")
    for bus, name, switch in ((3, "nfp", CARD), (4, "mlx5", "0badcafe")):
        for pf in made.add_card(FAMILIES[name], switch, bus, ports=1):
            made.make_vfs(pf, 2)
            if bus == 3:
                made.switchdev(pf)
    made.bind("0000:04:00.0", driver)
    assert len([rep for rep in representors(made).values() if rep is not None]) == 2


def test_what_belongs_to_another_host_of_the_card_is_not_ours(tmp_path: Path) -> None:
    made = server(tmp_path, FAMILIES["mlx5"], vfs=2)
    for number, name in enumerate(("c1pf0vf0", "c1pf0vf1", "c1pf0", "pf0", "pf0sf3", "c1pf1sf0")):
        made.add_device(f"other{number}", CARD, name, parent="0000:03:00.0")
    assert representors(made) == truth(made)
    made.move_away("ens3f0r1")
    assert representors(made)[made.vf_address("0000:03:00.0", 1)] is None, "c1pf0vf1 is another host's"


def test_one_function_with_representors_of_two_is_told_by_number(tmp_path: Path) -> None:
    made = server(tmp_path, FAMILIES["mlx5"], vfs=2)
    for index in range(2):
        made.add_device(f"other{index}", CARD, f"pf7vf{index}", parent="0000:03:00.0")
    assert representors(made) == truth(made)
    made.move_away("ens3f0r1")
    assert representors(made)[made.vf_address("0000:03:00.0", 1)] is None


def test_a_representor_with_a_parent_is_nobody_else_s(tmp_path: Path) -> None:
    made = server(tmp_path, FAMILIES["mlx5"], vfs=1)
    made.move_away("ens3f1r0")
    made.add_device("other", CARD, "pf1vf0", parent="0000:03:00.0")
    assert representors(made)[made.vf_address("0000:03:00.1", 0)] is None


def test_a_vf_keeps_its_representor_whatever_has_become_of_itself(tmp_path: Path) -> None:
    made = server(tmp_path, FAMILIES["mlx5"])
    pod, unbound, machine = (made.vf_address("0000:03:00.0", index) for index in range(3))
    made.move_away("ens3f0v0")
    made.bind(unbound, "-")
    made.bind(machine, "vfio-pci")
    assert representors(made) == truth(made)
    assert [(only_vf(made, vf).driver, only_vf(made, vf).devices) for vf in (pod, unbound, machine)] == [
        ("mlx5_core", ()),
        ("", ()),
        ("vfio-pci", ()),
    ]
    assert [only_vf(made, vf).free for vf in (pod, unbound, machine)] == [False, True, False]
    assert only_vf(made, made.vf_address("0000:03:00.1", 0)).free


def test_old_names_say_nothing_where_two_functions_share_a_switch(tmp_path: Path) -> None:
    made = server(tmp_path, replace(FAMILIES["mlx5 before 4.19"], own_switch=False))
    assert set(representors(made).values()) == {None}
    assert "index alone" in why(only_vf(made, made.vf_address("0000:03:00.0", 0)).representor)


def test_a_port_number_that_contradicts_the_function_is_no_number(tmp_path: Path) -> None:
    made = server(tmp_path, FAMILIES["mlx5 without parents"])
    for name, said in (("ens3f0", "p1"), ("ens3f1", "p0")):
        made.ports[name] = replace(made.ports[name], port_name=said)
    assert set(representors(made).values()) == {None}
    made.ports["ens3f1"] = replace(made.ports["ens3f1"], port_name="p1")
    assert set(representors(made).values()) == {None}, "both uplinks say p1: neither is certain"
    for pf in found(made):
        assert "another number than its uplink" in why(pf.vfs[0].representor)
    made = server(tmp_path / "bnxt", FAMILIES["bnxt"])
    made.ports["ens3f0"] = replace(made.ports["ens3f0"], port_name="p1")
    assert representors(made) == truth(made), "this driver numbers by function"


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda port: replace(port, switch_id=""), "switchdev mode"),
        (lambda port: replace(port, switch_id="77"), "no device of this namespace represents VF 0"),
        (lambda port: replace(port, port_name="pf0"), "switchdev mode"),
    ],
)
def test_without_an_uplink_there_is_no_answer(tmp_path: Path, edit: Callable[[NicPort], NicPort], reason: str) -> None:
    made = server(tmp_path, FAMILIES["mlx5"])
    made.ports["ens3f0"] = edit(made.ports["ens3f0"])
    assert reason in why(only_vf(made, made.vf_address("0000:03:00.0", 0)).representor)


def test_two_that_could_be_it_are_none(tmp_path: Path) -> None:
    made = server(tmp_path, FAMILIES["xsc"])
    made.add_device("again", CARD, "pf0vf0", parent="0000:03:00.0")
    reason = why(only_vf(made, made.vf_address("0000:03:00.0", 0)).representor)
    assert reason == "again, ens3f0r0 could all represent VF 0 of 0000:03:00.0"
    made.add_device("nameless", CARD, "", parent="0000:03:00.1")
    assert why(found(made)[1].uplinks) == "ens3f1, nameless could all be the uplink of 0000:03:00.1"


def test_what_is_no_network_card_is_left_out(tmp_path: Path) -> None:
    made = server(tmp_path, FAMILIES["mlx5"])
    (made.tree / "bus/pci/devices/0000:03:00.1/class").write_text("0x010802\n")
    assert [pf.address for pf in found(made)] == ["0000:03:00.0"]
    assert why(find_vf(found(made), "0000:03:00.1")) == "0000:03:00.1 is no VF of this server"
    assert discover(tmp_path / "nothing", ()) == ()
