"""Every check of the doctor: what is good, what is bad, what cannot be seen, and that it says what to do."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest
import yaml

from ovs_flows.sight import BridgeSight, InterfaceSight, PortSight, SwitchSight
from routed import doctor
from routed.attach.answers import Device, Neighbour
from routed.attach.hostfacts import Setting
from routed.cni.install import HostPorts, conflist
from routed.doctor.checks import judge
from routed.doctor.facts import Agent, Bond, Echo, Facts, File, Files, Network, Unseen
from routed.doctor.findings import Finding, Level, exit_status
from routed.doctor.gather import has_iptables, keeper
from routed.settings import Settings, load

EXAMPLE = Path(__file__).parents[3] / "rack.example.yaml"
Edit = Callable[[Facts], Facts]
DIRECTORY = File(stat.S_IFDIR | 0o700, 0, writable=True)
SOCKET = File(stat.S_IFSOCK | 0o600, 0, writable=True)
GATEWAY_MAC = "02:00:00:00:01:01"
UNSEEN = Unseen("no permission")


def device(name: str, *, mtu: int = 9000, up: bool = True, carrier: bool = True) -> Device:
    return Device(
        index=len(name),
        name=name,
        kind="",
        mtu=mtu,
        mac="02:00:00:00:00:01",
        alias="",
        up=up,
        carrier=carrier,
        parent=None,
        parent_elsewhere=False,
    )


def neighbour(address: str, mac: str | None = GATEWAY_MAC) -> Neighbour:
    return Neighbour(
        index=3, address=ip_address(address), mac=mac, permanent=False, fresh=mac is not None, usable=mac is not None
    )


def sysctls(**values: str) -> tuple[Setting, ...]:
    wanted = {"forward": ("1",), "rp_all": ("0", "2"), "rp": ("0", "2"), "redirects_all": ("0",), "redirects": ("0",)}
    names = {
        "forward": "ipv4/ip_forward",
        "rp_all": "ipv4/conf/all/rp_filter",
        "rp": "ipv4/conf/br0/rp_filter",
        "redirects_all": "ipv4/conf/all/send_redirects",
        "redirects": "ipv4/conf/br0/send_redirects",
    }
    return tuple(
        Setting(names[key], values.get(key, good[0]), good, "there is a reason") for key, good in wanted.items()
    )


MEMBERS = tuple(InterfaceSight(name, number, "", lacp_current=True) for number, name in ((1, "etha"), (2, "ethb")))
BOND0 = PortSight(MEMBERS, lacp=True)
BRIDGE = BridgeSight("secure", "routed", (), {"br0": PortSight((), lacp=False), "bond0": BOND0})
NETWORK = Network(
    devices={name: device(name) for name in ("br0", "etha", "ethb")} | {"bond0": None},
    addresses=(ip_interface("10.1.0.11/24"), ip_interface("fd00:1::11/128")),
    neighbours={ip_address(text): neighbour(text) for text in ("10.1.0.1", "fd00:1::1")},
    sysctls=sysctls(),
)
SESSIONS = tuple(
    {
        "tor": name,
        "address": address,
        "state": "established",
        "reason": None,
        "member": member,
        "side": "good",
        "side_reason": None,
        "steers": False,
    }
    for name, address, member in (("r1a", "10.255.1.1", "etha"), ("r1b", "10.255.1.2", "ethb"))
)


def chain(host_ports: HostPorts) -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(conflist(host_ports))["plugins"])


PORTS = {"capabilities": {"portMappings": True}}


def healthy() -> Facts:
    settings = load(EXAMPLE)
    addresses = ("10.255.1.1", "10.255.1.2", "10.1.0.1", "fd00:1::1")
    return Facts(
        settings=settings,
        server=settings.domain_server("s11"),
        root=True,
        release="6.1.0-18-amd64",
        drivers={"macvlan": True, "veth": True},
        network=NETWORK,
        bond=None,
        switch_ids={"etha": "5c2f", "ethb": "5c2f"},
        switch=SwitchSight(("br0",), BRIDGE),
        version="3.1.0",
        agent=Agent(SESSIONS, None),
        files=Files(
            state=DIRECTORY,
            state_parent=DIRECTORY,
            cni_socket=SOCKET,
            ledger=True,
            password=None,
            password_error=None,
            cni_bin_dir=Path("/opt/cni/bin"),
            iptables=True,
            chain=chain(HostPorts.MAPPED),
            portmap=True,
        ),
        echoes={ip_address(address): Echo(3, 3) for address in addresses},
    )


def on_network(**changes: Any) -> Edit:
    return lambda facts: replace(facts, network=replace(NETWORK, **changes))


def with_device(name: str, found: Device | None) -> Edit:
    return on_network(devices={**NETWORK.devices, name: found})


def on_bridge(**changes: Any) -> Edit:
    return lambda facts: replace(facts, switch=SwitchSight(("br0",), replace(BRIDGE, **changes)))


def with_uplink(port: PortSight) -> Edit:
    return on_bridge(ports={**BRIDGE.ports, "bond0": port})


def on_files(**changes: Any) -> Edit:
    return lambda facts: replace(facts, files=replace(facts.files, **changes))


def with_file(change: Callable[[dict[str, Any]], object]) -> Edit:
    """Change the rack file."""
    document = yaml.safe_load(EXAMPLE.read_text())
    change(document)
    settings = Settings.model_validate(document)
    return lambda facts: replace(facts, settings=settings, server=settings.domain_server("s11"))


def with_echo(address: str, echo: Echo | Unseen) -> Edit:
    return lambda facts: replace(facts, echoes={**facts.echoes, ip_address(address): echo})


def with_session(**changes: Any) -> Edit:
    return lambda facts: replace(facts, agent=Agent(({**SESSIONS[0], **changes}, SESSIONS[1]), None))


def both(*edits: Edit) -> Edit:
    def apply(facts: Facts) -> Facts:
        for edit in edits:
            facts = edit(facts)
        return facts

    return apply


def no_agent(facts: Facts) -> Facts:
    return replace(facts, agent=Unseen("no agent answers"))


def not_root(facts: Facts) -> Facts:
    return replace(facts, root=False)


def bond(**changes: Any) -> Edit:
    found = Bond(mode="802.3ad", members=("etha", "ethb"), partner="02:00:00:00:01:fe", broadcast_neighbor=None)
    port = PortSight((InterfaceSight("bond0", 1, "", lacp_current=None),), lacp=False)
    return both(
        with_uplink(port),
        with_device("bond0", device("bond0")),
        lambda facts: replace(facts, bond=replace(found, **changes)),
    )


def leaving_out(*, carrier: bool) -> Edit:
    return both(bond(), with_device("ethb", replace(device("ethb", carrier=carrier), left_out=True)))


def plugged(**changes: Any) -> Edit:
    """Change what Open vSwitch says of the bond's second member."""
    return with_uplink(replace(BOND0, interfaces=(MEMBERS[0], replace(MEMBERS[1], **changes))))


def password(mode: int, *, wrong: str | None = None) -> Edit:
    file = File(stat.S_IFREG | mode, 0, writable=True)
    return both(
        with_file(lambda rack: rack["bgp"].update({"password_file": "/secret"})),
        on_files(password=file, password_error=wrong),
    )


def finding(facts: Facts, check: str) -> Finding:
    """Return the worst finding of a check."""
    order = list(Level)
    return max((one for one in judge(facts) if one.check == check), key=lambda one: order.index(one.level))


def test_a_healthy_server_has_only_good_findings() -> None:
    findings = judge(healthy())
    assert {one.level for one in findings} == {Level.OK}
    assert exit_status(findings) == 0
    assert len({one.check for one in findings}) == len(findings)


def no_members(rack: dict[str, Any]) -> None:
    rack["bridge"] |= {"members": []}
    rack["steering"] = None


def single_link(rack: dict[str, Any]) -> None:
    no_members(rack)
    rack["bridge"] |= {"uplink": "etha"}


def one_tor(rack: dict[str, Any]) -> None:
    single_link(rack)
    del rack["tors"][1]


def legacy(rack: dict[str, Any]) -> None:
    rack["bridge"]["legacy"] = {"vlans": [200], "prefixes": ["10.189.26.0/24"]}


def stranger(tag: int | None, *, number: int = 7, **bridge: Any) -> Edit:
    """Plug a port of somebody else."""
    port = PortSight((InterfaceSight("vport1", number, "", lacp_current=None),), lacp=False, tag=tag)
    return on_bridge(ports={**BRIDGE.ports, "vport1": port}, **bridge)


def with_pfs(number: int) -> Edit:
    return lambda facts: replace(facts, pfs=number)


SLOT = PortSight((InterfaceSight("rt0", 1000, "", lacp_current=None),), lacp=False, tag=4095, ours=True)
ETHA = with_uplink(BOND0), on_bridge(ports={"br0": BRIDGE.ports["br0"], "etha": PortSight(MEMBERS[:1], lacp=False)})


def share(rack: dict[str, Any], members: tuple[str, ...] = ("etha", "ethb"), vlan: int | None = None) -> None:
    """Let pods share the uplink, without a bridge."""
    del rack["bridge"]
    rack |= {"ipvlan": {"uplink": "bond0", "members": list(members)}, "vlan": vlan}


def sharing(**changes: Any) -> Facts:
    """A healthy server without Open vSwitch."""
    facts = both(bond(), with_file(share))(healthy())
    found = {name: device(name) for name in ("bond0", "etha", "ethb")}
    nothing = Unseen("no bridge")
    network = replace(NETWORK, devices={name: replace(one, **changes) for name, one in found.items()})
    return replace(facts, network=network, switch=nothing, version=nothing, switch_ids={})


def test_without_a_bridge_nothing_of_open_vswitch_is_looked_at() -> None:
    findings = judge(sharing())
    assert {one.level for one in findings} == {Level.OK}
    assert not {"ovs", "bridge", "controller", "nic"} & {one.check for one in findings}
    assert finding(sharing(), "lacp").found == "bond0: partner 02:00:00:00:01:fe"


@pytest.mark.parametrize(
    ("facts", "found", "advice"),
    [
        (replace(sharing(), network=replace(NETWORK, devices={"bond0": None})), "no device bond0", "ipvlan.uplink"),
        (sharing(kind="vlan"), "is a VLAN device, and the rack has no VLAN", "set vlan"),
        (with_file(lambda rack: share(rack, vlan=108))(sharing()), "VLAN is 108", "`ip link add link"),
        (with_file(lambda rack: share(rack, members=("etha", "ethc")))(sharing()), "says etha, ethc", "ipvlan.members"),
    ],
)
def test_a_shared_uplink_is_not_as_the_rack_file_says(facts: Facts, found: str, advice: str) -> None:
    got = finding(facts, "uplink")
    assert got.level is Level.ERROR
    assert found in got.found
    assert advice in got.advice


@pytest.mark.parametrize(
    ("edit", "check", "found"),
    [
        (bond(), "lacp", "02:00:00:00:01:fe"),
        (leaving_out(carrier=False), "lacp", "02:00:00:00:01:fe"),
        (bond(), "neighbor broadcast", "not known to this kernel"),
        (bond(broadcast_neighbor=True), "neighbor broadcast", "on"),
        (bond(broadcast_neighbor=False), "neighbor broadcast", "off"),
        (password(0o600), "password", "by root alone"),
        (on_network(sysctls=sysctls(rp_all="1", rp="2")), "sysctl net.ipv4.conf.br0.rp_filter", "2"),
        (both(no_agent, on_files(state=None)), "state", "the agent makes it"),
        (both(no_agent, on_files(ledger=None)), "ledger", "none yet"),
        (both(*ETHA, with_file(one_tor)), "uplink", "one link, to one ToR"),
        (lambda facts: replace(facts, switch_ids={"etha": "a"}), "mtu", "9000"),
        (on_bridge(ports={**BRIDGE.ports, "rt0": SLOT}), "strangers", "all ports of br0"),
        (both(stranger(200), with_file(legacy)), "strangers", "VLAN 200: vport1 (200)"),
        (both(stranger(None), with_file(legacy)), "strangers", "VLAN 200: vport1 (trunk)"),
        (both(stranger(200, number=5096), with_file(legacy)), "strangers", "VLAN 200: vport1 (200)"),
        (both(stranger(200, number=5096 + 512), with_pfs(2), with_file(legacy)), "strangers", "vport1 (200)"),
    ],
)
def test_is_fine(edit: Edit, check: str, found: str) -> None:
    got = finding(edit(healthy()), check)
    assert got.level is Level.OK
    assert found in got.found


@pytest.mark.parametrize(
    ("edit", "check", "found", "command"),
    [
        (lambda f: replace(f, release="4.19.0-6-amd64"), "kernel", "4.19.0", "install Linux 5.4"),
        (lambda f: replace(f, drivers={"macvlan": False}), "driver macvlan", "no such driver", "`modprobe macvlan`"),
        (lambda f: replace(f, switch=UNSEEN), "ovs", "no permission", "`systemctl start openvswitch-switch`"),
        (lambda f: replace(f, version=Unseen("refused")), "ovs", "refused", "`systemctl restart openvswitch-switch`"),
        (lambda f: replace(f, switch=SwitchSight(("br1",), None)), "bridge", "has: br1", "`ovs-vsctl add-br br0`"),
        (lambda f: replace(f, switch=SwitchSight((), None)), "bridge", "has: none", "`ovs-vsctl add-br br0`"),
        (on_bridge(fail_mode="standalone"), "bridge", "standalone", "`ovs-vsctl set bridge br0 fail_mode=secure"),
        (on_bridge(owner=""), "bridge", "not taken over", "`ovs-vsctl set bridge br0"),
        (on_bridge(owner="neutron"), "bridge", "neutron", "`ovs-vsctl remove bridge br0 external_ids owner`"),
        (on_bridge(controllers=("tcp:10.0.0.1",)), "controller", "10.0.0.1", "`ovs-vsctl del-controller br0`"),
        (on_bridge(ports={"br0": BOND0, "eth9": BOND0}), "uplink", "has: eth9", "`ovs-vsctl add-port br0 bond0`"),
        (plugged(ofport=0, error="No such device"), "uplink", "ethb: No such device", "`ip link show ethb`"),
        (plugged(name="ethc"), "uplink", "says etha, ethb", "set bridge.members: [etha, ethc]"),
        (stranger(None, number=1003), "strangers", "1003; slot 3 wants it", "`ovs-vsctl set interface vport1"),
        (stranger(None, number=1003), "strangers", "1003; slot 3 wants it", "N free and below 900;"),
        (
            both(stranger(200, number=5096 + 511), with_pfs(2)),
            "strangers",
            "5607; slot 4607 wants it, a VF",
            "below 900",
        ),
        (plugged(lacp_current=False), "lacp", "behind ethb", "`ovs-appctl lacp/show bond0`"),
        (bond(partner="00:00:00:00:00:00"), "lacp", "no LACP partner", "`cat /proc/net/bonding/bond0`"),
        (leaving_out(carrier=True), "lacp", "bond0 leaves ethb out", "`cat /proc/net/bonding/bond0`"),
        (
            both(bond(), with_file(no_members)),
            "uplink",
            "only one ToR hears",
            "set bridge.members: [etha, ethb]",
        ),
        (with_device("etha", None), "member etha", "no such device", "`ip link`"),
        (with_device("etha", device("etha", up=False)), "member etha", "is down", "`ip link set dev etha up`"),
        (with_device("ethb", device("ethb", carrier=False)), "member ethb", "no carrier", "`ethtool ethb`"),
        (with_device("ethb", device("ethb", mtu=1500)), "mtu", "ethb 1500", "`ip link set dev ethb mtu 9000`"),
        (
            with_device("br0", device("br0", mtu=1500)),
            "mtu",
            "br0 1500",
            "`ovs-vsctl set interface br0 mtu_request=9000`",
        ),
        (
            on_network(sysctls=sysctls(rp="1")),
            "sysctl net.ipv4.conf.br0.rp_filter",
            "1 instead of 0 or 2",
            "`sysctl -w net.ipv4.conf.br0.rp_filter=2`",
        ),
        (
            on_network(sysctls=sysctls(rp_all="1")),
            "sysctl net.ipv4.conf.br0.rp_filter",
            "1 instead of 0 or 2",
            "`sysctl -w net.ipv4.conf.br0.rp_filter=2`",
        ),
        (
            on_network(sysctls=sysctls(forward="0")),
            "sysctl net.ipv4.ip_forward",
            "0 instead of 1",
            "`sysctl -w net.ipv4.ip_forward=1`",
        ),
        (
            on_network(sysctls=sysctls(redirects_all="1")),
            "sysctl net.ipv4.conf.all.send_redirects",
            "1 instead of 0",
            "`sysctl -w net.ipv4.conf.all.send_redirects=0`",
        ),
        (no_agent, "agent", "no agent answers", "`systemctl start routed`"),
        (lambda f: replace(f, agent=Agent(SESSIONS, "cannot observe flows")), "agent", "observe flows", "journalctl"),
        (on_files(cni_socket=None), "cni socket", "is not there", "`systemctl restart routed`"),
        (on_files(cni_socket=DIRECTORY), "cni socket", "no socket", "`rm /run/routed/cni.sock`"),
        (on_files(cni_socket=replace(SOCKET, mode=stat.S_IFSOCK | 0o666)), "cni socket", "0666", "chmod 0600"),
        (on_files(cni_socket=replace(SOCKET, uid=1000)), "cni socket", "owner 1000", "`chown root"),
        (on_files(state=SOCKET), "state", "no directory", "`mv /var/lib/routed"),
        (on_files(state=replace(DIRECTORY, writable=False)), "state", "cannot be written", "`findmnt -T"),
        (on_files(state=None), "state", "gone under a running agent", "`mkdir -m 0700 /var/lib/routed"),
        (both(no_agent, on_files(state=None, state_parent=None)), "state", "cannot be made", "`mkdir -p"),
        (on_files(ledger=False), "ledger", "is no ledger", "`mv /var/lib/routed/ledger.db"),
        (on_files(ledger=None), "ledger", "gone under a running agent", "`systemctl restart routed`"),
        (on_files(portmap=None), "host ports", "no pod starts or ends", "into /opt/cni/bin"),
        (on_files(portmap=False), "host ports", "get no answer", "release 1.2.0"),
        (on_files(iptables=False), "host ports", "neither starts nor ends", "install the package `iptables`"),
        (on_files(chain=({"type": "routed"}, {**PORTS, "type": "portmap"})), "host ports", "get no answer", "masqAll"),
        (password(0o644), "password", "0644", "chmod 0600 /secret"),
        (password(0o600, wrong="/secret is empty"), "password", "is empty", "`chmod 0600 /secret`"),
        (on_network(addresses=()), "address 10.1.0.11", "is not on br0", "`ip address add 10.1.0.11/24 dev br0`"),
        (on_network(addresses=()), "address fd00:1::11", "is not on br0", "`ip address add fd00:1::11/128 dev br0`"),
        (on_network(neighbours={}), "gateway 10.1.0.1", "does not answer ARP", "`ip neighbor show 10.1.0.1 dev br0`"),
        (
            on_network(neighbours={ip_address("fd00:1::1"): neighbour("fd00:1::1", None)}),
            "gateway fd00:1::1",
            "neighbour discovery",
            "`ip neighbor show fd00:1::1",
        ),
        (with_echo("10.255.1.2", Echo(3, 0)), "tor r1b", "has a session", "ICMP"),
        (both(no_agent, with_echo("10.255.1.2", Echo(3, 0))), "tor r1b", "does not answer", "`ping -I 10.1.0.11"),
        (both(no_agent, with_echo("10.255.1.2", Echo(0, 0))), "tor r1b", "no route", "`ip route get 10.255.1.2"),
        (with_session(state="down", reason="hold timer"), "bgp r1a", "down: hold timer", "`routed show neighbors`"),
        (with_session(address="10.9.9.9"), "bgp r1a", "another rack file", "`systemctl restart routed`"),
        (
            with_file(lambda rack: rack["servers"]["s12"].update(owns=["10.101.0.0/24", "fd00:101::2:0/112"])),
            "pools",
            "10.101.0.0/24",
            "servers.*.owns",
        ),
        (
            with_file(lambda rack: rack["servers"]["s11"].update(addresses=["10.1.0.11"])),
            "pools",
            "fd00:101::/64: this server has no address of that family",
            "servers.s11.addresses",
        ),
    ],
)
def test_is_found_and_told_what_to_do(edit: Edit, check: str, found: str, command: str) -> None:
    got = finding(edit(healthy()), check)
    assert got.level is (Level.WARNING if "ICMP" in command else Level.ERROR)
    assert found in got.found
    assert command in got.advice


@pytest.mark.parametrize(
    ("edit", "check", "found", "command"),
    [
        (with_session(side="cut", side_reason="no carrier"), "side r1a", "cut: no carrier", "between etha and r1a"),
        (with_session(side="silent", side_reason="no BGP session"), "side r1a", "silent", "`bgp r1a` above"),
        (with_session(side="holding"), "side r1a", "holding", "well for steering.hold_s"),
        (with_file(lambda rack: rack.update(steering=None)), "steering", "off", "set steering"),
    ],
)
def test_a_side_that_is_steered_around_is_a_warning(edit: Edit, check: str, found: str, command: str) -> None:
    got = finding(edit(healthy()), check)
    assert got.level is Level.WARNING
    assert found in got.found
    assert command in got.advice


@pytest.mark.parametrize(
    ("edit", "check", "found", "command"),
    [
        (lambda f: replace(f, version="2.10.1"), "ovs", "2.10.1 was never tested", "upgrade"),
        (on_files(drained=True), "drain", "announces no routes", "`routed undrain`"),
        (on_files(chain=chain(HostPorts.REFUSED)), "host ports", "refused", "into /opt/cni/bin"),
        (on_files(chain=chain(HostPorts.REFUSED), portmap=UNSEEN), "host ports", UNSEEN.why, "no links"),
        (both(no_agent, on_bridge(owner="", fail_mode="standalone")), "bridge", "not taken over", "when it starts"),
        (
            both(no_agent, stranger(200, owner="", fail_mode="standalone")),
            "bridge",
            "not taken over",
            "see `strangers`",
        ),
        (both(no_agent, stranger(200, owner="", fail_mode="secure")), "bridge", "not taken over", "when it starts"),
        (stranger(200), "strangers", "vport1 (200), not ours", "set bridge.legacy"),
        (both(stranger(300), with_file(legacy)), "strangers", "vport1 (300) in none of", "add the VLAN"),
        (with_file(legacy), "strangers", "any more", "take bridge.legacy out"),
        (stranger(200, fail_mode="standalone"), "strangers", "br0 is standalone", "set-fail-mode br0 secure"),
        (
            both(stranger(200, fail_mode="standalone"), with_file(legacy)),
            "strangers",
            "br0 is standalone",
            "`ovs-vsctl set-fail-mode br0 secure && ovs-ofctl add-flow br0 priority=0,actions=NORMAL`",
        ),
        (both(*ETHA, with_file(single_link)), "uplink", "one link", "`ovs-vsctl add-bond br0"),
        (with_uplink(replace(BOND0, lacp=False)), "lacp", "without LACP", "lacp=active"),
        (bond(mode="active-backup"), "lacp", "active-backup", "lacp=active"),
        (lambda f: replace(f, switch_ids={"etha": "5c2f", "ethb": "77"}), "nic", "different NICs", "phys_switch_id"),
        (lambda f: replace(f, switch_ids={"etha": "5c2f"}), "nic", "behind ethb", "`devlink dev eswitch set"),
        (
            on_network(
                neighbours={
                    ip_address("10.1.0.1"): neighbour("10.1.0.1"),
                    ip_address("fd00:1::1"): neighbour("fd00:1::1", "02:00:00:00:01:02"),
                }
            ),
            "gateway",
            "different MAC",
            "one MAC address on both ToRs",
        ),
    ],
)
def test_could_be_better(edit: Edit, check: str, found: str, command: str) -> None:
    facts = edit(healthy())
    got = finding(facts, check)
    assert got.level is Level.WARNING
    assert found in got.found
    assert command in got.advice


@pytest.mark.parametrize(
    ("edit", "check", "command"),
    [
        (not_root, "user", "`sudo routed doctor`"),
        (lambda f: replace(f, drivers={"veth": None}), "driver veth", "`modinfo veth`"),
        (lambda f: replace(f, switch=UNSEEN), "bridge", "see `ovs`"),
        (lambda f: replace(f, switch=UNSEEN), "uplink", "see `ovs`"),
        (lambda f: replace(f, network=UNSEEN), "member", "run as root"),
        (lambda f: replace(f, network=UNSEEN), "mtu", "run as root"),
        (lambda f: replace(f, network=UNSEEN), "sysctl", "run as root"),
        (lambda f: replace(f, network=UNSEEN), "gateway 10.1.0.1", "see `bridge`"),
        (lambda f: replace(f, network=UNSEEN), "address 10.1.0.11", "see `bridge`"),
        (with_device("br0", None), "address 10.1.0.11", "see `bridge`"),
        (with_device("br0", None), "mtu", "see `bridge`"),
        (on_network(sysctls=tuple(replace(one, value=None) for one in sysctls())), "sysctl net.ipv4.ip_forward", "see"),
        (on_network(devices={"br0": device("br0")}), "mtu", "see `member`"),
        (lambda f: replace(f, agent=Agent(SESSIONS, UNSEEN)), "agent", "metrics.port"),
        (both(no_agent, on_files(cni_socket=None)), "cni socket", "see `agent`"),
        (no_agent, "bgp r1a", "see `agent`"),
        (on_files(ledger=UNSEEN), "ledger", "run as root"),
        (on_files(drained=UNSEEN), "drain", "run as root"),
        (on_files(chain=UNSEEN), "host ports", "restart the agent"),
        (on_files(portmap=UNSEEN), "host ports", "run as root"),
        (both(not_root, on_files(iptables=False)), "host ports", "`iptables`"),  # PATH is another one's
        (with_echo("10.255.1.1", UNSEEN), "tor r1a", "run as root"),
        (both(not_root, lambda f: replace(f, switch=UNSEEN)), "ovs", "`systemctl"),
        (both(not_root, no_agent), "agent", "`systemctl"),
        (both(not_root, password(0o600, wrong="no permission")), "password", "chmod 0600"),
        (both(not_root, on_files(state=replace(DIRECTORY, writable=False))), "state", "`findmnt"),
    ],
)
def test_not_seen_is_neither_good_nor_bad(edit: Edit, check: str, command: str) -> None:
    got = finding(edit(healthy()), check)
    assert got.level is Level.UNKNOWN
    assert command in got.advice


@pytest.mark.parametrize(
    ("edit", "check", "command"),
    [
        (no_agent, "agent", "`kubectl --namespace routed logs POD --container agent --previous`"),
        (lambda f: replace(f, agent=Agent(SESSIONS, "cannot observe flows")), "agent", "logs POD --container agent`"),
        (lambda f: replace(f, agent=Agent(SESSIONS, UNSEEN)), "agent", "`kubectl --namespace routed delete pod POD`"),
        (on_files(cni_socket=None), "cni socket", "delete pod POD`"),
        (on_files(cni_socket=DIRECTORY), "cni socket", "`rm /run/routed/cni.sock`, then `kubectl"),
        (on_files(state=None), "state", "`mkdir -m 0700 /var/lib/routed`, then `kubectl"),
        (on_files(ledger=False), "ledger", "delete pod POD`"),
        (on_files(ledger=None), "ledger", "delete pod POD`"),
        (with_session(address="10.9.9.9"), "bgp r1a", "delete pod POD`"),
    ],
)
def test_in_a_container_nobody_is_sent_to_a_unit_that_is_not_there(edit: Edit, check: str, command: str) -> None:
    got = finding(edit(replace(healthy(), keeper=keeper({"container": "oci"}))), check)
    assert command in got.advice
    outside = finding(edit(replace(healthy(), keeper=keeper({}))), check)
    assert (got.level, got.found) == (outside.level, outside.found)
    assert "POD" not in outside.advice, "the control: where systemd starts the agent"


def test_only_those_words_name_a_unit_of_ours() -> None:
    sources = Path(doctor.__file__).parent.glob("*.py")
    named = {file.name for file in sources if re.search(r"(systemctl \w+|-u) routed\b", file.read_text())}
    assert named == {"facts.py"}, "whoever else does sends the users of a DaemonSet astray"


def test_iptables_is_looked_for_where_programs_are_but_not_in_a_container(tmp_path: Path) -> None:
    path = {"PATH": str(tmp_path)}
    assert has_iptables(path) is False
    (tmp_path / "iptables").touch(mode=0o755)
    assert has_iptables(path) is True
    assert isinstance(has_iptables({**path, "container": "oci"}), Unseen)


@pytest.mark.parametrize(
    "edit",
    [
        on_files(chain=chain(HostPorts.IGNORED), portmap=None, iptables=False),
        on_files(chain=None),
        on_files(iptables=UNSEEN),
    ],
)
def test_a_server_need_not_map_host_ports_nor_show_what_they_need(edit: Edit) -> None:
    assert {one.level for one in judge(edit(healthy())) if one.check == "host ports"} <= {Level.OK}


def test_a_server_without_an_address_of_the_tors_family_cannot_peer() -> None:
    facts = with_file(lambda rack: rack["servers"]["s11"].update(addresses=["fd00:1::11"]))(healthy())
    got = finding(facts, "tor r1a")
    assert got.level is Level.ERROR
    assert "servers.s11.addresses" in got.advice
