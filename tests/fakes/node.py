"""A server without a network: real ledger, store, loop and verbs over planes that are dictionaries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

from ipam.leases import EmbeddedLeases
from ipam.ledger import Ledger
from ipam.model import Pool
from ovs_flows.offload import Layer, PortReport
from routed import views
from routed.attach.errors import InvalidNetns
from routed.audit.model import Finding, Unobserved
from routed.cni.protocol import AttachmentRequest, Command, Config
from routed.devices import Devices
from routed.domain.intent import PLANES, Owner, owners, plan
from routed.domain.rack import Rack, Server, Subnet, Tor, Uplink
from routed.domain.workload import Attachment, AttachmentId, PodRef, Wishes
from routed.kube.leases import LeaseState
from routed.kube.podresources import Kubelet
from routed.reconcile.loop import Loop
from routed.residents import devices_of
from routed.settings import VfPolicy
from routed.store import Store
from routed.telemetry import Telemetry
from routed.verbs import Verbs
from tests.fakes.plane import DictPlane

POOL = Pool(ip_network("10.101.0.0/28"), ip_address("10.101.0.1"))
RACK = Rack(
    "r1",
    tors=(Tor("r1a", 65011, ip_address("10.255.1.1")), Tor("r1b", 65012, ip_address("10.255.1.2"))),
    hosts=(Subnet(ip_network("10.1.0.0/24"), ip_address("10.1.0.1")),),
    pools=(Subnet(POOL.prefix, POOL.gateway),),
)
SERVER = Server("s11", 65500, (ip_address("10.1.0.11"),))
UPLINK = Uplink((1,), ("bond0",), "02:10:00:00:01:0b", "02:00:00:00:01:01", 1500)


class Node:
    """Planes are attributes by their names; `finishing` holds up the freeing of addresses while it is clear."""

    def __init__(self, path: Path, *, deadline_s: float = 5.0, vfs: VfPolicy = VfPolicy.REQUESTED) -> None:
        self.planes = {name: DictPlane(name) for name in PLANES}
        self.finishing = asyncio.Event()
        self.finishing.set()
        self.wishes: dict[PodRef, Wishes] = {}
        """What pods ask for."""
        self.shortfalls: dict[AttachmentId, str] = {}
        self.away: set[str] = set()
        """VFs whose network device is somewhere else."""
        self.kubelet: Kubelet | None = None
        self.ledger = Ledger(path / "ledger.db", (POOL,), EmbeddedLeases((POOL,)))
        self.store = Store(
            self.ledger,
            rack=RACK,
            server=SERVER,
            uplink=UPLINK,
            ready_slots=2,
            on_change=lambda changed: self.loop.touch(*changed),
        )
        self.loop: Loop[Owner] = Loop(
            [(plane,) for plane in self.planes.values()],
            owners=lambda: owners(self.store.snapshot),
            plan=lambda owner: plan(self.store.snapshot, owner),
            finish=self._finish,
            is_permanent=lambda error: isinstance(error, InvalidNetns),
            resync_s=3600,
        )
        self.telemetry = Telemetry()
        self.leases: LeaseState | None = None
        """What the API server grants; None: this server has its share without it."""
        self.verbs = Verbs(
            self.store,
            self.loop,
            self.telemetry,
            ailment=lambda: views.ailment(self.store.snapshot, self.loop),
            wishes=self._wishes_of,
            devices=Devices(
                self.store,
                vfs,
                is_idle=self._is_idle,
                allocated=lambda pod: devices_of(self.kubelet, pod),
            ),
            shortfall=self._shortfall_of,
            deadline_s=deadline_s,
        )

    async def _is_idle(self, address: str) -> bool:
        await asyncio.sleep(0)  # others go on meanwhile
        return address not in self.away

    async def _wishes_of(self, pod: PodRef) -> Wishes:
        return self.wishes.get(pod, Wishes())

    async def _shortfall_of(self, attachment: Attachment) -> str | None:
        return self.shortfalls.get(attachment.id)

    async def _finish(self, owner: Owner) -> None:
        attachment = self.store.snapshot.attachments.get(owner) if isinstance(owner, AttachmentId) else None
        if attachment is not None and attachment.leaving:
            await self.finishing.wait()
            await self.store.forget(attachment.id)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Node]:
        task = asyncio.create_task(self.loop.run())
        try:
            await self.loop.settled()
            yield self
        finally:
            task.cancel()
            await asyncio.wait([task])
            self.store.close()
            self.ledger.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.001)

    def metrics(
        self,
        findings: Sequence[Finding] | Unobserved = (),
        offload: Mapping[str, PortReport] | None = None,
        wanted: Layer | None = None,
    ) -> dict[str, float]:
        """Return samples by name and labels, as the exposition text spells them."""
        lines = self._exposition(findings, offload, wanted)
        rows = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in rows}

    def metric_names(self) -> set[str]:
        """Return the names of all metrics, those without a sample so far included."""
        types = (line.split()[2:] for line in self._exposition() if line.startswith("# TYPE"))
        parts = {"histogram": ("_bucket", "_count", "_sum")}
        return {name + part for name, kind in types for part in parts.get(kind, ("",))}

    def _exposition(
        self,
        findings: Sequence[Finding] | Unobserved = (),
        offload: Mapping[str, PortReport] | None = None,
        wanted: Layer | None = None,
    ) -> list[str]:
        snapshot, usage = self.store.snapshot, self.store.usage()
        text = self.telemetry.render(
            snapshot,
            self.loop,
            usage,
            {},
            {},
            state=self.leases,
            offload=offload,
            wanted=wanted,
            findings=findings,
        )
        return text.decode().splitlines()


def key(number: int) -> AttachmentId:
    return AttachmentId(f"c{number}", "eth0")


def call(command: Command, number: int = 1) -> AttachmentRequest:
    config = Config(name="rack", version="1.1.0")
    pod = PodRef("shop", f"cart-{number}", f"u{number}")
    return AttachmentRequest(command, config, key(number), f"/run/netns/cart-{number}", pod)
