"""While no agent runs, and after a reboot that took everything along but the ledger."""

from __future__ import annotations

import pytest

from containerlab.agents import Agent
from containerlab.driver import CniError
from containerlab.ping import ping
from containerlab.probe import both_ways
from tests.fabric import eventually
from tests.servers import QUEUE, Server, failure

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


def queued(server: Server) -> set[str]:
    return {path.name for path in server.node.path(QUEUE).iterdir() if not path.name.startswith(".")}


def serves(server: Server) -> bool:
    try:
        server.plugin.status()
    except CniError:
        return False
    return True


def test_without_an_agent_deletions_are_queued_and_all_else_is_put_off(s11: Server) -> None:
    kept, deleted, torn_down = s11.add(3)
    s11.await_routes([kept, deleted, torn_down])
    s11.agent.stop()
    [new] = s11.netns()
    assert failure(s11.attach, new).code == 11
    assert failure(s11.check, kept).code == 11
    assert failure(s11.plugin.status).code == 50
    s11.detach(deleted)
    s11.detach(deleted)
    s11.remove_netns([torn_down.netns])
    s11.plugin.delete(torn_down.id, None)
    assert queued(s11) == {f"{deleted.id}:eth0", f"{torn_down.id}:eth0"}

    s11.agent = Agent.start(s11.node)
    eventually(lambda: serves(s11), "the first call that is answered")
    assert queued(s11) == set(), "made good before anybody is served"
    assert s11.attachments().keys() == {kept.id}
    s11.check(kept)
    assert s11.devices(deleted.netns) == {"lo"}
    assert len(s11.flows()) == 5
    s11.await_routes([kept])


def test_an_add_after_a_queued_deletion_gets_a_new_address(s11: Server) -> None:
    [pod] = s11.add(1)
    s11.agent.stop()
    s11.detach(pod)
    s11.start()
    again = s11.attach(pod.netns)
    assert again.id == pod.id
    assert not set(again.place.addresses) & set(pod.place.addresses), "the old one rests"
    s11.await_routes([again])
    s11.check(again)


def reboot(server: Server) -> None:
    """Take everything away that a server keeps in memory; its disk (ledger, OVS database) stays."""
    server.agent.kill()
    server.agent.kill_speaker()
    for daemon in ("ovs-vswitchd", "ovsdb-server"):
        server.kill_daemon(daemon)
    server.remove_netns(pod.netns for pod in server.pods.values())
    server.node.run(["sh", "-c", "umount /run/routed/slots 2>/dev/null; rm -rf /run/routed"])
    wires = "\n".join(f"link delete {name}" for name in server.devices() if name.startswith("rt"))
    server.node.run(["ip", "-force", "-batch", "-"], input=wires, check=False)  # some are on their way already
    eventually(lambda: not any(name.startswith("rt") for name in server.devices()), "no wire any more")
    for daemon in ("ovsdb-server", "ovs-vswitchd"):
        server.node.start_daemon(daemon)


def test_a_reboot(servers: dict[str, Server], s11: Server) -> None:
    old = s11.add(5)
    s11.await_routes(old)
    plugged = s11.ports()
    reboot(s11)
    assert s11.flows() == []
    s11.start()
    s11.await_routes([])  # nothing attracts traffic to sandboxes that are no more
    assert s11.leases("used") == len(old), "nobody has said yet that they are gone"
    assert s11.ports() >= plugged

    new = s11.add(3)
    assert not {address for pod in new for address in pod.place.addresses} & {
        address for pod in old for address in pod.place.addresses
    }
    for pod in old:
        s11.plugin.delete(pod.id, None)
        del s11.pods[pod.id]
    assert s11.attachments().keys() == {pod.id for pod in new}
    assert s11.leases("used") == len(new)
    s11.await_routes(new)
    for pod in new:
        eventually(lambda pod=pod: s11.healthy(pod), f"a CHECK of {pod.id} that finds nothing")
    eventually(
        lambda: not ping(both_ways([(pod.place, servers["s21"].place) for pod in new])), "new pods that are reached"
    )
