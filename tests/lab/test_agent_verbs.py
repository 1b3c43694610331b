"""The CNI verbs through the real shim, and what the agent tells people and machines."""

from __future__ import annotations

import http.client
import json
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from containerlab.agents import HEALTH, ROUTED
from containerlab.netns import socket_in
from tests.fabric import eventually
from tests.servers import Pod, Residents, Server, failure, with_version

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


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


def test_a_switch_that_hangs_does_not_hold_up_metrics(s11: Server) -> None:
    def told() -> str:
        return s11.agent._get("/metrics")[1]  # waits half as long as Prometheus would

    s11.node.kill_daemon("ovs-vswitchd", signal.SIGSTOP)
    try:
        eventually(lambda: "routed_pods_offload{" not in told(), "what is known of offload being too old")
        assert "routed_gateway_known" in told()
    finally:
        s11.node.kill_daemon("ovs-vswitchd", signal.SIGCONT)
    eventually(lambda: 'routed_pods_offload{state="idle"}' in told(), "offload being known again")
    eventually(s11.agent.ready, "readiness")


def test_health_and_metrics_say_what_is_there(s11: Server, residents: Residents) -> None:
    del residents
    assert ask(s11, "/healthz") == (200, "ok\n")
    assert ask(s11, "/readyz") == (200, "ok\n")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(ask(s11, "/metrics")[1])
        for sample in family.samples
    }
    assert samples["routed_attachments", "ready"] == 2
    assert samples["routed_plane_objects", "links"] == 2
    assert samples["routed_plane_objects", "flows"] == 3, "two pods and the host"
    assert samples["routed_plane_objects", "advertisements"] == 8, "two pods, two families, two ToRs"
    assert samples["routed_plane_objects", "ports"] == samples["routed_slots",] == len(s11.ports())
    assert samples["routed_pool_addresses", "10.101.0.0/24", "used"] == 2
    assert {samples["routed_bgp_session_up", *who] for who in (("10.255.1.1", "r1a"), ("10.255.1.2", "r1b"))} == {1}
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
