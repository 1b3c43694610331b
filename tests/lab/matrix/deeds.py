"""What befalls the site, and how it is put right: the verbs that events are made of.

A deed returns when it is done, not when the world has got over it.
"""

from __future__ import annotations

import contextlib
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from signal import SIGKILL, SIGTERM

from containerlab import faults
from containerlab.agents import Agent
from containerlab.errors import NodeError
from tests.fabric import eventually
from tests.lab.matrix.model import Deed, Directions, Scene
from tests.lab.matrix.site import Site
from tests.servers import RACK, Server

ROOT = Path(__file__).parents[3]
PACKAGES = ("routed", "bgp", "ipam", "ovs_flows")
TORS = ("r1a", "r1b")
GATEWAY_MAC, OTHER_MAC = "02:00:00:00:01:01", "02:00:00:00:01:77"
CHURN_PODS = 100
"""On each of the two servers."""
CHURNERS = 6
"""Pods that come or go at the same time, on each server."""
KEEPALIVES_BEYOND_HOLD_TIME = 4
"""One is sent every third of it (RFC 4271 section 10)."""


def cut(*endpoints: str) -> Deed:
    """Take the carrier from cables."""

    def do(site: Site) -> None:
        for end in endpoints:
            site.lab.cut(end)

    return do


def restore(*endpoints: str) -> Deed:
    """Put cables back that were cut."""

    def do(site: Site) -> None:
        for end in endpoints:
            site.lab.restore(end)

    return do


def mute(*endpoints: str) -> Deed:
    """Lose everything that leaves at these ends, without any carrier going."""
    return lambda site: faults.mute(site.lab, *endpoints)


def unmute(*endpoints: str) -> Deed:
    """End that."""
    return lambda site: faults.unmute(site.lab, *endpoints)


def kill(node: str) -> Deed:
    """Cut a switch's power."""
    return lambda site: faults.kill(site.lab, node)


def revive(node: str) -> Deed:
    """Switch it on again, and wait until it says that it is ready."""

    def deed(site: Site) -> None:
        faults.revive(site.lab, node)
        site.lab.wait_ready()

    return deed


def kill_daemon(node: str, daemon: str) -> Deed:
    """Kill a daemon of a switch and wait until it is gone."""

    def deed(site: Site) -> None:
        process = Path(f"/proc/{site.lab.node(node).daemon_pid(daemon)}")
        site.lab.node(node).kill_daemon(daemon)
        eventually(lambda: not process.exists(), f"the end of {daemon}")

    return deed


def start_daemon(node: str, daemon: str) -> Deed:
    """Start it again."""
    return lambda site: site.lab.node(node).start_daemon(daemon)


def restart_daemon(node: str, daemon: str) -> Deed:
    """Kill a daemon and start it again at once."""

    def deed(site: Site) -> None:
        kill_daemon(node, daemon)(site)
        start_daemon(node, daemon)(site)

    return deed


def ensure_daemon(node: str, daemon: str) -> Deed:
    """Start it if it does not run."""

    def deed(site: Site) -> None:
        try:
            site.lab.node(node).daemon_pid(daemon)
        except NodeError:
            site.lab.node(node).start_daemon(daemon)

    return deed


def ensure_alive(node: str) -> Deed:
    """Switch a switch on if it is off."""

    def deed(site: Site) -> None:
        try:
            site.lab.node(node).daemon_pid("zebra")
        except NodeError:
            revive(node)(site)

    return deed


def in_turn(*deeds: Deed) -> Deed:
    """Do one after the other."""

    def deed(site: Site) -> None:
        for one in deeds:
            one(site)

    return deed


def at_rest(site: Site) -> None:
    """Wait until the site is as it was."""
    site.rest()


# ---- the agent


def kill_agent(site: Site) -> None:
    """Kill the agent, leave ExaBGP alone for longer than its sessions could live without it, start the agent again."""
    tested, before = site.tested, site.tested.sessions()
    tested.agent.kill(SIGKILL)
    enough = {tor: keepalives(tested, tor) + KEEPALIVES_BEYOND_HOLD_TIME for tor in before}
    eventually(lambda: all(keepalives(tested, tor) >= enough[tor] for tor in enough), "ExaBGP alone", 60)
    restart(site)
    if tested.sessions() != before:
        raise AssertionError("a session ended while no agent ran")


def keepalives(server: Server, tor: str) -> int:
    """Return how many a ToR has heard from the server."""
    return int(server.neighbor(tor)["messageStats"]["keepalivesRecv"])


def kill_agent_and_speaker(site: Site) -> None:
    """Kill both, as an out-of-memory killer does with a container; a service manager starts the agent again."""
    with new_sessions(site):
        site.tested.agent.kill(SIGKILL)
        site.tested.agent.kill_speaker()
        restart(site)


def restart(site: Site) -> None:
    """Start the agent as it was configured."""
    site.tested.start(site.tested.config)


def kill_speaker(site: Site) -> None:
    """Kill ExaBGP and wait until the agent's next one has told both ToRs everything."""
    with new_sessions(site):
        site.tested.agent.kill_speaker()


@contextlib.contextmanager
def new_sessions(site: Site) -> Iterator[None]:
    """Wait at the end of the block until both ToRs have a session that is newer than the block."""
    before = site.tested.sessions()
    yield

    def newer() -> bool:
        now = site.tested.sessions()
        return all(now[tor] > before[tor] for tor in before) and site.tested.at_rest()

    eventually(newer, "new sessions", 60)


def upgrade(site: Site) -> None:
    """End the agent as a service manager does, and start another version of it: the same code, from another place."""
    folder = Path(tempfile.mkdtemp(prefix="routed-next-"))
    try:
        binary = _installed(folder)
        site.tested.agent.kill(SIGTERM)
        site.tested.agent = Agent.start(site.tested.node, binary, env={"ROUTED_CONFIG": str(RACK)})
        site.tested.agent.wait_ready()
        eventually(site.tested.speaks, "the sessions of the next version")
        site.tested.agent.kill(SIGTERM)
        restart(site)
    finally:
        shutil.rmtree(folder)


def _installed(folder: Path) -> Path:
    """Install a copy of the agent, version and all, and return its program."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    folder.chmod(0o755)
    program = folder / "next"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(folder)!r})\n"
        "from routed.cli.main import main\nsys.exit(main())\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


# ---- the gateway


_NEW_MAC = """
four=$(ip route show dev gw proto bgp) six=$(ip -6 route show dev gw proto bgp)
ovs-vsctl set bridge gw other_config:hwaddr='"'$1'"'
restore() { echo "$2" | sed '/./!d; s/ pref medium//; s/.*/route replace & dev gw proto bgp/' | ip "$1" -batch -; }
for attempt in $(seq 100); do
  restore -4 "$four" && restore -6 "$six" && exit 0
  sleep 0.01 # the interface's own routes come back first
done
exit 1
"""
"""Open vSwitch takes the interface down for it, the kernel drops the routes behind it, FRR 8.4 does not notice.

A switch keeps its routes.
"""


def change_gateway(mac: str, *, tell: bool) -> Deed:
    """Give both ToRs' gateway another MAC address, as after a replacement; say so by gratuitous ARP and ND, or not."""

    def deed(site: Site) -> None:
        for tor in TORS:
            node = site.lab.node(tor)
            for key in ("ipv4.conf.gw.arp_notify", "ipv6.conf.gw.ndisc_notify"):
                node.run(["sysctl", "-q", f"net.{key}={int(tell)}"])
            node.run(["sh", "-ec", _NEW_MAC, "sh", mac])

    return deed


# ---- many pods


def churn(site: Site) -> None:
    """Let many pods come and go on the tested server and on the bystander's."""
    for work in _churning(site):
        work.result()


def churn_meanwhile(deed: Deed) -> Deed:
    """Do something in the midst of it."""

    def both(site: Site) -> None:
        works = _churning(site)
        eventually(lambda: any(work.done() for work in works), "the first pod that came and went", 60)
        deed(site)
        for work in works:
            work.result()

    return both


def _churning(site: Site) -> list[Future[None]]:
    works = []
    for server in (site.tested, site.neighbour):
        pool = ThreadPoolExecutor(CHURNERS)
        works += [pool.submit(_come_and_go, server, netns) for netns in server.netns(CHURN_PODS)]
        pool.shutdown(wait=False)
    return works


def _come_and_go(server: Server, netns: Path) -> None:
    server.detach(server.attach(netns))
    server.remove_netns([netns])


# ---- configuration


def configured(changes: dict[str, str], *, peering: bool = False) -> Scene:
    """Let the tested server's agent run with a changed rack file for a while; `peering`: its sessions begin anew."""

    @contextlib.contextmanager
    def scene(site: Site) -> Iterator[Directions]:
        with contextlib.ExitStack() as stack:
            if peering:
                stack.enter_context(new_sessions(site))  # once more when the rack file is as it was
            with site.tested.configured(changes):
                yield site.directions()

    return scene
