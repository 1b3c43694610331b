"""The main job, scene by scene: a fabric, agents, pods, traffic, routes, two sudden deaths, and everything taken back.

Each scene does its part on the lab and claims what must be true after it; a scene that cannot go on raises. The order
is fixed: a scene stands on what those before it made.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from containerlab import topology
from containerlab.agents import Agent
from containerlab.hostroutes import Table, counts, deviations
from containerlab.lab import Lab
from containerlab.ping import ping
from containerlab.pods import PlainPods, Pod, Pods, RuntimePods
from containerlab.probe import Flow, Place, Probe, Report, both_ways
from containerlab.runtime import RuntimeFailedError
from containerlab.story import Story
from containerlab.topology import TWO_RACKS
from routed.settings import load

RACK_FILE = "/etc/routed/rack.yaml"
"""Where a server of the fabric finds its rack's file."""
PODS_PER_SERVER = 6
PINGS = 3
PROBE_HZ = 100
DEAD_S = 10.0
"""How long the killed agent stays dead: longer than the hold time of its sessions."""
BEFORE_S, AFTER_S = 1.0, 3.0
"""Traffic before the fault and after the repair."""
LOOK_S = 15.0
"""What is to become true does so within this time."""
POLL_S = 0.1
EVIDENCE = 8
"""Lines of evidence that a failed claim shows."""
T = TypeVar("T")
R = TypeVar("R")


class Scenes:
    """One run of the main job, and what it has so far."""

    def __init__(self, story: Story, name: str) -> None:
        self.story = story
        self.name = name
        self.agents: dict[str, Agent] = {}
        self.runtimes: dict[str, Pods] = {}
        self.pods: list[Pod] = []
        self._runner = "containerd"
        binds = (bind for node in topology.load(TWO_RACKS).nodes.values() for bind in node.binds)
        self.racks = [load(path) for path in sorted({bind.source for bind in binds if bind.target == RACK_FILE})]
        self.servers = [server for rack in self.racks for server in rack.servers]

    def fabric(self) -> None:
        """Bring the lab up."""
        self.story.chapter("The fabric: two racks of two stackless ToRs and two servers each, two spines")
        with self.story.working("starting FRR and Open vSwitch in ten nodes, waiting for BGP and LACP"):
            self.lab = Lab.up(name=self.name)
            seconds = self.lab.wait_ready()
        self.story.claim("The fabric is up, all its routers, switches and bonds are healthy", True, f"{seconds:.1f} s")

    def start_agents(self) -> None:
        """Start an agent on every server."""
        self.story.chapter("The agents: one per server, each with its own ExaBGP")
        begin = time.monotonic()
        with self.story.working("starting `routed agent` on every server"):
            self.agents = dict(zip(self.servers, self._each(self._start_agent, self.servers), strict=True))
            self._each(Agent.wait_established, self.agents.values())
        sessions = len(self._show("neighbors"))
        self._flows_before = self._count_flows()
        seen = f"{len(self.agents)} agents, {sessions} sessions, {time.monotonic() - begin:.1f} s"
        self.story.claim("Every agent is ready, with BGP sessions to both ToRs of its rack", True, seen)

    def start_pods(self) -> None:
        """Start a container runtime on every server, then all pods at once."""
        total = PODS_PER_SERVER * len(self.servers)
        self.story.chapter(f"The pods: {total}, all at once, by a container runtime that calls our CNI plugin")
        with self.story.working("starting containerd on every server"):
            self.runtimes = dict(zip(self.servers, self._start_runtimes(), strict=True))
        took = self._run_pods(total)
        rows = [(pod.name, pod.server, *map(str, pod.addresses)) for pod in sorted(self.pods, key=lambda pod: pod.name)]
        self.story.table(("pod", "server", "IPv4", "IPv6"), rows)
        addresses = {address for pod in self.pods for address in pod.addresses}
        dual = all({address.version for address in pod.addresses} == {4, 6} for pod in self.pods)
        seen = f"by {self._runner}, start p50 {statistics.median(took):.2f} s, max {max(took):.2f} s"
        self.story.claim(
            f"{total} pods started at once, each with an IPv4 and an IPv6 address of its own",
            dual and len(addresses) == 2 * total,
            seen,
        )

    def ping_everybody(self) -> None:
        """Ping every pod from every pod and every server, and the servers from the pods."""
        self.story.chapter("Reachability: everybody pings everybody")
        pods, hosts = [pod.place for pod in self.pods], [self._host(server) for server in self.servers]
        flows = [
            Flow(source, target, version)
            for version in (4, 6)
            for source in (*pods, *hosts)
            for target in (*pods, *hosts)
            if source is not target
        ]
        with self.story.working(f"{PINGS * len(flows)} pings, pods and servers, IPv4 and IPv6"):
            silent = ping(flows * PINGS)
        self.story.claim(
            "Every pod answers every other pod and every server, in both racks, over IPv4 and IPv6",
            not silent,
            f"{PINGS * len(flows)} pings, {len(silent)} lost{_lines(silent)}",
        )

    def look_at_routes(self) -> None:
        """Compare the forwarding tables of all routers with what they should be."""
        self.story.chapter("Routes: in the kernels of all routers")
        wrong = self._await_routes()
        tables = self._tables()
        rows = [
            (count.router, str(count.hosts_ipv4), str(count.hosts_ipv6), str(count.pools))
            for count in counts(tables, self.racks)
        ]
        self.story.table(("router", "pods' /32", "pods' /128", "pools"), rows)
        self.story.claim(
            "Both ToRs of a rack have its pods' /32 and /128 via the right server; all others only /24 and /64",
            not wrong,
            f"{len(tables)} forwarding tables, {len(wrong)} deviations{_lines(wrong)}",
        )

    def kill_agent(self) -> None:
        """Kill an agent with -9 under traffic, leave it dead for longer than the hold time, start it again."""
        agent = self.agents[self.servers[0]]
        self.story.chapter(
            f"Sudden death of an agent: kill -9 on {agent.node.name}, under traffic to and from its pods"
        )
        speaker, sessions = agent.speaker_pid(), self._sessions(agent.node.name)
        with self._traffic() as probe:
            time.sleep(BEFORE_S)
            agent.kill()
            with self.story.working(f"the agent is dead for {DEAD_S:.0f} s, longer than its sessions' hold time"):
                time.sleep(DEAD_S)
            begin = time.monotonic()
            again = self.agents[agent.node.name] = self._start_agent(agent.node.name)
            back = time.monotonic() - begin
            time.sleep(AFTER_S)
            reports = probe.stop()
        self._claim_no_loss("An agent killed with -9 and started again loses no packet", reports)
        same = (again.speaker_pid(), self._sessions(agent.node.name)) == (speaker, sessions)
        self.story.claim(
            "The new agent adopted the running ExaBGP: no BGP session was touched",
            same,
            f"ready {back:.1f} s after its start; ExaBGP {speaker} -> {again.speaker_pid()}, "
            f"sessions {sessions} -> {self._sessions(agent.node.name)}",
        )

    def kill_speaker(self) -> None:
        """Kill an ExaBGP with -9 under traffic, and wait until the agent has replaced it."""
        agent = self.agents[self.servers[0]]
        self.story.chapter(f"Sudden death of a BGP speaker: kill -9 of ExaBGP on {agent.node.name}, under traffic")
        sessions = self._sessions(agent.node.name)
        with self._traffic() as probe:
            time.sleep(BEFORE_S)
            begin = time.monotonic()
            agent.kill_speaker()
            with self.story.working("the ToRs keep the routes (graceful restart), the agent starts a new ExaBGP"):
                self._until(lambda: self._replaced(agent.node.name, sessions), 3 * LOOK_S)
            back = time.monotonic() - begin
            time.sleep(AFTER_S)
            reports = probe.stop()
        self._claim_no_loss("An ExaBGP killed with -9 loses no packet", reports)
        wrong = self._await_routes()
        self.story.claim(
            "The agent replaced it: new sessions, the same routes",
            self._replaced(agent.node.name, sessions) and agent.established() and not wrong,
            f"{back:.1f} s after its death, {len(wrong)} deviations of routes{_lines(wrong)}",
        )

    def delete_pods(self) -> None:
        """Delete all pods and look for what is left of them."""
        self.story.chapter("The end of the pods: deleted all at once")
        begin = time.monotonic()
        with self.story.working("stopping and removing every pod"):
            self._each(lambda pod: self.runtimes[pod.server].delete(pod), self.pods)
        took, gone, self.pods = time.monotonic() - begin, self.pods, []
        left = [f"attachment of {row['pod']}" for row in self._show("attachments")]
        left += [f"network namespace of {pod.name}" for pod in gone if Path(pod.place.netns).exists()]
        left += [line for runtime in self.runtimes.values() for line in runtime.left()]
        self.story.claim(
            "Nothing is left of them on the servers: no attachment, no network namespace, no record",
            not left,
            f"{len(gone)} pods deleted in {took:.1f} s, {len(left)} things left{_lines(left)}",
        )
        flows = self._count_flows()
        self.story.claim(
            "Their flows are gone from Open vSwitch", flows == self._flows_before, f"{self._flows_before} -> {flows}"
        )
        wrong = self._await_routes()
        self.story.claim("Their routes are gone from all routers", not wrong, f"{len(wrong)} deviations{_lines(wrong)}")
        leases = self._show("leases")
        used, cooling = (sum(row[key] for row in leases) for key in ("used", "cooling"))
        self.story.claim(
            "Their addresses are free and cool down before they are used again",
            used == 0 and cooling == sum(len(pod.addresses) for pod in gone),
            f"{used} used, {cooling} cooling down",
        )

    def leave_pods(self) -> None:
        """Start pods again, for whoever wants to look around."""
        self.story.chapter("Kept for you: everything runs, with new pods")
        self._run_pods(PODS_PER_SERVER * len(self.servers))

    def _start_agent(self, server: str) -> Agent:
        agent = Agent.start(self.lab.node(server))
        agent.wait_ready()
        return agent

    def _show(self, page: str) -> list[dict[str, Any]]:
        """Return the rows of `routed show PAGE` of all agents."""
        return [row for rows in self._each(lambda agent: agent.show(page), self.agents.values()) for row in rows]

    def _start_runtimes(self) -> list[Pods]:
        try:
            return self._each(lambda server: RuntimePods.start(self.lab, server), self.servers)
        except (RuntimeFailedError, OSError) as error:
            self.story.remark(f"containerd does not run here, so the plugin is called without it: {error}")
            self._runner = "calling the plugin"
            return [PlainPods(self.lab, server) for server in self.servers]

    def _run_pods(self, total: int) -> list[float]:
        """Start pods on all servers at once and return how long each took, in seconds."""

        def run(number: int) -> tuple[Pod, float]:
            begin = time.monotonic()
            pod = self.runtimes[self.servers[number % len(self.servers)]].run(f"pod-{number:02}")
            return pod, time.monotonic() - begin

        with self.story.working(f"starting {total} pods at once"):
            started = self._each(run, range(total))
        self.pods = [pod for pod, _ in started]
        return [seconds for _, seconds in started]

    def _host(self, server: str) -> Place:
        addresses = next(rack.servers[server].addresses for rack in self.racks if server in rack.servers)
        return Place(server, self.lab.node(server).netns_path, addresses)

    def _traffic(self) -> Probe:
        """Send between each pod of the first server and pods of two others, in turn; both ways, IPv4 and IPv6."""
        by_server = {server: [pod.place for pod in self.pods if pod.server == server] for server in self.servers}
        first, *others = by_server.values()
        pairs = [
            (place, others[(number + turn) % len(others)][number])
            for number, place in enumerate(first)
            for turn in range(2)
        ]
        flows = both_ways(pairs)
        self.story.note(f"{len(flows)} flows to and from its {len(first)} pods, {PROBE_HZ} packets/s each")
        return Probe(flows, PROBE_HZ)

    def _claim_no_loss(self, text: str, reports: list[Report]) -> None:
        losers = [report for report in reports if report.lost]
        sent, lost = (sum(getattr(report, key) for report in reports) for key in ("sent", "lost"))
        self.story.claim(text, not lost and sent > 0, f"{sent} packets sent, {lost} lost{_lines(losers)}")

    def _sessions(self, server: str) -> dict[str, int]:
        """Return how often each ToR has seen a session with the server come up."""
        rack = next(rack for rack in self.racks if server in rack.servers)
        address = str(rack.servers[server].addresses[0])
        return {
            tor.name: self.lab.vtysh_json(tor.name, f"show bgp neighbors {address}")[address]["connectionsEstablished"]
            for tor in rack.tors
        }

    def _replaced(self, server: str, before: dict[str, int]) -> bool:
        """Tell whether both ToRs have had a new session with the server."""
        return all(ups > before[tor] for tor, ups in self._sessions(server).items())

    def _await_routes(self) -> list[str]:
        """Return the deviations of all forwarding tables, after giving them time to vanish."""
        wrong: list[str] = []

        def right() -> bool:
            wrong[:] = deviations(self._tables(), self.racks, self.pods)
            return not wrong

        with self.story.working("reading forwarding tables"):
            self._until(right, LOOK_S)
        return wrong

    def _tables(self) -> dict[str, Table]:
        routers = [node.name for node in self.lab.nodes.values() if node.spec["group"] in {"tor", "spine"}]
        return dict(zip(routers, self._each(self.lab.kernel_routes, routers), strict=True))

    def _count_flows(self) -> int:
        """Return the number of flows on all servers' bridges, as Open vSwitch counts them."""
        dump = ["ovs-ofctl", "-O", "OpenFlow14", "dump-flows", "br0"]
        return sum(self.lab.node(server).run(dump).stdout.count("cookie=") for server in self.servers)

    @staticmethod
    def _each(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Do the same with everything, all at once."""
        with ThreadPoolExecutor(64) as pool:
            return list(pool.map(work, items))

    @staticmethod
    def _until(condition: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < deadline:
            time.sleep(POLL_S)


def _lines(things: Sequence[object]) -> str:
    """Return the first things as lines of evidence."""
    more = [f"... and {len(things) - EVIDENCE} more"] if len(things) > EVIDENCE else []
    return "".join(f"\n  {thing}" for thing in [*things[:EVIDENCE], *more])
