"""What can befall a lab beyond a cut cable: a node loses its power, or a cable its voice in one direction.

Owns no state of its own: a dead node keeps its namespaces, so that its neighbours keep the other ends of its cables; a
mute cable is an nftables table in the node at that end. Never waits for the fabric to notice.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import time
from collections.abc import Iterable, Iterator

from containerlab.errors import LabError
from containerlab.lab import Lab
from containerlab.node import Node
from containerlab.topology import Endpoint, Topology, load

TABLE = "routed-lab-mute"


def kill(lab: Lab, name: str) -> None:
    """Cut a node's power: all its cables lose carrier, then everything that runs on it dies at once."""
    node = lab.node(name)
    downs = "\n".join(f"link set {end.interface} down" for end in _ends(_plan(lab), name))
    # Init alone survives kill(2) of -1 from inside its PID namespace.
    node.run(["sh", "-c", "ip -batch - && kill -9 -1"], input=downs, check=False)


def revive(lab: Lab, name: str) -> None:
    """Switch a node on again that was killed: it boots from nothing, on the cables that it had. Does not wait for it.

    Raises:
        LabError: it cannot get its cables back.
        NodeError: it does not start.
    """
    plan = _plan(lab)
    interfaces = [end.interface for end in _ends(plan, name)]
    with _put_aside(lab, name) as wreck:
        node = Node.start(lab.folder / name, plan.nodes[name])
        _run_in(wreck, [f"link set {interface} netns {node.pid}" for interface in interfaces])
    node.run(["ip", "-batch", "-"], input="\n".join(f"link set {interface} up" for interface in interfaces))
    for command in plan.nodes[name].exec:
        node.run(shlex.split(command))


def mute(lab: Lab, *endpoints: str) -> None:
    """Lose every frame that leaves at "node:interface", carrier and the other direction untouched.

    The sender must not notice, so a frame is not dropped, which would fail the send, but carried off to the loopback
    device, where nobody takes it: it is addressed to somebody else's MAC.
    """
    for node, interfaces in _by_node(endpoints).items():
        chains = "".join(
            f"chain {interface} {{ type filter hook egress device {interface} priority 0; fwd to lo; }}\n"
            for interface in interfaces
        )
        lab.node(node).run(["nft", "-f", "-"], input=f"table netdev {TABLE} {{\n{chains}}}\n")


def unmute(lab: Lab, *endpoints: str) -> None:
    """Give the nodes at these ends their voice back, on all of their cables."""
    for node in _by_node(endpoints):
        # A table that is not there cannot be deleted, but added twice.
        lab.node(node).run(["nft", "-f", "-"], input=f"table netdev {TABLE} {{}}\ndelete table netdev {TABLE}\n")


def _plan(lab: Lab) -> Topology:
    return load(lab.topology)


def _ends(plan: Topology, name: str) -> list[Endpoint]:
    return [end for link in plan.links for end in link.ends if end.node == name]


def _by_node(endpoints: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for end in map(Endpoint.parse, endpoints):
        found.setdefault(end.node, []).append(end.interface)
    return found


@contextlib.contextmanager
def _put_aside(lab: Lab, name: str) -> Iterator[Node]:
    """Make place for a node's successor and end the old one afterwards; where it lies, `Lab.down` finds it too."""
    aside = lab.folder.with_name(f"{lab.name}~{os.getpid()}-{time.monotonic_ns()}")
    aside.mkdir(mode=0o700)
    wreck = Node(lab.folder / name, state=(lab.folder / name).rename(aside / name))
    yield wreck
    wreck.stop()
    aside.rmdir()


def _run_in(node: Node, commands: list[str]) -> None:
    """Run iproute2 in a node's network namespace alone: its other namespaces do not know this machine's processes."""
    done = subprocess.run(
        ["nsenter", f"--net={node.netns_path}", "ip", "-batch", "-"],
        input="\n".join(commands),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LabError(f"{node.name}: moving its cables: {done.stderr.strip()}")
