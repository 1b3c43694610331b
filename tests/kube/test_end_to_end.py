"""A cluster from its installation to the loss of a server: kubelets, the DaemonSet, the fabric, and what users see.

The tests are one story and run in this order. What it takes is in `tests.kube.cluster`: everything is real but the
images of containers and the length of waits.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import count
from typing import Any

import pytest
import yaml

from containerlab.errors import CommandError
from containerlab.pods import CONF_DIR
from containerlab.probe import Probe, both_ways
from containerlab.runtime import Sandbox
from routed.audit.sources.agent import read
from tests.fabric import ADDRESSES, IPV6, TORS, eventually
from tests.kube.binaries import KUBERNETES
from tests.kube.cluster import AGENTS, CONTROL, Cluster, ready
from tests.kube.control_plane import SERVICES
from tests.kube.images import PORT
from tests.kube.installation import NEXT_IMAGE, RACK_FILES
from tests.kube.installed import RACKS
from tests.kube.objects import HOST_PORT, NODE_PORT, bare_pod, deployment, service
from tests.kube.pages import OPERATIONS
from tests.kube.web import answer, fetch
from tests.kube.worker import MANIFESTS, PLUGINS, STATE
from tests.servers import Server, losses

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
]

PODS = 30
NODES = "/api/v1/nodes"
GROWN, GATEWAY, NEWCOMER = "10.101.2.0/24", "10.101.2.1", "10.101.2.77"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    for name in KUBERNETES.packages:
        KUBERNETES.program(name)
    with Cluster.running(tmp_path_factory.mktemp("cluster")) as running:
        yield running


# ---- installation


def test_no_pod_starts_before_an_agent_serves(cluster: Cluster) -> None:
    cluster.admin.apply(deployment("early", 1)).granted()
    cluster.eventually(lambda: len(cluster.nodes()) == 3, "three nodes")
    for node in cluster.nodes():
        (condition,) = (one for one in node["status"]["conditions"] if one["type"] == "Ready")
        assert condition["status"] == "False"
        assert "cni plugin not initialized" in condition["message"]
    (early,) = cluster.pods("app=early")
    assert early["status"]["phase"] == "Pending"
    cluster.install()
    cluster.eventually(lambda: all(map(ready, cluster.nodes())), "nodes that are ready")
    cluster.eventually(lambda: cluster.all_ready("app=early", 1), "the pod that waited")
    cluster.eventually(lambda: cluster.all_ready(AGENTS, 3), "the agents")
    cluster.admin.delete("/apis/apps/v1/namespaces/default/deployments/early").granted()


def test_thirty_pods_are_on_both_tors_of_their_racks(cluster: Cluster) -> None:
    cluster.admin.apply(deployment("web", PODS)).granted()
    cluster.admin.apply(service("web")).granted()
    cluster.eventually(lambda: cluster.all_ready("app=web", PODS), "pods that pass their probes")
    cluster.eventually(lambda: cluster.pods("app=early") == [], "no other pod")
    pods = cluster.pods("app=web")
    assert len({pod["status"]["podIP"] for pod in pods}) == PODS
    assert {pod["spec"]["nodeName"] for pod in pods} == cluster.workers.keys()
    cluster.await_routes()
    own = {f"{pod['status']['podIP']}/32": TORS[pod["spec"]["nodeName"]] for pod in pods}
    for tor in ("r1a", "r1b", "r2a", "r2b"):
        there = cluster.lab.kernel_routes(tor).keys() & own.keys()
        assert there == {prefix for prefix, tors in own.items() if tor in tors}, "/32s stay in their rack"


def test_anybody_can_see_who_has_an_address(cluster: Cluster) -> None:
    wanted = {
        ip_address(each["ip"]): pod["metadata"]["name"]
        for pod in cluster.pods("app=web")
        for each in pod["status"]["podIPs"]
    }

    def complete() -> set[str] | None:
        lines = listed(cluster)
        all_there = all(name in lines.get(address, ()) for address, name in wanted.items())
        return {str(ip_network(address)) for address in lines} if all_there else None

    known = cluster.eventually(complete, "all pods beside their addresses")
    for server in cluster.servers.values():
        for tor in server.tors:
            assert server.announced(tor) <= known, "no route is nobody's"


def listed(cluster: Cluster) -> dict[IPv4Address | IPv6Address, list[str]]:
    """Return the addresses that the page's commands list, each with the words of its line."""
    lines = [line.split() for table in cluster.follow("See who has which address") for line in table.splitlines()]
    found = {}
    for line in lines:
        for word in line:
            with contextlib.suppress(ValueError):
                found[ip_address(word)] = line
    return found


def test_an_audit_asks_agents_in_their_pods(cluster: Cluster) -> None:
    for node in cluster.workers:
        view = read(cluster.exported(node), "routed-export", node)
        running = {f"default/{pod['metadata']['name']}" for pod in cluster.pods("app=web", node)}
        assert {one.pod for one in view.holdings if one.announce} == running


def test_a_pod_that_does_not_answer_its_probe_is_not_ready(cluster: Cluster) -> None:
    """Negative control of the probes before."""
    deaf = deployment("deaf", 1)
    (container,) = deaf["spec"]["template"]["spec"]["containers"]
    container["readinessProbe"]["httpGet"]["port"] = PORT + 1
    cluster.admin.apply(deaf).granted()
    refused = f"Readiness probe failed: Get .*:{PORT + 1}/index.html.*connection refused"
    cluster.eventually(lambda: cluster.told("deaf-", refused), "an event of the probe")
    assert not any(map(ready, cluster.pods("app=deaf")))
    cluster.admin.delete("/apis/apps/v1/namespaces/default/deployments/deaf").granted()


# ---- Services


def test_a_service_answers_everywhere(cluster: Cluster) -> None:
    address = cluster.address_of_service("web")
    near, far = (cluster.pods("app=web", node)[0] for node in ("s11", "s21"))
    home = {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in cluster.pods("app=web")}
    for netns in (cluster.place(near).netns, cluster.place(far).netns, cluster.lab.node("s12").netns_path):
        answers = {home[fetch(netns, address)] for _ in range(40)}
        assert answers == cluster.workers.keys(), "by pods on every node"
    outside = cluster.lab.node(CONTROL).netns_path
    assert fetch(outside, "10.1.0.11", NODE_PORT) in home
    with pytest.raises(OSError, match=r"unreachable|timed out"):  # control: the proxy makes it, and none runs there
        fetch(outside, address)


def test_a_pod_reaches_itself_and_the_api_server_by_their_services(cluster: Cluster) -> None:
    cluster.admin.apply(deployment("alone", 1)).granted()
    cluster.admin.apply(service("alone", NODE_PORT + 1)).granted()
    cluster.eventually(lambda: cluster.all_ready("app=alone", 1), "the pod")
    (pod,) = cluster.pods("app=alone")
    netns, address = cluster.place(pod).netns, cluster.address_of_service("alone")
    cluster.eventually(lambda: answer(netns, address) == pod["metadata"]["name"], "the way to itself")
    assert "Client sent an HTTP request to an HTTPS server" in fetch(netns, str(SERVICES[1]), 443)
    cluster.admin.delete("/apis/apps/v1/namespaces/default/deployments/alone").granted()
    cluster.admin.delete("/api/v1/namespaces/default/services/alone").granted()


def test_a_host_port_is_answered_everywhere_until_its_pod_goes(cluster: Cluster) -> None:
    near, far = (cluster.place(cluster.pods("app=web", node)[0]).netns for node in ("s11", "s21"))
    own, *others = (cluster.lab.node(name).netns_path for name in ("s11", "s12", "s21", CONTROL))
    clients = {own, near, far, *others}
    addresses = (ADDRESSES["s11"], IPV6["s11"])
    assert not any(answer(own, address, HOST_PORT) for address in addresses)
    pod = bare_pod("porter", HOST_PORT)
    pod["spec"]["nodeName"] = "s11"
    cluster.admin.apply(pod).granted()
    cluster.eventually(lambda: ready(cluster.pod("porter")), "the pod")
    itself = cluster.place(cluster.pod("porter")).netns
    for client in (*clients, itself):
        assert {fetch(client, address, HOST_PORT) for address in addresses} == {"porter"}
    assert fetch(own, "127.0.0.1", HOST_PORT) == "porter"
    ruleset = ["nft", "list", "ruleset"]
    assert str(HOST_PORT) in cluster.lab.node("s11").run(ruleset).stdout
    cluster.kubectl("delete", "pod", "porter", "--wait")
    for client in clients:
        for address in addresses:
            with pytest.raises(ConnectionRefusedError):
                fetch(client, address, HOST_PORT)
    assert str(HOST_PORT) not in cluster.lab.node("s11").run(ruleset).stdout


def test_a_pod_gets_the_address_that_its_annotation_names(cluster: Cluster) -> None:
    wanted = cluster.never_used("s11")[0]
    fixed, late = bare_pod("fixed"), bare_pod("late")
    for pod in (fixed, late):
        pod["metadata"]["annotations"] = {"routed.dev/ip": wanted}
        pod["spec"]["nodeName"] = "s11"
    cluster.admin.apply(fixed).granted()
    cluster.eventually(lambda: ready(cluster.pod("fixed")), "the pod")
    assert cluster.pod("fixed")["status"]["podIP"] == wanted
    cluster.admin.apply(late).granted()
    cluster.eventually(lambda: cluster.told("late", f"{wanted} cannot be had: .* holds it"), "the other one told why")
    for name in ("late", "fixed"):
        cluster.kubectl("delete", "pod", name, "--wait")


# ---- edits of a Rack


def test_a_rack_grows_a_pool_and_no_pod_notices(cluster: Cluster) -> None:
    near, far = (cluster.place(cluster.pods("app=web", node)[0]) for node in ("s11", "s21"))
    first, last = cluster.servers["s11"].tors
    route, routes = f"{NEWCOMER}/32", cluster.servers["s11"].announced
    with Probe(both_ways([(near, far)])) as probe:
        tell(cluster, first, grown_rack())
        cluster.follow("Grow a pool", RACK="r1", PREFIX=GROWN, GATEWAY=GATEWAY)
        for name in ("s11", "s12"):
            cluster.eventually(lambda name=name: GROWN in cluster.pools(name), f"{name} with the new pool")
        cluster.eventually(lambda: cluster.at_rest("s11"), "the new agent at rest")
        pod = bare_pod("newcomer")
        pod["metadata"]["annotations"] = {"routed.dev/ip": NEWCOMER}
        pod["spec"]["nodeName"] = "s11"
        cluster.admin.apply(pod).granted()
        cluster.eventually(lambda: ready(cluster.pod("newcomer")), "a pod with an address of it")
        cluster.eventually(lambda: route in routes(first), "its route")
        assert route not in routes(last), "control: why the page has both ToRs come first"
        tell(cluster, last, grown_rack())
        cluster.eventually(lambda: route in routes(last), "its route on the other ToR")
        assert answer(far.netns, NEWCOMER, PORT) == "newcomer"
        assert losses(probe.stop()) == []
    assert GROWN not in cluster.pools("s21"), "another rack's"
    cluster.kubectl("delete", "pod", "newcomer", "--wait=false")


def test_a_tor_gives_way_to_one_with_another_address(cluster: Cluster) -> None:
    near, far = (cluster.place(cluster.pods("app=web", node)[0]) for node in ("s11", "s21"))
    rack = grown_rack()
    old, new = rack["tors"][1]["address"], "10.255.1.22"
    rack["tors"][1]["address"] = new
    tell(cluster, "r1b", rack)
    cluster.lab.vtysh("r1b", "configure terminal", "interface lo", f"no ip address {old}/32")
    for name in ("s11", "s12"):
        cluster.lab.vtysh("r1b", f"clear bgp {ADDRESSES[name]}")  # the old one is off; the hold time is not the matter
        cluster.eventually(lambda name=name: not cluster.servers[name].speaks(), f"the end of {name}'s session")
    with Probe(both_ways([(near, far)])) as probe:
        cluster.follow("Replace a ToR", RACK="r1", INDEX="1", ADDRESS=new)
        for name in ("s11", "s12"):
            cluster.eventually(lambda name=name: cluster.at_rest(name), f"{name} at rest with the new ToR")
        cluster.await_routes()
        assert losses(probe.stop()) == []


def grown_rack() -> dict[str, Any]:
    """Return what the network team knows of the first rack, the new pool included."""
    rack: dict[str, Any] = yaml.safe_load((RACK_FILES / "r1.yaml").read_text())
    rack["pools"].append({"prefix": GROWN, "gateway": GATEWAY})
    return rack


def tell(cluster: Cluster, tor: str, rack: dict[str, Any]) -> None:
    """Let a ToR know what its rack is now."""
    file = cluster.control.folder / "rack.yaml"
    file.write_text(yaml.safe_dump(rack))
    cluster.follow("Tell a ToR what its rack is now", TOR=tor, FOLDER=str(file.parent), RACKFILE=str(file))


def test_an_edit_that_pods_cannot_live_with_changes_nothing_and_is_told(cluster: Cluster) -> None:
    pools = cluster.admin.get(f"{RACKS}/r1").granted()["spec"]["pools"]
    near, far = (cluster.place(cluster.pods("app=web", node)[0]) for node in ("s11", "s21"))
    used = [pool for pool in pools if pool["prefix"].startswith("10.101.") and pool["prefix"] != GROWN]
    with Probe(both_ways([(near, far)])) as probe:
        edit = {"spec": {"pools": [pool for pool in pools if pool not in used]}}
        cluster.admin.patch(f"{RACKS}/r1", edit, "merge").granted()
        cluster.eventually(lambda: cluster.told("s11", "no agent can start with the rack as it is now"), "the event")
        cluster.eventually(lambda: cluster.at_rest("s11"), "the agent as before")
        assert {pool["prefix"] for pool in used} <= cluster.pools("s11")
        killed = cluster.workers["s11"].kill_agent()
        # The next one finds the edit, and what it remembers.
        cluster.eventually(lambda: cluster.workers["s11"].agent_pid() not in {None, killed}, "a new agent")
        cluster.eventually(lambda: cluster.at_rest("s11"), "the new agent at rest")
        cluster.admin.patch(f"{RACKS}/r1", {"spec": {"pools": pools}}, "merge").granted()
        assert losses(probe.stop()) == []
    cluster.eventually(lambda: cluster.all_ready("app=web", PODS), "the pods of before")


# ---- upgrade, drain


def test_a_rolling_upgrade_loses_nothing(cluster: Cluster) -> None:
    some = {node: cluster.pods("app=web", node)[:2] for node in cluster.workers}
    first, second, third = ([cluster.place(pod) for pod in pods] for pods in some.values())
    pairs = [(first[0], first[1]), (first[0], second[0]), (first[1], third[0]), (second[1], third[1])]
    before, web = ({pod["metadata"]["uid"] for pod in cluster.pods(of)} for of in (AGENTS, "app=web"))
    with Probe(both_ways(pairs), rate_hz=25) as probe:  # the fabric's switches are software on the same cores
        cluster.follow("Upgrade the agents", OPERATIONS, **cluster.next_installation())
        cluster.eventually(lambda: renewed(cluster, before), "the new agents")
        assert losses(probe.stop()) == []
    cluster.eventually(lambda: all(map(ready, cluster.pods("app=web"))), "the pods of before")
    assert {pod["metadata"]["uid"] for pod in cluster.pods("app=web")} == web
    assert {one["restartCount"] for pod in cluster.pods("app=web") for one in pod["status"]["containerStatuses"]} == {0}


def renewed(cluster: Cluster, before: set[str]) -> bool:
    """Tell whether all agents are others than before, of the next release, and ready."""
    agents = cluster.pods(AGENTS)
    images = {one["image"] for pod in agents for one in pod["spec"]["containers"]}
    uids = {pod["metadata"]["uid"] for pod in agents}
    return images == {NEXT_IMAGE} and before.isdisjoint(uids) and cluster.all_ready(AGENTS, 3)


def test_a_drained_node_announces_nothing(cluster: Cluster) -> None:
    cluster.follow("Drain a server", NODE="s21")
    cluster.eventually(lambda: cluster.all_ready("app=web", PODS), "all pods elsewhere")
    assert cluster.pods("app=web", "s21") == []
    cluster.await_routes()
    assert cluster.servers["s21"].speaks(), "its agent serves on"
    cluster.follow("Back again", NODE="s21")


# ---- without the API server


@pytest.mark.timeout(1800)
def test_pods_come_and_go_while_the_api_server_is_down(cluster: Cluster, pytestconfig: pytest.Config) -> None:
    """The controllers go with it. Agents crash, too, and start without them. `--outage` is how long, at least."""
    outage_s = pytestconfig.getoption("outage")
    first, second, *names = (one["metadata"]["name"] for one in cluster.pods("app=web", "s11"))
    steady = [cluster.place(cluster.pod(name)) for name in (first, second)]
    away = cluster.place(cluster.pods("app=web", "s12")[0])
    cluster.control.stop()
    began = time.monotonic()
    with pytest.raises(CommandError, match="refused"):
        cluster.kubectl("get", "nodes")
    try:
        with Probe(both_ways([(steady[0], steady[1]), (steady[0], away)]), rate_hz=25) as probe:
            for number in count(1):
                come_and_go(cluster, [first, second, *names], number)
                lasted_s = time.monotonic() - began
                if lasted_s >= outage_s:
                    break
                # Nobody grants more; what pods had before cools down.
                eventually(lambda: cluster.servers["s11"].leases("free") > 2, "addresses for the next ones", 200)
            assert losses(probe.stop()) == []
    finally:
        cluster.control.start()
        cluster.control.wait_ready()
        cluster.control.start_controllers()
    print(f"no API server for {lasted_s:.0f} s: {2 * number} pods came, as many went", file=sys.__stderr__)
    cluster.eventually(lambda: cluster.all_ready("app=web", PODS), "all pods")
    cluster.await_routes()
    for name in (first, second, *names):
        assert cluster.sandbox(cluster.pod(name)).addresses[0] == ip_address(cluster.pod(name)["status"]["podIP"])


def come_and_go(cluster: Cluster, names: list[str], number: int) -> None:
    """Have s11's kubelet, on its own, replace one of these pods but the first two, and start and end another one.

    Without the API server, a new pod is a file. Every fourth time, the agent crashes meanwhile.
    """
    worker, server = cluster.workers["s11"], cluster.servers["s11"]
    name, new = names[2 + number % (len(names) - 2)], f"static-{number}"
    manifest = cluster.lab.node("s11").path(MANIFESTS / f"{new}.json")
    kept = {one: worker.sandbox(one) for one in names if one != name}
    before = worker.sandbox(name)
    crashed = worker.kill_agent() if number % 4 == 1 else None
    worker.runtime.stop_pod(before.id)  # of which nobody tells the kubelet
    manifest.write_text(json.dumps(bare_pod(new)))
    static = eventually(lambda: worker.answering(f"{new}-s11"), "a new pod", 180)
    again = eventually(lambda: worker.answering(name), "the stopped pod once more", 180)
    assert again.id != before.id
    assert worker.agent_pid() not in {None, crashed}
    assert {one: worker.sandbox(one) for one in kept} == kept
    await_announced(server, [*kept.values(), again, static])
    manifest.unlink()
    await_announced(server, [*kept.values(), again])


def await_announced(server: Server, pods: list[Sandbox]) -> None:
    """Wait until both ToRs have the routes of these pods of a server, and no others."""
    wanted = {str(ip_network(address)) for one in pods for address in one.addresses}
    eventually(lambda: all(server.announced(tor) == wanted for tor in server.tors), f"{len(wanted)} routes", 60)


# ---- a server that reboots, and one that does not come back


def test_a_reboot_brings_the_pods_back(cluster: Cluster) -> None:
    worker, server = cluster.workers["s12"], cluster.servers["s12"]
    names = [pod["metadata"]["name"] for pod in cluster.pods("app=web", "s12")]
    before = {worker.sandbox(name).id for name in names}
    worker.lose_power()
    worker.reboot()
    cluster.eventually(lambda: all(worker.answering(name) for name in names), "pods that answer")
    assert before.isdisjoint(worker.sandbox(name).id for name in names), "they are new"
    cluster.eventually(lambda: cluster.all_ready("app=web", PODS) and cluster.all_ready(AGENTS, 3), "all pods")
    cluster.await_routes()
    assert server.leases("used") == len(names), "what the pods had before is free"


def test_a_server_that_is_removed_gives_its_addresses_back(cluster: Cluster) -> None:
    cluster.workers["s12"].lose_power()
    assert cluster.addresses("s12")
    cluster.follow("Recover from a lost server", NODE="s12")
    cluster.eventually(lambda: cluster.all_ready("app=web", PODS), "all pods elsewhere")
    cluster.await_routes()
    cluster.eventually(lambda: not cluster.addresses("s12"), "no lease of a server that is no more")


# ---- the end


def test_an_uninstallation_leaves_nothing(cluster: Cluster) -> None:
    left = ("s11", "s21")
    cluster.follow("Drain a server", NODE=" ".join(left))
    cluster.uninstall(left)
    kinds = "crd,clusterrole,clusterrolebinding,namespace,validatingadmissionpolicy,validatingadmissionpolicybinding"
    assert "routed" not in cluster.kubectl("get", kinds, "--output=name")
    for name in left:
        server = cluster.servers[name]
        assert server.ports() == set()
        assert not any(device.startswith(("rt", "rp")) for device in server.devices())
        assert not any(server.announced(tor) for tor in server.tors)
        assert cluster.workers[name].agent_pid() is None
        node = server.node
        files = [path.name for folder in (PLUGINS, CONF_DIR, STATE) for path in node.path(folder).iterdir()]
        assert sorted(files) == ["loopback", "portmap"], "which are not ours"
