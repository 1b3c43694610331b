"""The composition root: builds every part, starts them in order, stops them so that the data path stays.

Order of a start: the ledger, the datapath, the planes, one pass over everything that the ledger knows, and only then
the CNI socket: state is rebuilt before anybody is served. A stop leaves links, flows, ExaBGP and its sessions as they
are.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

import structlog

from bgp.config import read_password
from bgp.errors import BgpError, InvalidRouteError
from bgp.model import Neighbor, SessionState, SpeakerConfig
from bgp.speaker import Speaker
from ipam.errors import IpamError
from ipam.ledger import Ledger
from ipam.model import Pool
from ovs_flows.errors import OvsError
from ovs_flows.glance import Glance
from ovs_flows.offload import Layer, PortReport
from routed import views
from routed.attach.announce import Announcer, Asker
from routed.attach.errors import (
    InterfaceExists,
    InvalidName,
    InvalidNetns,
    MarkTooLong,
    RdmaShared,
    UplinkUnusable,
    VfInUse,
)
from routed.attach.gateway import Gateway
from routed.attach.members import Members
from routed.attach.monitor import Monitor
from routed.attach.vf import is_idle
from routed.audit.compare.rack import compare_server
from routed.audit.export import encode
from routed.audit.model import Finding, RackPlan, ServerView, Unobserved
from routed.cni.errors import UnsupportedField
from routed.cni.install import HostPorts, can_map, publish
from routed.cni.queue import DeletionQueue
from routed.cni.server import AddressInUseError
from routed.cni.server import Server as CniServer
from routed.control import serve_control, serve_health
from routed.datapath import Datapath, OvsDatapath, Sight, Work
from routed.devices import Devices
from routed.domain.intent import Owner, owners, plan
from routed.domain.rack import Rack, Server, Uplink
from routed.domain.sides import Health, Hold, Side
from routed.domain.snapshot import DRAINED
from routed.domain.workload import Attachment, AttachmentId, PodRef, Wishes
from routed.draining import Drain
from routed.ipvlan import IpvlanDatapath
from routed.kube.cluster import Cluster
from routed.kube.errors import KubeError
from routed.kube.events import News
from routed.kube.leases import LeaseState
from routed.leasing import Leasing, leasing
from routed.leasing import check as check_leases
from routed.mirroring import Mirroring
from routed.reconcile.loop import Loop
from routed.residents import Residents, devices_of, kubelet_of
from routed.settings import Settings
from routed.steering import Steering
from routed.store import Store
from routed.telemetry import Telemetry
from routed.verbs import Verbs

log = structlog.get_logger(__name__)
_Reports = Mapping[str, PortReport] | None
"""By port; None without a bridge."""
OffloadGlance = Glance[_Reports]
EXPECTED = (KubeError, IpamError, BgpError, OvsError, UplinkUnusable, AddressInUseError, OSError)
"""What ends an agent with one line for the operator; anything else is a bug and shows its traceback."""
_TURN_S = 0.0005
"""How long a thread that works on pods may keep the event loop waiting; Python's own choice is ten times that."""
_YOUNG = 10_000
"""New objects between two looks for garbage in circles; Python's own choice (700) is less than a pod brings."""
_FRESH_S = 5.0
"""How long all who scrape are told of the same look at the datapath, which anybody on the network can ask for."""
_PATIENCE_S = 2.0
"""How long a scrape waits for a switch that hangs; Prometheus gives up after ten."""
_FAREWELL_S = 2.0
"""How long `routed drain` has to end well: where it runs in the agent's container, it is killed with it."""
_PERMANENT = (InvalidNetns, InvalidName, InterfaceExists, MarkTooLong, VfInUse, RdmaShared, InvalidRouteError)
"""Failures that trying again does not mend."""


@dataclass(frozen=True, slots=True)
class Container:
    """What is different in a container."""

    cni_conf_dir: Path | None = None
    """Where runtimes are told of the plugin once pods can be attached; None: that is the operator's to do."""
    cni_bin_dir: Path | None = None
    """Where runtimes look for plugins, `portmap` among them; None: pods' host ports are ignored."""
    bgp_user: str = "root"
    """Who runs ExaBGP."""

    def publish(self) -> None:
        """Tell runtimes of the plugin, if that is ours to do; OSError."""
        if self.cni_conf_dir is not None:
            publish(self.cni_conf_dir, self._host_ports())

    def _host_ports(self) -> HostPorts | None:
        if self.cni_bin_dir is None:
            return HostPorts.IGNORED
        try:
            return HostPorts.MAPPED if can_map(self.cni_bin_dir) else HostPorts.REFUSED
        except OSError as error:  # pods that want none can start all the same
            log.warning("portmap.unknown", error=str(error))
            return None


class Agent:
    """One server's agent."""

    def __init__(
        self, settings: Settings, server: Server, cluster: Cluster | None = None, container: Container | None = None
    ) -> None:
        """Check what the files say; nothing is opened or changed yet. Raises what `ipam` and `bgp` find wrong.

        With a cluster, the API server grants the leases, says what pods ask for, and is told what users must see.
        """
        self._settings, self._server, self._cluster = settings, server, cluster
        self._container = container or Container()
        self._rack = settings.domain_rack()
        self._pools = tuple(Pool(pool.prefix, pool.gateway, pool.reserved) for pool in settings.pools)
        check_leases(settings, server.name, self._pools)
        self._leasing: Leasing | None = None
        self._telemetry = Telemetry()
        self._stopping = asyncio.Event()
        self.serving = asyncio.Event()
        """Set once pods are attached."""
        self.dismissed = False
        """Whether it was told to end for good, by a signal or by `routed drain`."""
        self._loop: Loop[Owner] | None = None
        self._steering: Steering | None = None
        kind = OvsDatapath if settings.ipvlan is None else IpvlanDatapath
        self._datapath: Datapath = kind(settings, self._look)
        wanted = settings.bridge.offload
        self._wanted_layer = None if wanted is None else Layer.named(wanted)
        self._speaker = Speaker(
            speaker_config(settings, self._rack, server),
            settings.paths.run / "bgp",
            self._on_session_change,
            user=self._container.bgp_user,
        )

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT, or until drained."""
        running = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            running.add_signal_handler(number, self._dismiss)
        self._settings.paths.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._settings.paths.run.mkdir(mode=0o755, parents=True, exist_ok=True)
        main = asyncio.create_task(self._run())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((main, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        main.cancel()
        try:
            await main
        except asyncio.CancelledError:
            log.info("agent.stopped", server=self._server.name)

    def stop(self) -> None:
        """Let `run` end, as on SIGTERM; another agent is to follow."""
        self._stopping.set()

    def _dismiss_soon(self) -> None:
        asyncio.get_running_loop().call_later(_FAREWELL_S, self._dismiss)

    def _dismiss(self) -> None:
        self.dismissed = True
        self._stopping.set()

    async def _run(self) -> None:
        """Connect to the datapath, then run the rest; what was opened last is closed first."""
        paths, datapath = self._settings.paths, self._datapath
        async with asyncio.TaskGroup() as connection:
            connection.create_task(datapath.run())
            async with AsyncExitStack() as stack:
                leases = await leasing(self._settings, self._server.name, self._cluster, self._pools)
                self._leasing = leases
                ledger = Ledger(
                    paths.state / "ledger.db", self._pools, leases.source, cooldown_s=self._settings.ipam.cooldown_s
                )
                stack.callback(ledger.close)
                monitor = await stack.enter_async_context(Monitor())
                sight = await datapath.prepare()
                gateways = tuple(host.gateway for host in self._rack.hosts)
                gateway = Gateway(datapath.device, gateways, datapath.reconsider, monitor)
                await gateway.look()  # the kernel knows it, but for a server that has just booted
                store = Store(
                    ledger,
                    rack=self._rack,
                    server=self._server,
                    uplink=_uplink(sight, gateway),
                    ready_slots=datapath.ready_slots,
                    on_change=self._touch,
                )
                stack.callback(store.close)
                stack.callback(self._watch_no_sides)
                store.keep_slots(await datapath.stocked())
                await self._speaker.start()
                stack.push_async_callback(self._speaker.stop)
                async with asyncio.TaskGroup() as leased:
                    leased.create_task(leases.run(store))
                    leased.create_task(self._speaker.ended())
                    await self._serve(store, monitor, gateway, sight)

    async def _serve(self, store: Store, monitor: Monitor, gateway: Gateway, sight: Sight) -> None:
        """Start the planes and the loop, rebuild what the ledger knows, then open the doors."""
        settings, datapath = self._settings, self._datapath
        drain = Drain(settings.drain_mark, store, self._speaker.drain, self._dismiss_soon)
        if drain.resume():
            self._tell_of_server("Drained", DRAINED, "Announce")
        if unreachable := settings.unreachable_pools(self._server.name):
            pools = ", ".join(map(str, unreachable))
            log.warning("pools.unreachable", pools=pools)
            why = f"{pools}: this server has no address of that family by which the ToRs would reach its pods there"
            self._tell_of_server("PoolUnreachable", why, "Announce")
        await datapath.find_vfs(monitor, store.devices, store.set_vfs)
        members = await self._watch_sides(store, monitor, sight)
        devices = datapath.members or sight.uplink.devices
        announcer = Announcer(
            datapath.device, devices, self._askers(), monitor, vlan=settings.vlan, gateway_mac=lambda: gateway.mac
        )
        tiers = (*datapath.tiers(monitor), (self._speaker,))
        planes = [plane.name for tier in tiers for plane in tier]
        loop = self._loop = Loop[Owner](
            tiers,
            owners=lambda: owners(store.snapshot),
            plan=lambda owner: plan(store.snapshot, owner).of(planes),
            finish=partial(self._finish, store),
            is_permanent=lambda error: isinstance(error, _PERMANENT),
            resync_s=settings.resync_s,
        )
        mirroring = Mirroring(store, loop, datapath.mirrors)
        await mirroring.adopt()
        ailment = partial(self._ailment, store, loop)
        residents = Residents(self._cluster, store, self._api_answers, settings.paths.state / "pods.json")
        offload = Glance(partial(self._offload, store), fresh_s=_FRESH_S, patience_s=_PATIENCE_S)
        verbs = Verbs(
            store,
            loop,
            self._telemetry,
            ailment=ailment,
            wishes=partial(self._wishes, residents),
            devices=Devices(
                store,
                settings.vfs,
                is_idle=lambda address: asyncio.to_thread(is_idle, settings.paths.sysfs, address),
                allocated=partial(devices_of, kubelet_of(settings.sriov)),
            ),
            shortfall=partial(self._shortfall, store, offload),
            deadline_s=settings.cni.deadline_s,
        )
        cni = CniServer(settings.cni.socket, verbs, DeletionQueue(settings.cni.queue))
        async with asyncio.TaskGroup() as tasks:
            for work in (gateway.run, announcer.run, loop.run, residents.run, *datapath.works(), *members):
                tasks.create_task(work())
            tasks.create_task(datapath.follow(partial(self._note_way_out, store, gateway)))
            async with self._health(store, loop, offload), self._control(store, loop, mirroring, drain):
                await loop.settled()
                tasks.create_task(self._declare_authority(loop))
                _forget_predecessor()
                tasks.create_task(cni.serve())
                await cni.ready.wait()
                self.serving.set()
                self._container.publish()
                gc.freeze()  # what is here stays; looking through it again and again would stop ADDs for tens of ms
                gc.set_threshold(_YOUNG)
                sys.setswitchinterval(_TURN_S)
                log.info("agent.serving", server=self._server.name, attachments=len(store.snapshot.attachments))
                await asyncio.Event().wait()

    # ---- what is observed of the way out

    def _note_way_out(self, store: Store, gateway: Gateway, sight: Sight) -> None:
        store.set_uplink(_uplink(sight, gateway))
        if self._steering is not None:
            self._steering.note_lacp(sight.lapsed)

    def _on_session_change(self) -> None:
        self._look("advertisements")
        self._review_sides()

    def _review_sides(self) -> None:
        if self._steering is not None:
            self._steering.review()

    async def _watch_sides(self, store: Store, monitor: Monitor, sight: Sight) -> Sequence[Work]:
        """Begin to tell the store how each ToR can be reached, before anything is announced; not without steering."""
        settings, datapath, askers = self._settings.steering, self._datapath, self._askers()
        if settings is None or not askers:
            return ()
        members = Members(
            datapath.device,
            datapath.members,
            askers[0],
            monitor,
            self._review_sides,
            vlan=self._settings.vlan,
            probe_s=settings.probe_s,
        )
        await members.first_look()  # else every side would begin as cut
        self._steering = Steering(
            tuple(zip(self._rack.tors, datapath.members, strict=True)),
            hold=Hold(settings.hold_s, settings.longest_hold_s),
            faults=members.faults,
            sessions=self._speaker.neighbors,
            publish=partial(self._set_sides, store),
        )
        self._steering.note_lacp(sight.lapsed)
        return (members.run,)

    def _watch_no_sides(self) -> None:
        if self._steering is not None:
            self._steering.close()
            self._steering = None

    def _tell_of_server(self, reason: str, note: str, action: str) -> None:
        if self._cluster is not None:
            self._cluster.events.tell(News(self._cluster.subject, reason, note, action))

    def _set_sides(self, store: Store, sides: tuple[Side, ...]) -> None:
        store.set_sides(sides)
        for side in sides:
            if side.health < Health.HOLDING:
                note = f"{side.tor} cannot be relied on for this server's pods ({side.member})"
                self._tell_of_server("ToRLost", note, "Steer")

    def _askers(self) -> Sequence[Asker]:
        gateways = {host.prefix.version: host.gateway for host in self._rack.hosts}
        return tuple(
            Asker(address, gateways[address.version])
            for address in self._server.addresses
            if address.version in gateways
        )

    # ---- between the store, the loop and the speaker

    def _touch(self, changed: Sequence[Owner]) -> None:
        if self._loop is not None:
            self._loop.touch(*changed)
        if self._leasing is not None:
            self._leasing.nudge()

    def _look(self, *planes: str) -> None:
        if self._loop is not None:
            for plane in planes:
                self._loop.look(plane)

    async def _finish(self, store: Store, owner: Owner) -> None:
        """Free what a leaving attachment held, now that every plane has lost it."""
        attachment = store.snapshot.attachments.get(owner) if isinstance(owner, AttachmentId) else None
        if attachment is not None and attachment.leaving:
            await store.forget(attachment.id)

    async def _declare_authority(self, loop: Loop[Owner]) -> None:
        """Let End-of-RIB out once every route is announced; what keeps failing gets half of the restart time."""
        await loop.settled(patience_s=self._settings.bgp.graceful_restart_s / 2)
        self._speaker.authoritative()

    async def _wishes(self, residents: Residents, pod: PodRef) -> Wishes:
        """Return what a pod asks for; UnsupportedField when this server cannot give it."""
        wishes = await residents.wishes(pod)
        if not self._datapath.limits and (wishes.ingress_bps, wishes.egress_bps) != (None, None):
            raise UnsupportedField(f"{pod} asks for a limit of its bandwidth: there is none on a shared uplink")
        return wishes

    # ---- what others see of it

    def _ailment(self, store: Store, loop: Loop[Owner]) -> str | None:
        """Return why no pod could be attached now, None when one could."""
        return self._beginning() or views.ailment(store.snapshot, loop)

    def _trouble(self, loop: Loop[Owner]) -> str | None:
        """Return why the agent cannot do its work, None when it can; that of a drained server can."""
        return self._beginning() or views.blindness(loop)

    def _beginning(self) -> str | None:
        if self.serving.is_set():
            return None
        return "the agent is starting: not every plane has been seen, not every pod confirmed yet"

    def _lease_state(self) -> LeaseState | None:
        return None if self._leasing is None else self._leasing.state()

    def _api_answers(self) -> bool:
        state = self._lease_state()
        return state is not None and state.reachable

    def _unheard(self, store: Store) -> str | None:
        """Return why no ToR can know of this server's pods, None when one can, or when none is to."""
        states = {status.state for status in self._speaker.neighbors().values()}
        if SessionState.UP in states or store.snapshot.draining:
            return None
        return "no ToR has a BGP session with this server"

    def _server_view(self, store: Store, loop: Loop[Owner]) -> ServerView | Unobserved:
        return views.server_view(store.snapshot, loop, self._speaker.neighbors(), datetime.now(UTC))

    def _findings(self, store: Store, loop: Loop[Owner]) -> Sequence[Finding] | Unobserved:
        """Return what an audit of this server alone finds."""
        view = self._server_view(store, loop)
        if isinstance(view, Unobserved):
            return view
        plan = RackPlan(self._rack, {self._server.name: self._server}, self._pools)
        usage = store.usage() if self._cluster is None else ()  # a share that grows on demand is never full
        return tuple(compare_server(plan, view, usage))

    async def _metrics(self, store: Store, loop: Loop[Owner], offload: OffloadGlance) -> bytes:
        reports = await offload.take()  # before anything is read, so that all else is of one moment
        return self._telemetry.render(
            store.snapshot,
            loop,
            store.usage(),
            self._speaker.neighbors(),
            {} if self._steering is None else self._steering.failures,
            state=self._lease_state(),
            offload=reports,
            wanted=self._wanted_layer,
            findings=self._findings(store, loop),
        )

    async def _offload(self, store: Store) -> _Reports:
        """Return where each port's packets are forwarded by now, None without a bridge; OvsError."""
        snapshot = store.snapshot
        return await self._datapath.offload([*map(snapshot.place.wire, snapshot.attachments.values())])

    async def _shortfall(self, store: Store, offload: OffloadGlance, attachment: Attachment) -> str | None:
        """Return why a pod's packets are forwarded slower than they should be; None when they are not, or who knows."""
        reports = None if self._wanted_layer is None else await offload.take()
        if reports is None or self._wanted_layer is None:
            return None
        return reports.get(store.snapshot.place.wire(attachment), PortReport()).shortfall(self._wanted_layer)

    def _health(self, store: Store, loop: Loop[Owner], offload: OffloadGlance) -> AbstractAsyncContextManager[None]:
        return serve_health(
            self._settings.metrics.address,
            self._settings.metrics.port,
            metrics=partial(self._metrics, store, loop, offload),
            ready=partial(self._trouble, loop),
            started=lambda: self._trouble(loop) or self._unheard(store),
        )

    def _control(
        self, store: Store, loop: Loop[Owner], mirroring: Mirroring, drain: Drain
    ) -> AbstractAsyncContextManager[None]:
        async def offload() -> views.Rows:
            return views.offload(store.snapshot, await self._offload(store))

        return serve_control(
            self._settings.control_socket,
            pages={
                "attachments": lambda: views.attachments(store.snapshot, loop),
                "routes": lambda: views.routes(store.snapshot, loop),
                "flows": lambda: views.flows(store.snapshot, loop),
                "neighbors": lambda: views.neighbors(store.snapshot, self._speaker.neighbors()),
                "offload": offload,
                "mirrors": mirroring.rows,
                "leases": lambda: views.leases(store.usage(), self._lease_state()),
                "export": lambda: encode(self._server_view(store, loop)),
            },
            changes={
                "mirror": mirroring.start,
                "unmirror": mirroring.stop,
                "drain": drain.begin,
                "undrain": drain.end,
            },
        )


def _forget_predecessor() -> None:
    """Free what an agent that gave way to this one has left in circles, which was frozen with what is still of use."""
    if gc.get_freeze_count():
        gc.unfreeze()
        gc.collect()


def _uplink(sight: Sight, gateway: Gateway) -> Uplink:
    return replace(sight.uplink, gateway_mac=gateway.mac)


def reasons(group: BaseExceptionGroup[BaseException]) -> Iterator[str]:
    """Yield what went wrong, a line each."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from reasons(error)
        else:
            yield str(error)


def speaker_config(settings: Settings, rack: Rack, server: Server) -> SpeakerConfig:
    """Return how this server peers: from its own address to both ToRs' loopbacks."""
    bgp = settings.bgp
    password = read_password(bgp.password_file) if bgp.password_file else None
    local = server.address(rack.tors[0].address.version)
    if local is None:
        raise InvalidRouteError(f"server {server.name} has no address of the family of ToR {rack.tors[0].name}")
    identity = server.address(4) or server.addresses[0]
    return SpeakerConfig(
        local_as=bgp.asn,
        router_id=IPv4Address(int(identity) & 0xFFFF_FFFF),
        local_address=local,
        neighbors=tuple(Neighbor(tor.address, tor.asn, tor.name, password) for tor in rack.tors),
        hold_time_s=bgp.hold_time_s,
        graceful_restart_s=bgp.graceful_restart_s or None,
        listen_port=bgp.listen_port,
    )
