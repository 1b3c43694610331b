"""How each fault is done and undone on a lab."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from containerlab.agents import Agent
from containerlab.errors import NodeError
from containerlab.faults import kill, mute, revive, unmute
from containerlab.lab import Lab
from tests.fabric import eventually
from tests.lab.chaos.events import Fault
from tests.servers import RACK, Pod, Server

SLOTS = "/run/routed/slots"
FLAPS = 5
MEMBERS = ("etha", "ethb")
"""A server's links to its ToRs, in their order."""


@dataclass(frozen=True, slots=True)
class Scene:
    """The lab and the servers with agents."""

    lab: Lab
    servers: Mapping[str, Server]

    def pod(self, target: str) -> tuple[Server, Pod]:
        """Return the pod "server/name", and its server."""
        server, _, name = target.partition("/")
        return self.servers[server], self.servers[server].pods[f"{server}-{name}"]


Action = Callable[[Scene, str], None]


def strike(scene: Scene, fault: Fault) -> None:
    """Let a fault happen. LabError when it cannot."""
    ACTIONS[fault.kind][0](scene, fault.target)


def mend(scene: Scene, fault: Fault) -> None:
    """Undo what the fault broke and nobody but the operator repairs. LabError when it cannot."""
    ACTIONS[fault.kind][1](scene, fault.target)


def nothing(_scene: Scene, _target: str) -> None:
    """Leave it to the agents."""


# ---- processes


def kill_agent(scene: Scene, target: str) -> None:
    scene.servers[target].agent.kill()


def stop_agent(scene: Scene, target: str) -> None:
    scene.servers[target].agent.kill(signal.SIGTERM)


def start_agent(scene: Scene, target: str) -> None:
    server = scene.servers[target]
    server.agent = Agent.start(server.node, env={"ROUTED_CONFIG": str(RACK)})


def kill_and_start_agent(scene: Scene, target: str) -> None:
    kill_agent(scene, target)
    start_agent(scene, target)


def kill_speaker(scene: Scene, target: str) -> None:
    """Kill ExaBGP; it may be dead already when another fault hit its agent."""
    with contextlib.suppress(NodeError):
        scene.servers[target].agent.kill_speaker()


def kill_agent_and_speaker(scene: Scene, target: str) -> None:
    kill_agent(scene, target)
    kill_speaker(scene, target)


def kills(*daemons: str) -> Action:
    def kill_all(scene: Scene, target: str) -> None:
        node = scene.lab.node(target)
        for daemon in daemons:
            process = Path(f"/proc/{node.daemon_pid(daemon)}")
            node.kill_daemon(daemon)
            eventually(partial(_is_gone, process), f"the end of {daemon}")

    return kill_all


def _is_gone(process: Path) -> bool:
    return not process.exists()


def starts(*daemons: str) -> Action:
    def start(scene: Scene, target: str) -> None:
        for daemon in daemons:
            scene.lab.node(target).start_daemon(daemon)

    return start


def signals(daemon: str, number: signal.Signals) -> Action:
    def send(scene: Scene, target: str) -> None:
        scene.lab.node(target).kill_daemon(daemon, number)

    return send


def hang_agent(scene: Scene, target: str) -> None:
    """Stop the process where it stands; its sockets still take calls."""
    server = scene.servers[target]
    server.node.run(["kill", "-STOP", str(server.agent.pid)])


def wake_agent(scene: Scene, target: str) -> None:
    server = scene.servers[target]
    server.node.run(["kill", "-CONT", str(server.agent.pid)])


def hang_speaker(scene: Scene, target: str) -> None:
    """Stop ExaBGP for ever; it may be dead already when another fault hit its agent."""
    server = scene.servers[target]
    with contextlib.suppress(NodeError):
        server.node.run(["kill", "-STOP", str(server.agent.speaker_pid())], check=False)


def clear_sessions(scene: Scene, target: str) -> None:
    scene.lab.vtysh(target, "clear bgp *")


# ---- links


def cut(scene: Scene, target: str) -> None:
    scene.lab.cut(target)


def restore(scene: Scene, target: str) -> None:
    scene.lab.restore(target)


def flap(scene: Scene, target: str) -> None:
    """Cut a link and mend it at once, again and again."""
    for _ in range(FLAPS):
        cut(scene, target)
        restore(scene, target)


def each_link(action: Action) -> Action:
    def act(scene: Scene, target: str) -> None:
        for tor in scene.servers[target].tors:
            action(scene, f"{tor}:{target}")

    return act


def each_uplink(action: Action) -> Action:
    def act(scene: Scene, target: str) -> None:
        for uplink in ("up1", "up2"):
            action(scene, f"{target}:{uplink}")

    return act


def member(scene: Scene, target: str) -> str:
    """Return the server's end of a link "tor:server"."""
    tor, _, name = target.partition(":")
    return f"{name}:{MEMBERS[scene.servers[name].tors.index(tor)]}"


def silence_tor(scene: Scene, target: str) -> None:
    """Lose what the ToR sends to the server; both ends keep their carrier."""
    mute(scene.lab, target)


def hear_tor(scene: Scene, target: str) -> None:
    unmute(scene.lab, target)


def silence_server(scene: Scene, target: str) -> None:
    mute(scene.lab, member(scene, target))


def hear_server(scene: Scene, target: str) -> None:
    unmute(scene.lab, member(scene, target))


def power_off(scene: Scene, target: str) -> None:
    kill(scene.lab, target)


def power_on(scene: Scene, target: str) -> None:
    revive(scene.lab, target)


# ---- what somebody changes by hand


def on_bridge(*arguments: str) -> Action:
    def act(scene: Scene, target: str) -> None:
        """Change flows; there is nothing to change while Open vSwitch is down."""
        scene.lab.node(target).run(["ovs-ofctl", "-O", "OpenFlow14", *arguments], check=False)

    return act


def delete_flows(scene: Scene, target: str) -> None:
    server, pod = scene.pod(target)
    on_bridge("del-flows", "br0", f"table=40,ip,nw_dst={pod.address(4)}")(scene, server.name)


def vsctl(*arguments: str) -> Action:
    def act(scene: Scene, target: str) -> None:
        """Change the database, if it runs; do not wait for a switch that does not."""
        scene.lab.node(target).run(["ovs-vsctl", "--no-wait", "--timeout=5", *arguments], check=False)

    return act


def delete_wire(scene: Scene, target: str) -> None:
    server, pod = scene.pod(target)
    server.node.run(["ip", "link", "delete", pod.port], check=False)


def in_pod(*command: str) -> Action:
    def act(scene: Scene, target: str) -> None:
        """Change something in a pod, if another fault has left it there."""
        server, pod = scene.pod(target)
        server.node.run(["nsenter", f"--net={pod.netns}", "ip", *command], check=False)

    return act


def unmount_slots(scene: Scene, target: str) -> None:
    """Take the slots' namespace off its file; it lives on while somebody has it open."""
    scene.lab.node(target).run(["umount", SLOTS], check=False)


ACTIONS: Mapping[str, tuple[Action, Action]] = {
    "agent killed": (kill_agent, start_agent),
    "agent stopped": (stop_agent, start_agent),
    "agent and ExaBGP killed": (kill_agent_and_speaker, start_agent),
    "agent killed and started": (kill_and_start_agent, nothing),
    "agent hangs": (hang_agent, wake_agent),
    "ExaBGP hangs": (hang_speaker, nothing),
    "vswitchd hangs": (signals("ovs-vswitchd", signal.SIGSTOP), signals("ovs-vswitchd", signal.SIGCONT)),
    "ovsdb-server hangs": (signals("ovsdb-server", signal.SIGSTOP), signals("ovsdb-server", signal.SIGCONT)),
    "link flaps": (flap, nothing),
    "slots unmounted": (unmount_slots, nothing),
    "ExaBGP killed": (kill_speaker, nothing),
    "vswitchd killed": (kills("ovs-vswitchd"), starts("ovs-vswitchd")),
    "ovsdb-server killed": (kills("ovsdb-server"), starts("ovsdb-server")),
    "Open vSwitch killed": (kills("ovs-vswitchd", "ovsdb-server"), starts("ovsdb-server", "ovs-vswitchd")),
    "link cut": (cut, restore),
    "silent towards the server": (silence_tor, hear_tor),
    "silent towards the ToR": (silence_server, hear_server),
    "both links cut": (each_link(cut), each_link(restore)),
    "power lost": (power_off, power_on),
    "bgpd killed": (kills("bgpd"), starts("bgpd")),
    "sessions cleared": (clear_sessions, nothing),
    "uplink cut": (cut, restore),
    "all uplinks cut": (each_uplink(cut), each_uplink(restore)),
    "all flows deleted": (on_bridge("del-flows", "br0"), nothing),
    "flow of nobody": (on_bridge("add-flow", "br0", "cookie=0xbad,priority=9999,icmp actions=drop"), nothing),
    "stray port": (
        vsctl(*["add-port", "br0", "rt999", "--", "set", "port", "rt999", "external_ids:owner=routed"]),
        nothing,
    ),
    "port of somebody else": (
        vsctl(*["add-port", "br0", "foreign0", "--", "set", "interface", "foreign0", "type=internal"]),
        vsctl("--if-exists", "del-port", "br0", "foreign0"),
    ),
    "flows of a pod deleted": (delete_flows, nothing),
    "wire deleted": (delete_wire, nothing),
    "interface deleted": (in_pod("link", "delete", "eth0"), nothing),
    "addresses flushed": (in_pod("address", "flush", "dev", "eth0"), nothing),
}
"""Kind of fault -> how it is done and how it is undone."""
