"""Where packets are forwarded, from dumps that tests/kernel recorded; what no machine here has is written by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ovs_flows.errors import CodecError, Unreachable
from ovs_flows.offload import Layer, Megaflow, _datapath, parse, report, since

DUMPS = Path(__file__).parents[2] / "golden" / "megaflows"
PAGE = Path(__file__).parents[3] / "docs" / "offload.md"
PODS = ("rt0", "rt1")
SHOW = """\
netdev@ovs-netdev: hit:1 missed:2
  br0:
    br0 65534/1: (tap)
    br1 3/2: (system)
system@ovs-system: hit:3 missed:4
  br1:
    br1 65534/1: (internal)
"""


def recorded(name: str) -> tuple[Megaflow, ...]:
    return parse((DUMPS / f"{name}.txt").read_text())


def short(flow: str) -> str:
    """Return a line of a dump as the page shows it: without its identifier, and without what it does not match."""
    flow = re.sub(r"^ufid:\S+ |\b(?:skb|ct|dp)_\w+\(0/0\),|recirc_id\(0\),|packet_type\(ns=0/0,id=0/0\),", "", flow)
    return re.sub(r"\b\w+=[^,()/]*/[0x:.]+(?=[,)]),?", "", flow).replace(",)", ")")


def line(match: str = "", told: str = "dp:tc", actions: str = "rt1", packets: int = 3, port: str = "rt0") -> str:
    return (
        f"ufid:{hash(match):x}, recirc_id(0),in_port({port}),{match or 'eth()'}, packets:{packets}, bytes:9, "
        f"used:0.1s, {told}, actions:{actions}"
    )


@pytest.mark.parametrize("name", ["untagged", "tagged"])
def test_pods_are_in_tc_both_ways(name: str) -> None:
    found = report(recorded(name), PODS)
    for pod in PODS:
        assert found[pod].state == "tc-software"
        assert set(found[pod].sent) == set(found[pod].received) == {Layer.TC_SOFTWARE}
        [reason] = found[pod].reasons
        assert "not_in_hw" in reason


def test_every_line_of_a_dump_is_read() -> None:
    for path in DUMPS.glob("*.txt"):
        assert len(parse(path.read_text())) == len(path.read_text().splitlines())


def test_fragments_of_ipv6_are_why_a_pod_is_on_the_slow_path() -> None:
    found = report(recorded("fragments"), PODS)
    for pod in PODS:
        assert found[pod].state == "slow-path"
        assert found[pod].packets(Layer.SLOW_PATH) == 6, "three fragments each way"
        assert any("IPv6 fragments" in reason for reason in found[pod].reasons)


def test_a_bond_of_ovs_is_why_and_its_packets_count_once() -> None:
    found = report(recorded("ovs-bond"), PODS)["rt0"]
    assert found.state == "slow-path"
    assert any("bond of the kernel" in reason for reason in found.reasons)
    assert found.sent[Layer.SLOW_PATH].packets == 6, "three of each family, through two megaflows each"


def test_what_a_nic_has_taken_needs_no_reason() -> None:
    found = report(parse(line(told="offloaded:yes, dp:tc")), PODS)
    assert (found["rt0"].state, dict(found["rt0"].reasons)) == ("hardware", {})
    assert found["rt1"].received[Layer.HARDWARE].packets == 3


def test_the_slowest_flow_says_where_a_pod_is() -> None:
    dump = "\n".join([line("a", "offloaded:yes, dp:tc"), line("b", "dp:tc"), line("c", "offloaded:yes, dp:tc")])
    assert report(parse(dump), PODS)["rt0"].layer is Layer.TC_SOFTWARE
    assert report(parse(dump), PODS)["rt0"].packets(Layer.HARDWARE) == 6


@pytest.mark.parametrize(
    ("flow", "word"),
    [
        (line(told="dp:ovs", actions="userspace(pid=1,slow_path(action))"), "ARP responder"),
        (line(told="dp:ovs", actions="userspace(pid=1,controller(reason=1))"), "controller"),
        (line(told="dp:ovs", actions="sample(sample=50.0%,actions(userspace(pid=1,sFlow(vid=0)))),rt1"), "sFlow"),
        (line(told="dp:ovs", actions="set(skb_priority(0x10001)),rt1"), "set_queue"),
        (line("skb_mark(0x1)", "dp:ovs"), "pkt_mark"),
        (line(told="dp:ovs", actions="ct(commit),rt1"), "connection tracking"),
        (line("nd(target=fd00::1)", "dp:ovs"), "neighbour discovery"),
        (line(told="dp:ovs", actions="userspace(pid=1)"), "ovs-vswitchd"),
        (line(told="offloaded:partial, dp:ovs"), "part"),
        (line(told="dp:ovs"), "hw-offload"),
    ],
)
def test_a_reason_is_named(flow: str, word: str) -> None:
    [found] = parse(flow)
    assert word in found.reason
    assert found.layer is Layer.SLOW_PATH


@pytest.mark.parametrize(
    ("wanted", "told"), [(Layer.HARDWARE, "slower than hardware"), (Layer.TC_SOFTWARE, None), (Layer.SLOW_PATH, None)]
)
def test_a_port_falls_short_when_more_than_a_tenth_of_its_packets_are_slower(wanted: Layer, told: str | None) -> None:
    few_fragments = line(match="ipv6(frag=later)", told="dp:ovs", packets=2)
    found = report(parse(f"{line(packets=18)}\n{few_fragments}"), PODS)["rt0"].shortfall(wanted)
    assert (found is None) if told is None else (found is not None and told in found and "not_in_hw" in found)


def test_a_port_that_falls_short_of_tc_is_not_told_of_the_nic() -> None:
    most = line(match="ipv6(frag=later)", told="dp:ovs", packets=20)
    found = report(parse(f"{line(packets=50)}\n{most}"), PODS)["rt0"].shortfall(Layer.TC_SOFTWARE)
    assert found is not None
    assert "fragments" in found


def test_a_port_without_packets_falls_short_of_nothing() -> None:
    assert report((), PODS)["rt0"].shortfall(Layer.HARDWARE) is None


def test_a_layer_is_read_as_it_is_written() -> None:
    assert [Layer.named(str(layer)) for layer in Layer] == list(Layer)


def test_drops_and_arp_say_nothing_of_a_pod() -> None:
    dump = "\n".join([line(told="dp:ovs", actions="drop"), line("eth_type(0x0806)", "dp:ovs")])
    assert report(parse(dump), PODS)["rt0"].state == "idle"


def test_a_port_is_told_from_one_whose_name_begins_alike() -> None:
    found = report(parse(line(actions="rt10", port="rt11")), ["rt1", "rt10", "rt11"])
    assert [found[port].state for port in found] == ["idle", "tc-software", "tc-software"]


def test_a_packet_to_several_ports_reaches_each() -> None:
    found = report(
        parse(line(actions="set(eth(dst=0a:58:0a:65:00:03)),rt1,push_vlan(vid=1,pcp=0),rt2")), ["rt1", "rt2"]
    )
    assert [one.packets(Layer.TC_SOFTWARE) for one in found.values()] == [3, 3]


def test_only_what_moved_since_counts() -> None:
    before = parse("\n".join([line("a", packets=5), line("b", packets=7)]))
    after = parse("\n".join([line("a", packets=9), line("b", packets=7), line("c", packets=2)]))
    assert sorted(flow.packets for flow in since(before, after)) == [2, 4]
    assert since(after, after) == ()


def test_a_flow_that_was_made_anew_counts_from_nothing() -> None:
    assert since(parse(line("a", packets=500)), parse(line("b", packets=3)))[0].packets == 3


def test_headings_of_a_userspace_dump_are_no_flows() -> None:
    dump = f"flow-dump from the main thread:\n{line(told='dp:ovs')}\nflow-dump from pmd on cpu core: 1\n"
    [found] = parse(dump, userspace=True)
    assert "userspace" in found.reason


@pytest.mark.parametrize("text", ["nonsense", "in_port(rt0), packets:1, bytes:1", line().replace("packets", "pakets")])
def test_what_is_no_dump_is_refused(text: str) -> None:
    with pytest.raises(CodecError, match="not a megaflow"):
        parse(text)


@pytest.mark.parametrize(("bridge", "datapath"), [("br0", "netdev@ovs-netdev"), ("br1", "system@ovs-system")])
def test_a_bridge_is_found_in_its_datapath(bridge: str, datapath: str) -> None:
    assert _datapath(SHOW, bridge) == datapath


def test_a_port_is_no_bridge() -> None:
    with pytest.raises(Unreachable):
        _datapath(SHOW.replace("  br1:\n", ""), "br1")


def test_page_shows_real_dumps() -> None:
    shown = re.findall(r"^(?:in_port|recirc_id)\(.*packets:.*$", PAGE.read_text(), re.MULTILINE)
    real = {short(flow.text) for path in DUMPS.glob("*.txt") for flow in parse(path.read_text())}
    own = {short(flow.text) for flow in recorded("untagged") if "rt0" in {flow.in_port, *flow.ports} and flow.counts}
    assert set(shown) >= own, "all of a pod's"
    assert set(shown) <= real
