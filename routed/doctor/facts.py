"""What was seen of this server, as values; `Unseen` stands where something could not be observed."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovs_flows.sight import PortSight, SwitchSight
from routed.attach.answers import Device, IPInterface, Neighbour
from routed.attach.hostfacts import Setting
from routed.domain.rack import Server
from routed.domain.workload import IPAddress
from routed.settings import Settings


@dataclass(frozen=True, slots=True)
class Unseen:
    """It could not be observed."""

    why: str


@dataclass(frozen=True, slots=True)
class Network:
    """What the kernel says of the devices that matter."""

    devices: Mapping[str, Device | None]
    """The bridge's own device, the uplink and its members; None for one that does not exist."""
    addresses: tuple[IPInterface, ...]
    """Of the bridge's own device."""
    neighbours: Mapping[IPAddress, Neighbour]
    """Of the bridge's own device."""
    sysctls: tuple[Setting, ...]


@dataclass(frozen=True, slots=True)
class Bond:
    """A bond of the kernel's own driver."""

    mode: str
    """As the driver names it: ``802.3ad``."""
    members: tuple[str, ...]
    partner: str
    """MAC address of the LACP partner; all zeros while there is none, empty in other modes."""
    broadcast_neighbor: bool | None
    """None where the driver does not know it."""


@dataclass(frozen=True, slots=True)
class File:
    """A file, socket or directory that exists."""

    mode: int
    """``st_mode``: type and permissions."""
    uid: int
    writable: bool
    """By whoever runs this."""

    @property
    def root_only(self) -> bool:
        """Whether nobody but root may use it."""
        return self.uid == 0 and not stat.S_IMODE(self.mode) & 0o077


@dataclass(frozen=True, slots=True)
class Files:
    """Files by what they are for; None for one that does not exist."""

    state: File | None
    state_parent: File | None
    """The nearest directory above the state directory that exists."""
    cni_socket: File | None
    ledger: bool | Unseen | None
    """Whether it is one of ours; None when there is none."""
    password: File | None
    password_error: str | None
    """Why the password cannot be read; None when it can, or when there is none to read."""
    cni_bin_dir: Path
    """Where the runtime looks for plugins."""
    iptables: bool | Unseen
    """Whether `portmap` finds it."""
    chain: tuple[Mapping[str, Any], ...] | Unseen | None = None
    """The plugins of the network's configuration, in order; None when there is none."""
    portmap: bool | Unseen | None = None
    """Whether the runtime's `portmap` knows `masqAll`; None when there is none."""
    drained: bool | Unseen = False
    """Whether the mark of a drained server is there."""


@dataclass(frozen=True, slots=True)
class Echo:
    """ICMP echo requests and how many of them were answered."""

    sent: int
    answered: int


@dataclass(frozen=True, slots=True)
class Agent:
    """A running agent's answers."""

    sessions: tuple[Mapping[str, Any], ...]
    """Rows of ``routed show neighbors``."""
    ailment: str | Unseen | None
    """Why it cannot do its work now (/readyz); None when it can."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """Who starts the agent, in commands to type."""

    explain: str
    """Says why it does not run."""
    restart: str
    log: str


SYSTEMD = Keeper(
    explain="`systemctl start routed`; `journalctl -u routed` says why it ended",
    restart="`systemctl restart routed`",
    log="`journalctl -u routed`",
)
KUBELET = Keeper(
    explain="`kubectl --namespace routed logs POD --container agent --previous` says why it ended",
    restart="`kubectl --namespace routed delete pod POD`",
    log="`kubectl --namespace routed logs POD --container agent`",
)
"""POD is the one that this is typed in; Kubernetes makes another in its place."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it."""

    settings: Settings
    server: Server
    root: bool
    """Whether root looked."""
    release: str
    """Of the kernel: ``6.1.0-18-amd64``."""
    drivers: Mapping[str, bool | None]
    """Whether the kernel has a driver, built in or as a module; None when nothing says so."""
    network: Network | Unseen
    bond: Bond | None
    """The uplink, when it is a bond of the kernel's."""
    switch_ids: Mapping[str, str | None]
    """The NIC that each member is a port of; None for one that does not say."""
    switch: SwitchSight | Unseen
    version: str | Unseen
    """Of the switch that answers on the bridge's OpenFlow socket."""
    agent: Agent | Unseen
    files: Files
    echoes: Mapping[IPAddress, Echo | Unseen]
    """By ToR and gateway, as far as this server has an address to ask from."""
    pfs: int = 0
    """PFs whose VFs pods can have; 0 where they are to be left alone."""
    keeper: Keeper = SYSTEMD

    @property
    def uplink(self) -> PortSight | None:
        """The uplink's port on the bridge."""
        if isinstance(self.switch, Unseen) or self.switch.bridge is None:
            return None
        return self.switch.bridge.ports.get(self.settings.uplink)

    @property
    def strangers(self) -> Mapping[str, PortSight]:
        """The bridge's ports that are neither ours nor the uplink's."""
        if isinstance(self.switch, Unseen) or self.switch.bridge is None:
            return {}
        own = (self.settings.bridge.name, self.settings.bridge.uplink)
        return {name: port for name, port in self.switch.bridge.ports.items() if not port.ours and name not in own}

    @property
    def members(self) -> tuple[str, ...]:
        """The devices that this server goes out by."""
        return members(self.settings, self.bond, self.switch)


def members(settings: Settings, bond: Bond | None, switch: SwitchSight | Unseen) -> tuple[str, ...]:
    """Return the uplink's devices: those of the rack file, else the bond's, else the uplink itself."""
    uplink = settings.uplink
    if settings.members or bond is not None:
        return settings.members or (bond.members if bond is not None else ())
    if not isinstance(switch, Unseen) and switch.bridge is not None and uplink in switch.bridge.ports:
        return tuple(interface.name for interface in switch.bridge.ports[uplink].interfaces)
    return (uplink,)


def permissions(file: File) -> str:
    """Return ``0644, owner 0``."""
    return f"{stat.S_IMODE(file.mode):04o}, owner {file.uid}"


def ledger_path(settings: Settings) -> Path:
    """Return where the ledger is."""
    return settings.paths.state / "ledger.db"
