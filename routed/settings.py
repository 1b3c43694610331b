"""The rack file: read, validated, turned into the domain's values.

One YAML file describes a rack and is the same on all of its servers; `rack.example.yaml` shows every key. This module
converts and checks; it decides nothing.
"""

from __future__ import annotations

from difflib import get_close_matches
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from routed.domain.rack import FlatNetwork, Rack, Server, Subnet, Tor
from routed.errors import MendableError
from routed.torconfig.settings import FabricSettings

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
Asn = Annotated[int, Field(ge=1, le=2**32 - 1)]
_S = TypeVar("_S", bound=BaseModel)
Port = Annotated[int, Field(ge=1, le=65535)]
Vlan = Annotated[int, Field(ge=1, le=4094)]


class SettingsError(MendableError):
    """The rack file cannot be used; the message names the file and the key."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TorSettings(_Section):
    """One switch of the stackless pair."""

    name: str
    asn: Asn
    address: IPAddress
    """Its own loopback; the common gateway address cannot be a neighbour's."""


class SubnetSettings(_Section):
    """A prefix behind the rack's gateway."""

    prefix: IPNetwork
    gateway: IPAddress

    @model_validator(mode="after")
    def _gateway_inside(self) -> Self:
        if self.gateway.version != self.prefix.version or self.gateway not in self.prefix:
            raise ValueError(f"gateway {self.gateway} is not in {self.prefix}")
        return self


class PoolSettings(SubnetSettings):
    """A prefix that pods get addresses of."""

    reserved: tuple[IPNetwork, ...] = ()
    """Never handed out, besides the network, broadcast and gateway addresses."""


class ServerSettings(_Section):
    """One server of the rack."""

    addresses: tuple[IPAddress, ...] = Field(min_length=1, max_length=2)
    owns: tuple[IPNetwork, ...] | None = None
    """Its share of the pools; None for all of them."""

    @model_validator(mode="after")
    def _one_per_family(self) -> Self:
        if len({address.version for address in self.addresses}) != len(self.addresses):
            raise ValueError("at most one address per family")
        return self


class BgpSettings(_Section):
    """The speaker."""

    asn: Asn
    hold_time_s: int = Field(default=9, ge=3, le=3600)
    graceful_restart_s: int = Field(default=30, ge=0, le=4095)
    """How long the ToRs keep the routes of a speaker that is away; 0 turns graceful restart off."""
    password_file: Path | None = None
    """One line: the TCP MD5 secret of both sessions."""
    listen_port: Port | None = 179
    """None: only connect outwards."""


class VfPolicy(StrEnum):
    """Which pods get a VF of the uplink's NIC."""

    REQUESTED = "requested"
    """Those that were given one by a device plugin."""
    ALL = "all"
    """Every pod, as long as there are some: no device plugin is needed."""
    NEVER = "never"
    """None; VFs and representors are left alone."""


class LegacySettings(_Section):
    """A flat network whose pods are on the bridge until they have moved (docs/migration.md)."""

    vlans: tuple[Vlan, ...] = Field(min_length=1)
    """Its tags. Ports in one of them, and ports that tag for themselves, are switched as before; others are denied."""
    prefixes: tuple[IPNetwork, ...] = Field(min_length=1)
    """What its pods may send from."""


class BridgeSettings(_Section):
    """The Open vSwitch bridge that pods are plugged into."""

    name: str = Field(default="br0", max_length=15)
    uplink: str = Field(default="bond0", max_length=15)
    """An OVS port: a NIC, a kernel bond or an OVS bond."""
    members: tuple[str, ...] = ()
    """Devices of the bond, one to each ToR in the order of `tors`; the uplink itself when empty."""
    ready_slots: int = Field(default=32, ge=0, le=1024)
    """Slots kept plugged beyond those in use; 0: a pod waits until its own is plugged."""
    vfs: VfPolicy = VfPolicy.REQUESTED
    legacy: LegacySettings | None = None
    """None: whoever else is on the bridge is cut off."""
    offload: Literal["hardware", "tc-software"] | None = None
    """Where pods' packets have to be forwarded, at the slowest: CHECK and an alert say so when they are not."""


class IpvlanSettings(_Section):
    """The uplink that pods share, on a server without a bridge."""

    uplink: str = Field(max_length=15)
    """A NIC, a bond of the kernel, or a VLAN device on one; it has the server's own addresses."""
    members: tuple[str, ...] = ()
    """Devices of the bond, one to each ToR in the order of `tors`; the uplink itself when empty."""
    ready_slots: int = Field(default=32, ge=1, le=1024)
    """Pairs of devices kept ready beyond those in use."""


class SteeringSettings(_Section):
    """What happens while this server reaches only one of the two ToRs."""

    community: Annotated[str, Field(pattern=r"^[0-9]{1,10}(:[0-9]{1,10}){1,2}$")] = "65000:911"
    """What the ToRs' route policy takes for: export this host route through the spines."""
    hold_s: float = Field(default=3.0, gt=0)
    """How long a side that failed has to be well before it is trusted again."""
    longest_hold_s: float = Field(default=60.0, gt=0)
    """What this time grows to, doubled each time that a side fails again soon after it was trusted."""
    probe_s: float | None = Field(default=0.2, ge=0.01)
    """Time between two questions for the gateway out of each member; None to go by carrier and LACP alone."""


class IpamSettings(_Section):
    """Address management."""

    cooldown_s: float = Field(default=60.0, ge=0)
    """How long a freed address rests before it is used again."""


class CniSettings(_Section):
    """The socket behind the CNI plugin."""

    socket: Path = Path("/run/routed/cni.sock")
    queue: Path = Path("/var/lib/routed/queue")
    deadline_s: float = Field(default=20.0, gt=0)
    """How long an ADD or DEL may take before it fails."""


class PathSettings(_Section):
    """Where files live."""

    state: Path = Path("/var/lib/routed")
    run: Path = Path("/run/routed")
    ovs: Path = Path("/run/openvswitch")
    sysfs: Path = Path("/sys")
    """Where VFs are looked for; another one is for tests, whose devices are no hardware."""


class MetricsSettings(_Section):
    """The HTTP endpoint: metrics and health."""

    address: IPAddress = IPv4Address("127.0.0.1")
    """Where it listens; another one than loopback is for a Prometheus elsewhere."""
    port: Port = 9201


class KubernetesSettings(_Section):
    """Leases of addresses on the Kubernetes API, instead of shares in this file."""

    kubeconfig: Path | None = None
    """None: the agent runs in a pod, with a service account."""
    stock_low: int = Field(default=8, ge=0)
    """With fewer unused leases, this server gets more."""
    stock_high: int = Field(default=32, ge=0)
    """With more, it gives some back."""
    reclaim_after_s: float = Field(default=600.0, gt=0)
    """How long the Node of a server has to be gone before others may have its addresses."""
    sticky_wait_s: float = Field(default=120.0, ge=0)
    """How long a sticky pod waits for the address that it had on another server, where it has to cool down first."""

    @model_validator(mode="after")
    def _marks_in_order(self) -> Self:
        if self.stock_low > self.stock_high:
            raise ValueError(f"stock_low ({self.stock_low}) must not exceed stock_high ({self.stock_high})")
        return self


class SriovSettings(_Section):
    """VFs that a device plugin of the kubelet's hands out."""

    resources: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9*?\[\].-]+/[A-Za-z0-9*?\[\]._-]+$")], ...] = ()
    """Names of resources, or patterns as in a shell, whose devices become the pods' interfaces.

    With any, the kubelet is asked which VF it gave a pod, unless whoever called us said so.
    """
    pod_resources: Path = Path("/var/lib/kubelet/pod-resources/kubelet.sock")
    """The kubelet's socket."""


class Settings(_Section):
    """A whole rack file."""

    rack: str = Field(min_length=1)
    tors: tuple[TorSettings, ...] = Field(min_length=1, max_length=2)
    hosts: tuple[SubnetSettings, ...] = Field(min_length=1, max_length=2)
    pools: tuple[PoolSettings, ...] = Field(min_length=1)
    servers: dict[str, ServerSettings] = Field(min_length=1)
    services: tuple[IPNetwork, ...] = ()
    vlan: Vlan | None = None
    resync_s: float = Field(default=10.0, gt=0)
    """Time between two full looks at every plane."""
    bgp: BgpSettings
    bridge: BridgeSettings = BridgeSettings()
    ipvlan: IpvlanSettings | None = None
    """Instead of a bridge, where it is given."""
    steering: SteeringSettings | None = None
    """None where the ToRs' route policy knows of no steering."""
    ipam: IpamSettings = IpamSettings()
    cni: CniSettings = CniSettings()
    paths: PathSettings = PathSettings()
    metrics: MetricsSettings = MetricsSettings()
    sriov: SriovSettings = SriovSettings()
    kubernetes: KubernetesSettings | None = None
    """Only in what an agent composes of a Rack and its own file: the API server grants the leases then."""
    fabric: FabricSettings | None = None
    """What `routed tor-config` needs; agents ignore it."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if 0 < self.ipam.cooldown_s < self.bgp.graceful_restart_s:
            raise ValueError(
                f"ipam.cooldown_s ({self.ipam.cooldown_s:g}) must not be shorter than bgp.graceful_restart_s "
                f"({self.bgp.graceful_restart_s}): a ToR may still send to a dead pod's server that long"
            )
        if len({tor.address for tor in self.tors}) != len(self.tors):
            raise ValueError("tors: two neighbours have the same address; use each ToR's own loopback")
        if len({tor.name for tor in self.tors}) != len(self.tors):
            raise ValueError("tors: two have the same name")
        if len({subnet.prefix.version for subnet in self.hosts}) != len(self.hosts):
            raise ValueError("hosts: at most one subnet per family")
        if self.ipvlan is not None and "bridge" in self.model_fields_set:
            raise ValueError("bridge, ipvlan: pods are plugged into a bridge or share an uplink; leave one of them out")
        if self.steering is not None and len(self.members) != len(self.tors):
            raise ValueError(
                f"steering: {'bridge' if self.ipvlan is None else 'ipvlan'}.members must name one device per ToR, in "
                f"the order of tors: there are {len(self.tors)} ToRs and {len(self.members)} members"
            )
        if self.sriov.resources and self.bridge.vfs is VfPolicy.NEVER:
            raise ValueError("sriov.resources: pods are to have VFs of those, but bridge.vfs is `never`")
        self._check_servers()
        self._check_pools()
        self._check_legacy()
        return self

    def _check_servers(self) -> None:
        taken = {host.gateway: "the gateway" for host in self.hosts}
        for name, server in self.servers.items():
            for address in server.addresses:
                if not any(address.version == host.prefix.version and address in host.prefix for host in self.hosts):
                    raise ValueError(f"servers.{name}.addresses: {address} is in no subnet of hosts")
                if address in taken:
                    raise ValueError(f"servers.{name}.addresses: {address} is taken by {taken[address]}")
                taken[address] = f"server {name}"

    def _check_pools(self) -> None:
        for number, pool in enumerate(self.pools):
            for host in self.hosts:
                if host.prefix.version == pool.prefix.version and host.prefix.overlaps(pool.prefix):
                    raise ValueError(f"pools[{number}].prefix: {pool.prefix} overlaps {host.prefix} of hosts")
            for tor in self.tors:
                if tor.address.version == pool.prefix.version and tor.address in pool.prefix:
                    raise ValueError(f"pools[{number}].prefix: {pool.prefix} holds {tor.name}'s own {tor.address}")

    def _check_legacy(self) -> None:
        legacy = self.bridge.legacy
        if legacy is None:
            return
        if self.vlan in legacy.vlans:
            raise ValueError(f"bridge.legacy.vlans: {self.vlan} is this rack's own vlan; routed needs another")
        ours = [
            *(("pools", pool.prefix) for pool in self.pools),
            *(("hosts", host.prefix) for host in self.hosts),
            *(("services", service) for service in self.services),
        ]
        for prefix in legacy.prefixes:
            for kind, own in ours:
                if own.version == prefix.version and own.overlaps(prefix):
                    raise ValueError(f"bridge.legacy.prefixes: {prefix} overlaps {own} of {kind}: routed needs its own")

    @property
    def device(self) -> str:
        """The device that has the server's own addresses."""
        return self.bridge.name if self.ipvlan is None else self.ipvlan.uplink

    @property
    def uplink(self) -> str:
        """What leads to the ToRs: a NIC or a bond."""
        return self.bridge.uplink if self.ipvlan is None else self.ipvlan.uplink

    @property
    def members(self) -> tuple[str, ...]:
        """The uplink's devices, as far as the file names them."""
        return self.bridge.members if self.ipvlan is None else self.ipvlan.members

    @property
    def vfs(self) -> VfPolicy:
        """Which pods get a VF; on a server without a bridge none does."""
        return self.bridge.vfs if self.ipvlan is None else VfPolicy.NEVER

    @property
    def control_socket(self) -> Path:
        """Where the agent listens for `routed show` and `routed drain`."""
        return self.paths.run / "control.sock"

    @property
    def drain_mark(self) -> Path:
        """The file that is there while the server is drained."""
        return self.paths.state / "drained"

    def domain_rack(self) -> Rack:
        """Return the rack as the domain knows it."""
        legacy = self.bridge.legacy
        return Rack(
            name=self.rack,
            tors=tuple(Tor(tor.name, tor.asn, tor.address) for tor in self.tors),
            hosts=tuple(Subnet(host.prefix, host.gateway) for host in self.hosts),
            pools=tuple(Subnet(pool.prefix, pool.gateway) for pool in self.pools),
            services=self.services,
            vlan=self.vlan,
            steering=self.steering.community if self.steering is not None else None,
            flat=None if legacy is None else FlatNetwork(legacy.vlans, legacy.prefixes),
        )

    def domain_server(self, name: str) -> Server:
        """Return the server called `name`; SettingsError when the file does not list it."""
        found = self.servers.get(name)
        if found is None:
            listed = ", ".join(sorted(self.servers))
            raise SettingsError(f"server {name!r} is not in the rack file (it lists {listed}); name it with --server")
        return Server(name=name, asn=self.bgp.asn, addresses=found.addresses)

    def unreachable_pools(self, name: str) -> tuple[IPNetwork, ...]:
        """Return the pools of a family that a server has no address of: what it announced would have no next hop."""
        versions = {address.version for address in self.servers[name].addresses}
        return tuple(pool.prefix for pool in self.pools if pool.prefix.version not in versions)


class LocalSettings(BaseModel):
    """A server's own file where Racks are objects of the Kubernetes API: what else it says is checked with the Rack."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kubernetes: KubernetesSettings
    paths: PathSettings = PathSettings()

    @property
    def rack_file(self) -> Path:
        """Where the agent writes what Rack, Node and this file amount to: a rack file for the other commands."""
        return self.paths.run / "composed-rack.yaml"


def load(path: Path) -> Settings:
    """Read and validate a rack file; SettingsError says what is wrong with which key.

    A server's own file stands for the rack file that its agent wrote last.
    """
    document = read(path)
    if not is_local(document):
        return validated(document, str(path))
    rack_file = local(document, str(path)).rack_file
    if not rack_file.exists():
        raise SettingsError(f"{path}: the rack is an object of the Kubernetes API, and no agent has found it here yet")
    return validated(read(rack_file), str(rack_file))


def read(path: Path) -> Any:
    """Return what a file says, unchecked; SettingsError when it cannot be read."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not YAML: {error}") from error


def is_local(document: Any) -> bool:
    """Whether this is a server's own file, not a rack file."""
    return isinstance(document, dict) and "kubernetes" in document and "rack" not in document


def local(document: Any, source: str) -> LocalSettings:
    """Return a server's own file, checked as far as that goes without a Rack; SettingsError as `validated`."""
    return checked(LocalSettings, document, source)


def validated(document: Any, source: str) -> Settings:
    """Return a rack file's content, checked; SettingsError names the source and what is wrong with which key."""
    return checked(Settings, document, source)


def checked(kind: type[_S], document: Any, source: str) -> _S:
    """Return a document as one of these models; SettingsError names the source and what is wrong with which key."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        problems = "\n".join(f"  {_key(item['loc'])}: {_problem(item, kind)}" for item in error.errors())
        raise SettingsError(f"{source}: {error.error_count()} problem(s)\n{problems}") from error


def _problem(item: ErrorDetails, kind: type[BaseModel]) -> str:
    """Return what is wrong with a key; of one that is not known, which one may be meant."""
    if item["type"] != "extra_forbidden":
        return item["msg"]
    like = get_close_matches(str(item["loc"][-1]), sorted(_names(kind)), n=1)
    return f"unknown key; did you mean {like[0]}?" if like else "unknown key"


def _names(kind: Any) -> set[str]:
    """Return every key of a model and of the models in it, however deep."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        inner = (_names(one.annotation) for one in kind.model_fields.values())
        return set(kind.model_fields).union(*inner)
    return set[str]().union(*map(_names, get_args(kind)))


def _key(location: tuple[int | str, ...]) -> str:
    """Return ``pools[1].gateway`` for ("pools", 1, "gateway"), without the union members that pydantic names."""
    parts = [part for part in location if not (isinstance(part, str) and part.startswith(("IPv4", "IPv6")))]
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")
    return text or "the file"
