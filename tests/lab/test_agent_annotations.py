"""Pods' annotations, end to end: the agent follows a real API server, and what is asked for is seen inside the pods."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from containerlab.driver import CniError, Result
from containerlab.lab import Lab
from containerlab.ping import ping
from containerlab.probe import Place, both_ways
from tests.fabric import ADDRESSES, IPV6, eventually
from tests.kube.control_plane import ControlPlane
from tests.kube.installation import racks
from tests.kube.installed import NODES, agent_of, install
from tests.servers import Pod, Server, failure

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.netns_only("the nodes' image has no client of the Kubernetes API"),
]

CONTROL = "s22"
SLOTS = "/run/routed/slots"
PODS = "/api/v1/namespaces/default/pods"
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"
ROUTES = [{"dst": "10.2.0.0/24"}, {"dst": "10.50.0.0/16", "gw": "10.101.0.1"}, {"dst": "fd00:50::/48"}]
SET = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "0", "controller": True}
_NUMBERS = count()


class Tenants:
    """Pods of the cluster on s11, made as their owners and a kubelet make them."""

    def __init__(self, control: ControlPlane, server: Server) -> None:
        self.control, self.server = control, server

    def create(
        self, name: str, annotations: Mapping[str, str] | None = None, owners: Sequence[dict[str, Any]] = ()
    ) -> dict[str, str]:
        """Make a pod's object; returns what a runtime knows of it."""
        metadata = {"name": name, "annotations": dict(annotations or {}), "ownerReferences": list(owners)}
        spec = {"nodeName": self.server.name, "containers": [{"name": "c", "image": "i"}]}
        made = self.control.admin.post(PODS, {"metadata": metadata, "spec": spec}).granted()
        return {"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": name, "K8S_POD_UID": made["metadata"]["uid"]}

    def attach(self, arguments: dict[str, str]) -> Pod:
        """ADD; CniError."""
        [netns] = self.server.netns()
        container = f"c{next(_NUMBERS)}"
        result = eventually(lambda: self._try(container, netns, arguments), "the agent knows the pod")
        addresses = tuple(address.ip for address in result.addresses)
        place = Place(container, self.server.node.path(netns), addresses)
        self.server.pods[container] = Pod(container, self.server.name, netns, result, place)
        return self.server.pods[container]

    def _try(self, container: str, netns: Path, arguments: dict[str, str]) -> Result | None:
        """ADD; None when the runtime has to try again later."""
        try:
            return self.server.plugin.add(container, netns, args=arguments)
        except CniError as error:
            if error.code == 11:
                return None
            raise

    def end(self, name: str, pod: Pod) -> None:
        """Delete a pod and its object."""
        self.control.admin.delete(f"{PODS}/{name}?gracePeriodSeconds=0").granted()
        self.server.delete([pod])

    def told(self, name: str, reason: str) -> list[str]:
        """Return what events of this reason say about a pod."""
        events = self.control.admin.get(EVENTS).granted()["items"]
        return [one["note"] for one in events if (one["regarding"]["name"], one["reason"]) == (name, reason)]


@pytest.fixture(scope="module")
def control(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server on s22 that knows the lab's first rack, with s11 in it."""
    address = IPv4Address(ADDRESSES[CONTROL])
    with ControlPlane(tmp_path_factory.mktemp("kube"), address, netns=lab.node(CONTROL).netns_path) as made:
        install(made)
        (rack,) = (one for one in racks() if one["metadata"]["name"] == "r1")
        del rack["spec"]["bgp"]["graceful_restart_s"]  # as in the rack file: no session has to change on the way
        made.admin.apply(rack).granted()
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        made.admin.post("/api/v1/namespaces/default/serviceaccounts", account).granted()
        yield made


@pytest.fixture(scope="module")
def tenants(
    control: ControlPlane, servers: dict[str, Server], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tenants]:
    """s11, whose agent follows that API server for a while instead of its rack file."""
    server = servers["s11"]
    agent = agent_of(control, server.name, **{"routed.dev/rack": "r1"})
    own = {"routed.dev/addresses": f"{ADDRESSES[server.name]},{IPV6[server.name]}"}
    control.admin.patch(f"{NODES}/{server.name}", {"metadata": {"annotations": own}}).granted()
    kubeconfig = control.kubeconfig(agent, tmp_path_factory.mktemp("agent") / "kubeconfig")
    config = Path("/run/agent.yaml")
    bridge = {"name": "br0", "uplink": "bond0", "members": ["etha", "ethb"]}
    document = {"bridge": bridge, "kubernetes": {"kubeconfig": str(kubeconfig)}}
    server.node.path(config).write_text(yaml.safe_dump(document))
    server.clean_up()
    eventually(server.at_rest, "s11 at rest")
    server.agent.stop()
    try:
        server.start(config)
        yield Tenants(control, server)
    finally:
        if server.agent.alive():
            server.clean_up()
            server.agent.stop()
        server.start()


@pytest.fixture(scope="module")
def far(servers: dict[str, Server]) -> Server:
    """A server of the other rack."""
    return servers["s21"]


def look(server: Server, pod: Pod) -> dict[str, Any]:
    """Return what is seen inside a pod."""
    (link,) = json.loads(server.inside(pod, "ip", "-json", "link", "show", "eth0"))
    return {
        "link": {key: link[key] for key in ("ifindex", "mtu", "address")},
        "routes": sorted(
            (route["dst"], route.get("gateway", ""), route["protocol"])
            for family in ("-4", "-6")
            for route in json.loads(server.inside(pod, "ip", "-json", family, "route"))
        ),
    }


def test_a_pod_sees_the_mtu_and_the_routes_that_it_asks_for(tenants: Tenants, far: Server) -> None:
    server = tenants.server
    asked = tenants.create("web", {"routed.dev/mtu": "1400", "routed.dev/routes": json.dumps(ROUTES)})
    pod, plain = tenants.attach(asked), tenants.attach(tenants.create("plain"))
    seen = look(server, pod)
    assert seen["link"]["mtu"] == 1400
    hops = {"10.2.0.0/24": "10.101.", "10.50.0.0/16": "10.101.", "fd00:50::/48": "fd00:101::1"}
    ours = {to: hop for to, hop, origin in seen["routes"] if origin == "82"}
    assert ours.keys() == hops.keys()
    assert all(ours[to].startswith(hop) for to, hop in hops.items())
    assert pod.result.raw["interfaces"][1]["mtu"] == 1400
    assert hops.keys() < {route["dst"] for route in pod.result.raw["routes"]}
    other = look(server, plain)
    assert other["link"]["mtu"] == 1500, "control: who asks for nothing gets the uplink's"
    assert not [route for route in other["routes"] if route[2] == "82"]
    eventually(lambda: not ping(both_ways([(pod.place, far.place)])), "the way that a route leads")
    assert server.healthy(pod)


def test_a_pod_keeps_them_while_the_agent_restarts_without_an_api_server(
    tenants: Tenants, control: ControlPlane
) -> None:
    server = tenants.server
    asked = tenants.create("kept", {"routed.dev/mtu": "1350", "routed.dev/routes": json.dumps(ROUTES)})
    pod = tenants.attach(asked)
    before = look(server, pod)
    control.stop()
    try:
        server.agent.stop()
        server.start(server.config)
        assert look(server, pod) == before
        server.check(pod)
        for damage, word in (("route delete 10.50.0.0/16", "10.50.0.0/16"), ("link set eth0 mtu 1500", "1500")):
            server.inside(pod, "ip", *damage.split())
            complaint = complaint_about(server, pod)
            assert word in complaint or look(server, pod) == before, "seen, or mended already"
            eventually(lambda: look(server, pod) == before, "the repair")
        eventually(lambda: server.healthy(pod), "a CHECK that finds nothing")
        again = tenants.attach(asked)  # its sandbox died, and the kubelet makes it another one
        assert look(server, again)["routes"] == before["routes"]
        assert look(server, again)["link"]["mtu"] == before["link"]["mtu"]
    finally:
        control.start()
        control.wait_ready()
    server.delete([pod, again])
    eventually(lambda: is_heard(tenants), "the agent knowing what pods ask for", 60)


def is_heard(tenants: Tenants) -> bool:
    """Whether a pod gets what it asks for: not before the API server has answered since the agent's start."""
    name = f"heard-{next(_NUMBERS)}"
    pod = tenants.attach(tenants.create(name, {"routed.dev/mtu": "1400"}))
    heard: bool = look(tenants.server, pod)["link"]["mtu"] == 1400
    tenants.end(name, pod)
    return heard


def complaint_about(server: Server, pod: Pod) -> str:
    try:
        server.check(pod)
    except CniError as error:
        return error.msg
    return ""


@pytest.mark.parametrize(
    ("annotations", "complaint"),
    [
        ({"routed.dev/mtu": "nine"}, "annotation routed.dev/mtu: 'nine': write a number of bytes"),
        ({"routed.dev/mtu": "65000"}, "annotation routed.dev/mtu: '65000': the uplink of this server takes"),
        ({"routed.dev/routes": '[{"dst": "10.50.0.0/16", "gw": "10.101.0.9"}]'}, "is one hop away from a pod"),
        ({"routed.dev/sticky": "true"}, "only a StatefulSet's pods come back"),
        ({"kubernetes.io/ingress-bandwidth": "fast"}, "write bits a second"),
    ],
    ids=["mtu", "uplink", "gateway", "sticky", "bandwidth"],
)
def test_a_pod_that_asks_for_what_cannot_be_is_told_why(
    tenants: Tenants, annotations: dict[str, str], complaint: str
) -> None:
    name = f"wrong-{next(_NUMBERS)}"
    error = failure(tenants.attach, tenants.create(name, annotations))
    assert error.code == 7
    assert complaint in error.msg
    eventually(lambda: any(complaint in note for note in tenants.told(name, "InvalidAnnotation")), "the event")


def buckets(server: Server, pod: Pod) -> dict[str, str]:
    """Return what limits the two ends of a pod's wire: towards the pod, from the pod."""
    show = ("tc", "qdisc", "show", "dev")
    inner = pod.port.replace("rt", "rp")
    texts = {
        "to": server.node.run([*show, pod.port]).stdout,
        "from": server.node.run(["nsenter", f"--net={SLOTS}", *show, inner]).stdout,
    }
    ours = {end: text for end, text in texts.items() if text.startswith("qdisc tbf 5254: root")}
    return {end: text.partition(" rate ")[2].split()[0] for end, text in ours.items()}


def test_a_pod_has_the_bandwidth_that_it_asks_for_whatever_happens(tenants: Tenants, far: Server) -> None:
    server = tenants.server
    limits = {"kubernetes.io/ingress-bandwidth": "8M", "kubernetes.io/egress-bandwidth": "4M"}
    pod, plain = tenants.attach(tenants.create("slow", limits)), tenants.attach(tenants.create("free"))
    wanted = {"to": "8Mbit", "from": "4Mbit"}
    assert buckets(server, pod) == wanted
    assert buckets(server, plain) == {}
    eventually(lambda: not ping(both_ways([(pod.place, far.place)])), "its traffic")
    server.agent.stop()
    server.start(server.config)
    assert buckets(server, pod) == wanted
    server.check(pod)
    server.node.run(["tc", "qdisc", "delete", "dev", pod.port, "root"])
    assert complaint_about(server, pod).startswith("limits: ") or buckets(server, pod) == wanted
    eventually(lambda: buckets(server, pod) == wanted, "the repair")
    server.kill_daemon("ovs-vswitchd")
    server.node.start_daemon("ovs-vswitchd")
    eventually(lambda: server.at_rest() and server.healthy(pod), "everything as it was")
    assert buckets(server, pod) == wanted
    tenants.end("slow", pod)
    assert buckets(server, pod) == {}, "the slot is the next pod's"


def test_a_sticky_pod_comes_back_to_its_address(tenants: Tenants, far: Server) -> None:
    sticky = {"routed.dev/sticky": "true"}
    first = tenants.attach(tenants.create("web-0", sticky, [SET]))
    stranger = tenants.attach(tenants.create("web-1"))
    tenants.end("web-0", first)
    tenants.end("web-1", stranger)
    again = tenants.attach(tenants.create("web-0", sticky, [SET]))
    other = tenants.attach(tenants.create("web-1"))
    assert again.place.addresses == first.place.addresses
    assert not set(other.place.addresses) & set(stranger.place.addresses), "control: that one did not ask for it"
    eventually(lambda: not ping(both_ways([(again.place, far.place)])), "its traffic")
