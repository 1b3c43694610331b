"""The CNI verbs through the real shim, and what the agent tells people and machines."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from containerlab.agents import HEALTH, ROUTED
from containerlab.driver import CniError, Result
from containerlab.netns import socket_in
from tests.fabric import eventually
from tests.lab.conftest import Residents
from tests.servers import Pod, Server, with_version

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


def failure(call: Callable[..., Any], *arguments: Any) -> CniError:
    """Return the error that a call ends with."""
    with pytest.raises(CniError) as caught:
        call(*arguments)
    return caught.value


@pytest.fixture
def pod(s11: Server) -> Pod:
    return s11.add(1)[0]


# ---- ADD


def test_the_same_add_again_is_the_same_answer(s11: Server, pod: Pod) -> None:
    assert s11.attach(pod.netns).result == pod.result
    assert s11.leases("used") == 1


def test_an_add_says_what_was_made(s11: Server, pod: Pod) -> None:
    host, inside = pod.result.raw["interfaces"]
    assert host["name"] in s11.ports()
    assert inside["sandbox"] == str(pod.netns)
    link = json.loads(s11.inside(pod, "ip", "-j", "link", "show", "eth0"))[0]
    assert (inside["mac"], inside["mtu"]) == (link["address"], link["mtu"])
    assert [(ip["address"], ip["gateway"], ip["interface"]) for ip in pod.result.raw["ips"]] == [
        (f"{pod.address(4)}/32", "10.101.0.1", 1),
        (f"{pod.address(6)}/128", "fd00:101::1", 1),
    ]


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_every_version_of_the_specification_is_spoken(s11: Server, version: str) -> None:
    plugin = with_version(s11.plugin, version)
    [netns] = s11.netns()
    result = plugin.add(f"speaks-{version}", netns)
    assert result.raw["cniVersion"] == version
    assert ("version" in result.raw["ips"][0]) == version.startswith("0.")
    if version != "0.3.1":
        plugin.after(result).check(f"speaks-{version}", netns)
    plugin.after(result).delete(f"speaks-{version}", netns)
    assert version in plugin.version()
    assert s11.attachments() == {}


@pytest.mark.parametrize(
    ("netns", "ifname", "code", "words"),
    [
        ("/run/netns/nowhere", "eth0", 8, "nowhere"),
        ("/etc/hostname", "eth0", 8, "/etc/hostname"),
        ("/proc/1/ns/net", "eth0", 8, "own network namespace"),
        ("its own", "lo", 4, "lo exists already"),
        ("its own", "no/name", 4, "CNI_IFNAME"),
    ],
)
def test_an_add_that_cannot_be_says_why_and_leaves_nothing(
    s11: Server, netns: str, ifname: str, code: int, words: str
) -> None:
    path = s11.netns()[0] if netns == "its own" else Path(netns)
    error = failure(s11.plugin.add, "impossible", path, ifname)
    assert error.code == code
    assert words in error.msg
    eventually(lambda: s11.attachments() == {}, "nothing left of it")
    assert s11.flows() == []


def test_a_pod_may_have_a_second_interface(s11: Server, pod: Pod) -> None:
    result = s11.plugin.add(pod.id, pod.netns, "net1")
    assert not set(result.addresses) & set(pod.result.addresses)
    assert {"eth0", "net1"} <= s11.devices(pod.netns)
    assert len(s11.look("attachments")) == 2
    s11.plugin.after(result).check(pod.id, pod.netns, "net1")
    s11.check(pod)
    s11.plugin.delete(pod.id, pod.netns, "net1")
    assert s11.devices(pod.netns) == {"lo", "eth0"}
    s11.check(pod)


# ---- DEL


def test_a_deletion_may_come_twice_without_a_namespace_and_for_nobody(s11: Server, pod: Pod) -> None:
    s11.plugin.after(pod.result).delete(pod.id, pod.netns)
    s11.plugin.delete(pod.id, pod.netns)
    s11.plugin.delete(pod.id, None)
    s11.plugin.delete("never-seen", Path("/run/netns/never-seen"))
    assert s11.attachments() == {}
    assert s11.devices(pod.netns) == {"lo"}


def test_a_deletion_after_its_namespace_is_gone(s11: Server, pod: Pod) -> None:
    s11.remove_netns([pod.netns])
    s11.plugin.after(pod.result).delete(pod.id, pod.netns)
    assert s11.attachments() == {}
    assert s11.flows() == []
    s11.await_routes([])


# ---- CHECK


@pytest.fixture(scope="module")
def unhurried(servers: dict[str, Server]) -> Iterator[None]:
    """The agent of s11 looks at pods only when it is asked to: nothing is mended before CHECK has seen it."""
    with servers["s11"].configured({"vlan: null": "resync_s: 3600\nvlan: null"}):
        yield


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        pytest.param("address delete {ipv4}/32 dev eth0", "10.101.0.", id="address"),
        pytest.param("-6 address delete {ipv6}/128 dev eth0", "fd00:101::", id="IPv6 address"),
        pytest.param("route delete default", "10.101.0.1", id="default route"),
        pytest.param("link set eth0 mtu 1300", "1300", id="MTU"),
        pytest.param("link delete eth0", "is missing", id="interface"),
    ],
)
def test_a_check_names_what_is_wrong_and_has_it_mended(s11: Server, pod: Pod, tamper: str, words: str) -> None:
    s11.check(pod)
    s11.inside(pod, "ip", *tamper.format(ipv4=pod.address(4), ipv6=pod.address(6)).split())
    error = failure(s11.check, pod)
    assert error.code == 51
    assert error.msg.startswith("links: ")
    assert words in error.msg
    eventually(lambda: s11.healthy(pod), "the repair")


def test_a_check_finds_a_missing_flow_or_it_is_back_already(s11: Server, pod: Pod) -> None:
    flows = sorted(s11.flows())
    for _ in range(5):
        s11.node.run(["ovs-ofctl", "-O", "OpenFlow14", "del-flows", "br0", f"table=40,ip,nw_dst={pod.address(4)}"])
        try:
            s11.check(pod)
            complaint = ""
        except CniError as error:
            complaint = error.msg
        assert complaint.startswith("flows: ") or sorted(s11.flows()) == flows
        eventually(lambda: sorted(s11.flows()) == flows, "the repair")


def test_a_check_compares_with_the_previous_result(s11: Server, pod: Pod) -> None:
    wrong = json.loads(json.dumps(pod.result.raw))
    wrong["ips"][0]["address"] = "10.101.0.99/32"
    error = failure(s11.check, replace(pod, result=Result(wrong)))
    assert error.code == 51
    assert "10.101.0.99/32" in error.msg


def test_a_check_of_what_is_not_attached(s11: Server, pod: Pod) -> None:
    s11.detach(pod)
    assert failure(s11.check, pod).code == 3


# ---- GC, STATUS


def test_garbage_collection_takes_exactly_what_is_not_valid(s11: Server) -> None:
    kept, *garbage = s11.add(4)
    s11.plugin.gc([(kept.id, "eth0"), ("somebody-else", "eth0")])
    assert s11.attachments().keys() == {kept.id}
    s11.await_routes([kept])
    assert len(s11.flows()) == 5
    assert s11.leases("used") == 1
    for pod in garbage:
        assert s11.devices(pod.netns) == {"lo"}
    s11.check(kept)


def test_garbage_collection_without_a_list_collects_nothing(s11: Server, pod: Pod) -> None:
    assert failure(lambda: s11.plugin._call("GC", {})).code == 7
    s11.check(pod)


def test_status_is_50_while_open_vswitch_is_away(s11: Server) -> None:
    s11.plugin.status()
    s11.kill_daemon("ovs-vswitchd")
    try:
        eventually(lambda: not s11.agent.ready(), "the agent noticing")
        error = failure(s11.plugin.status)
        assert error.code == 50
        assert "flows" in error.msg
        assert ask(s11, "/readyz")[0] == 503
        assert ask(s11, "/healthz")[0] == 200, "the agent itself is well"
    finally:
        s11.node.start_daemon("ovs-vswitchd")
    eventually(s11.agent.ready, "readiness")
    s11.plugin.status()


# ---- what it tells


def ask(server: Server, page: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*HEALTH)
    with socket_in(server.node.netns_path, socket.AF_INET, socket.SOCK_STREAM) as connection.sock:
        connection.sock.connect(HEALTH)
        connection.request("GET", page)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_health_and_metrics_say_what_is_there(s11: Server, residents: Residents) -> None:
    del residents
    assert ask(s11, "/healthz") == (200, "ok\n")
    assert ask(s11, "/readyz") == (200, "ok\n")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(s11.agent.metrics())
        for sample in family.samples
    }
    assert samples["routed_attachments", "ready"] == 2
    assert samples["routed_plane_objects", "links"] == 2
    assert samples["routed_plane_objects", "flows"] == 3, "two pods and the host"
    assert samples["routed_plane_objects", "advertisements"] == 8, "two pods, two families, two ToRs"
    assert samples["routed_plane_objects", "ports"] == samples["routed_slots",] == len(s11.ports())
    assert samples["routed_pool_addresses", "10.101.0.0/24", "used"] == 2
    assert {samples["routed_bgp_session_up", *who] for who in (("r1a", "10.255.1.1"), ("r1b", "10.255.1.2"))} == {1}
    assert samples["routed_gateway_known",] == 1


def test_show_prints_what_is_there(s11: Server, residents: Residents) -> None:
    def show(page: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(s11.node.run([ROUTED, "show", page, "-o", "json"]).stdout)
        return rows

    pods = [residents.one, residents.two]
    attachments = {row["container"]: row for row in show("attachments")}
    for pod in pods:
        row = attachments.pop(pod.id)
        assert row["addresses"] == [pod.address(4), pod.address(6)]
        assert (row["state"], row["port"], row["netns"]) == ("ready", pod.port, str(pod.netns))
        assert row["pod"] == f"test/{pod.netns.name}"
    assert attachments == {}
    routes = {(row["prefix"], row["tor"]): row["state"] for row in show("routes")}
    assert routes == {(prefix, tor): "announced" for pod in pods for prefix in pod.prefixes for tor in s11.tors}
    flows = [row["owner"] for row in show("flows")]
    assert set(flows) == {"host", *(f"test/{pod.netns.name}" for pod in pods)}
    assert len(flows) == len(s11.all_flows())
    assert {(row["tor"], row["state"]) for row in show("neighbors")} == {(tor, "established") for tor in s11.tors}
    assert {row["pool"]: row["used"] for row in show("leases")}["10.101.0.0/24"] == 2
    assert pods[0].address(4) in s11.node.run([ROUTED, "show", "attachments"]).stdout, "the table for people"
