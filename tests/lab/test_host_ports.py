"""Host ports by the plugin that follows ours in a chain: who is answered, by whom, and what is left afterwards."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from containerlab.driver import Plugin
from containerlab.netns import socket_in
from containerlab.probe import Place
from routed.cni.install import HostPorts, conflist
from tests.fabric import ADDRESSES, IPV6
from tests.kube.plugins import PLUGINS
from tests.servers import Pod, Residents, Server, each, failure

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

PORT, HOST_PORT = 8080, 18080
OF_S11 = (ADDRESSES["s11"], IPV6["s11"])
_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Chained:
    """A pod with a host port: what both plugins made of it, and the two as a runtime calls them from then on."""

    pod: Pod
    ours: Plugin
    portmap: Plugin


@pytest.fixture
def residents_elsewhere(servers: dict[str, Server], residents: Residents) -> list[Place]:
    """Whoever connects from another server of the fabric, or from another pod."""
    pods = [pod.place for pod in residents.all]
    return [servers["s12"].place, servers["s21"].place, *pods]


@contextlib.contextmanager
def with_host_port(server: Server, **other: Any) -> Iterator[Chained]:
    """Attach a pod as a runtime does that reads our configuration, its entry of portmap changed."""
    network = json.loads(conflist(HostPorts.MAPPED))
    head = {key: network[key] for key in ("cniVersion", "name")}
    mapping = {"hostPort": HOST_PORT, "containerPort": PORT, "protocol": "tcp"}
    first, second = network["plugins"]
    second = {**second, "runtimeConfig": {"portMappings": [mapping]}, **other}
    ours = replace(server.plugin, conf={**head, **first})
    portmap = replace(ours, binary=PLUGINS.program("portmap"), conf={**head, **second})
    (netns,) = server.netns()
    container = f"{server.name}-{netns.name}"
    made = ours.add(container, netns)
    server.pods[container] = pod = Pod(
        container,
        server.name,
        netns,
        made,
        Place(netns.name, server.node.path(netns), tuple(a.ip for a in made.addresses)),
    )
    result = portmap.after(made).add(container, netns)
    assert result.raw == made.raw, "what the pod has, the last of the chain hands on"
    chained = Chained(pod, ours.after(result), portmap.after(result))
    try:
        yield chained
    finally:
        chained.portmap.delete(container, netns)


@contextlib.contextmanager
def listening(pod: Pod) -> Iterator[None]:
    """Have the pod tell everybody who connects what address they have."""
    with socket_in(pod.place.netns, socket.AF_INET6, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", PORT))
        listener.listen(64)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, peer = listener.accept()
                    with connection:
                        connection.sendall(peer[0].removeprefix("::ffff:").encode())

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def ask(client: Place, address: str, port: int = HOST_PORT) -> str:
    """Return whom the pod takes the client for; nothing when it gets no answer."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket_in(client.netns, family, socket.SOCK_STREAM) as sock:
        sock.settimeout(_PATIENCE_S)
        try:
            sock.connect((address, port))
            return sock.recv(100).decode()
        except OSError:
            return ""


def answers(clients: list[Place]) -> set[str]:
    """Return whom the pod takes these for who connect to s11's port, by both families."""
    return set(each(lambda both: ask(*both), [(client, address) for client in clients for address in OF_S11]))


def rules(server: Server) -> list[str]:
    """Return the server's rules about the port."""
    return [line for line in server.node.run(["nft", "list", "ruleset"]).stdout.splitlines() if str(HOST_PORT) in line]


def test_everybody_is_answered_through_the_server(s11: Server, residents_elsewhere: list[Place]) -> None:
    with with_host_port(s11) as chained, listening(chained.pod):
        assert answers([s11.place, chained.pod.place, *residents_elsewhere]) == set(OF_S11)
        assert ask(s11.place, "127.0.0.1") == ADDRESSES["s11"]
        direct = residents_elsewhere[-1]
        assert ask(direct, chained.pod.address(4), PORT) == str(direct.address(4)), "only host ports are translated"
        chained.portmap.delete(chained.pod.id, chained.pod.netns)  # while the pod still listens
        assert answers([s11.place, *residents_elsewhere]) == {""}
        assert ask(direct, chained.pod.address(4), PORT) == str(direct.address(4))


@pytest.mark.parametrize("other", [{"masqAll": False}, {"backend": "nftables"}])
def test_pods_answer_past_the_server_without(
    s11: Server, residents_elsewhere: list[Place], other: dict[str, Any]
) -> None:
    """Negative control: why the configuration says both."""
    with with_host_port(s11, **other) as chained, listening(chained.pod):
        assert answers([s11.place]) == set(OF_S11)
        assert answers(residents_elsewhere) == {""}


def test_a_chain_checks_both_and_leaves_nothing(s11: Server) -> None:
    with with_host_port(s11) as chained:
        pod = chained.pod
        assert rules(s11)
        for plugin in (chained.ours, chained.portmap):
            plugin.check(pod.id, pod.netns)
        s11.inside(pod, "ip", "address", "delete", f"{pod.address(4)}/32", "dev", "eth0")
        assert pod.address(4) in failure(chained.ours.check, pod.id, pod.netns).msg
        s11.node.run(["iptables", "-t", "nat", "-F", "CNI-HOSTPORT-DNAT"])
        assert failure(chained.portmap.check, pod.id, pod.netns).msg
        newer = [replace(one, conf={**one.conf, "cniVersion": "1.1.0"}) for one in (chained.ours, chained.portmap)]
        for plugin in newer:
            plugin.status()
            plugin.gc([(each_id, "eth0") for each_id in s11.attachments()])
        assert pod.id in s11.attachments()
        for plugin in (chained.portmap, chained.ours):
            plugin.delete(pod.id, pod.netns)
            plugin.delete(pod.id, None)
        assert pod.id not in s11.attachments()
        assert rules(s11) == []
