"""Metrics: what the agent counts itself, and gauges read from its state when somebody asks.

Owns metric names. Everything else in the agent is read, never instrumented: a gauge that is computed at scrape time
cannot drift from the truth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client import Counter as Total
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from bgp.model import NeighborStatus, SessionState
from ipam.model import Usage
from ovs_flows.offload import IDLE, Layer, PortReport
from routed import __version__
from routed.audit.model import Finding, Kind, Unobserved
from routed.domain.intent import Owner, steers
from routed.domain.rack import Tor
from routed.domain.snapshot import Snapshot
from routed.domain.workload import AttachmentId, IPAddress
from routed.kube.leases import LeaseState
from routed.reconcile.loop import Loop

L = TypeVar("L", bound=tuple[str, ...])
CONTENT_TYPE = CONTENT_TYPE_LATEST
_CNI_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)

_OWN_FINDINGS = (
    *(Kind.UNANNOUNCED, Kind.LEAKED, Kind.FOREIGN, Kind.PLAN_CONFLICT, Kind.POOL_LOW, Kind.POOL_EXHAUSTED),
    Kind.UNOBSERVED,
)
"""What an agent can find by itself."""


class Telemetry(Collector):
    """The agent's registry."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.cni_seconds = Histogram(
            "routed_cni_seconds",
            "Duration of a CNI command.",
            ["command"],
            buckets=_CNI_BUCKETS_S,
            registry=self._registry,
        )
        self.cni_errors = Total(
            "routed_cni_errors_total", "CNI commands that failed.", ["command", "error"], registry=self._registry
        )
        self._gauges: list[Metric] = []
        self._registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Yield the gauges of the current scrape."""
        return self._gauges

    def render(  # noqa: PLR0913 - a scrape reads all of the agent
        self,
        snapshot: Snapshot,
        loop: Loop[Owner],
        usage: Sequence[Usage],
        neighbors: Mapping[IPAddress, NeighborStatus],
        side_failures: Mapping[str, int],
        *,
        state: LeaseState | None = None,
        offload: Mapping[str, PortReport] | None = None,
        wanted: Layer | None = None,
        findings: Iterable[Finding] | Unobserved = (),
    ) -> bytes:
        """Return the exposition text of everything; of offload nothing when it is not known.

        `wanted` is the slowest layer that pods' packets may be forwarded on, None when any will do.
        """
        self._gauges = [
            _family("routed_build_info", "The running version.", ("version",), {(__version__,): 1}),
            *_attachments(snapshot, loop),
            *_planes(loop),
            *_pools(usage),
            *_leases(snapshot.rack.name, state),
            *_sessions(snapshot.rack.tors, neighbors),
            *_sides(snapshot, side_failures),
            *_offload(snapshot, offload, wanted),
            _findings(findings),
            _family(
                "routed_gateway_known",
                "1 when the gateway's MAC address is known; without it nothing leaves for the ToR.",
                (),
                {(): int(snapshot.uplink.gateway_mac is not None)},
            ),
            _family(
                "routed_drained", "1 while the server is drained: it announces no routes.", (), {(): snapshot.draining}
            ),
        ]
        return generate_latest(self._registry)


def attachment_state(snapshot: Snapshot, loop: Loop[Owner], attachment: AttachmentId) -> str:
    """Return how an attachment is: ready, pending, failing, cordoned or leaving."""
    work = loop.works().get(attachment)
    if snapshot.attachments[attachment].leaving:
        return "leaving"
    if snapshot.owner_elsewhere(snapshot.attachments[attachment]) is not None:
        return "cordoned"
    if work is None or (work.error is None and work.reached < work.asked):
        return "pending"
    return "ready" if work.error is None else "failing"


def _attachments(snapshot: Snapshot, loop: Loop[Owner]) -> Iterable[Metric]:
    states = Counter(attachment_state(snapshot, loop, key) for key in snapshot.attachments)
    values = {(state,): states[state] for state in ("ready", "pending", "failing", "cordoned", "leaving")}
    yield _family("routed_attachments", "Pods' interfaces by state.", ("state",), values)
    yield _family("routed_slots", "Slots kept plugged.", (), {(): snapshot.slots})


def _planes(loop: Loop[Owner]) -> Iterable[Metric]:
    lanes = loop.lanes.items()
    known = {(name,): int(lane.actual is not None) for name, lane in lanes}
    yield _family("routed_plane_known", "0 while a plane's state cannot be observed.", ("plane",), known)
    held = {(name,): len(lane.actual) for name, lane in lanes if lane.actual is not None}
    yield _family("routed_plane_objects", "Objects on a plane, while they can be observed.", ("plane",), held)
    yield _total("routed_plane_upserts", "Objects made or mended.", {name: lane.upserted for name, lane in lanes})
    yield _total("routed_plane_removals", "Objects removed.", {name: lane.removed for name, lane in lanes})
    yield _total("routed_plane_batches", "Batches of changes.", {name: lane.batches for name, lane in lanes})
    yield _total("routed_plane_busy_seconds", "Time spent in them.", {name: lane.busy_s for name, lane in lanes})
    yield _total("routed_plane_drifts", "Owners found in another state than they were left in.", loop.drifts)


def _pools(usage: Sequence[Usage]) -> Iterable[Metric]:
    values = {}
    for pool in usage:
        for state in ("used", "cooling", "free"):
            values[str(pool.prefix), state] = getattr(pool, state)
    yield _family("routed_pool_addresses", "This server's addresses by pool and state.", ("pool", "state"), values)


def _leases(rack: str, state: LeaseState | None) -> Iterable[Metric]:
    if state is None:
        return
    yield _family(
        "routed_leases_current",
        "1 while the API server grants leases and learns who uses them; pods start from the stock alone while 0.",
        (),
        {(): int(state.reachable)},
    )
    text = "Addresses of the whole rack that pods can have."
    capacity = {(rack, str(prefix)): count for prefix, count in state.capacity.items()}
    yield _family("routed_rack_addresses", text, ("rack", "pool"), capacity)
    idle = {(rack, str(prefix)): count for prefix, count in state.idle.items()}
    yield _family("routed_rack_idle_addresses", "Those of them that serve no pod.", ("rack", "pool"), idle)
    taken = {(): len(state.taken)}
    yield _family("routed_addresses_taken", "Addresses in use here that are another server's by now.", (), taken)


def _sessions(tors: Sequence[Tor], neighbors: Mapping[IPAddress, NeighborStatus]) -> Iterable[Metric]:
    found = [(tor, neighbors[tor.address]) for tor in tors if tor.address in neighbors]
    up = {(tor.name, str(tor.address)): int(status.state is SessionState.UP) for tor, status in found}
    yield _family("routed_bgp_session_up", "1 while the session is established.", ("tor", "neighbor"), up)
    ups = {tor.name: status.ups for tor, status in found}
    yield _total("routed_bgp_session_ups", "Times that the session came up.", ups, "tor")


def _sides(snapshot: Snapshot, failures: Mapping[str, int]) -> Iterable[Metric]:
    sides = {(side.tor, side.member): int(side.health) for side in snapshot.place.sides}
    yield _family(
        "routed_side_health",
        "How a ToR can be reached: 0 link cut, 1 no BGP session, 2 well again but on hold, 3 good.",
        ("tor", "member"),
        sides,
    )
    yield _total("routed_side_failures", "Times that a ToR could not be reached any more.", failures, "tor")
    asked = {(tor.name,): int(steers(snapshot, tor.address)) for tor in snapshot.rack.tors}
    yield _family("routed_steering", "1 while this ToR is asked to draw the pods' traffic to itself.", ("tor",), asked)


def _offload(snapshot: Snapshot, reports: Mapping[str, PortReport] | None, wanted: Layer | None) -> Iterable[Metric]:
    """Yield how many pods are on which layer; who they are is for the control socket alone."""
    places, short = {}, {}
    if reports is not None:
        own = [reports.get(wire, PortReport()) for wire in map(snapshot.place.wire, snapshot.attachments.values())]
        states = Counter(one.state for one in own)
        places = {(state,): states[state] for state in (*map(str, reversed(Layer)), IDLE)}
        if wanted is not None:
            short[()] = sum(one.shortfall(wanted) is not None for one in own)
    text = "Pods' interfaces by the slowest place where their packets are forwarded (docs/offload.md)."
    yield _family("routed_pods_offload", text, ("state",), places)
    text = "Pods' interfaces with more than a tenth of their packets forwarded slower than bridge.offload asks for."
    yield _family("routed_pods_offload_short", text, (), short)


def _findings(findings: Iterable[Finding] | Unobserved) -> Metric:
    """Return what an audit of this server alone finds; where it is blind, that and nothing else."""
    if isinstance(findings, Unobserved):
        found = Counter({Kind.UNOBSERVED: 1})
    else:
        found = Counter(dict.fromkeys(_OWN_FINDINGS, 0))
        found.update(finding.kind for finding in findings)
    text = "What `routed audit` would find on this server alone, by kind (docs/audit.md)."
    return _family("routed_findings", text, ("kind",), {(str(kind),): count for kind, count in found.items()})


def _family(name: str, text: str, labels: Sequence[str], values: Mapping[L, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _total(name: str, text: str, values: Mapping[str, float], label: str = "plane") -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family
