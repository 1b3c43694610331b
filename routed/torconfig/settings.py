"""The `fabric:` section, of the rack file or of a file of its own: what only the ToRs' configuration needs to know.

Agents ignore it. Everything in it is optional: what is missing becomes a marked placeholder in the rendered text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Annotated, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

T = TypeVar("T", bound=Hashable)
IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface
Asn = Annotated[int, Field(ge=1, le=2**32 - 1)]
Interface = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^\S+$")]


def _repeated(values: Iterable[T]) -> list[T]:
    """Return what is there more than once."""
    return [value for value, times in Counter(values).items() if times > 1]


def _unicast(mac: str) -> str:
    """Return the address in lower case; ValueError for a group address or none at all."""
    if int(mac[:2], 16) & 1:
        raise ValueError(f"{mac} is a group address")
    if not mac.replace(":", "").strip("0"):
        raise ValueError(f"{mac} is nobody's address")
    return mac.lower()


Mac = Annotated[str, Field(pattern=r"^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$"), AfterValidator(_unicast)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GatewaySettings(_Section):
    """The interface that holds the rack's gateway addresses, on both ToRs."""

    interface: Interface | None = None
    """In the vendor's spelling: Vlan10, irb.10, irb0.10, vlan10."""
    mac: Mac | None = None
    """The same on both ToRs, so that a server does not care which of them answers."""


class LacpSettings(_Section):
    """What makes two independent switches one LACP partner for a server's bond."""

    system_id: Mac | None = None
    """The same on both ToRs."""
    keys: dict[str, Annotated[int, Field(ge=1, le=999)]] = {}
    """Server -> port channel number, which is the LACP key: the same on both ToRs, different for every server."""

    @model_validator(mode="after")
    def _one_key_per_server(self) -> Self:
        for key in _repeated(self.keys.values()):
            raise ValueError(f"keys: two servers have {key}; their links would become one bond")
        return self


class UplinkSettings(_Section):
    """A ToR's link to a spine."""

    spine: str
    asn: Asn
    """The spine's."""
    interface: Interface
    """The ToR's end."""
    addresses: tuple[IPInterface, ...] = Field(min_length=1, max_length=2)
    """The ToR's end, with prefix lengths."""
    peers: tuple[IPAddress, ...] = Field(min_length=1, max_length=2)
    """The spine's end, one BGP session each; IPv6 routes go over the IPv4 session when there is no other."""

    @model_validator(mode="after")
    def _on_one_link(self) -> Self:
        for what, found in (("addresses", self.addresses), ("peers", self.peers)):
            for version in _repeated(entry.version for entry in found):
                raise ValueError(f"{what}: at most one of IPv{version}")
        for peer in self.peers:
            mine = [address for address in self.addresses if peer in address.network]
            if not mine:
                raise ValueError(f"peers: {peer} is in no subnet of addresses")
            if peer == mine[0].ip:
                raise ValueError(f"peers: {peer} is this ToR's own end")
        return self


class TorFabricSettings(_Section):
    """One ToR's own wiring."""

    router_id: IPv4Address | None = None
    """Needed only for a loopback that is an IPv6 address."""
    uplinks: tuple[UplinkSettings, ...] = ()
    ports: dict[str, Interface] = {}
    """Server -> the ToR's port towards it."""

    @model_validator(mode="after")
    def _one_use_per_interface(self) -> Self:
        for interface in _repeated([*(uplink.interface for uplink in self.uplinks), *self.ports.values()]):
            raise ValueError(f"{interface} is named twice")
        for peer in _repeated(peer for uplink in self.uplinks for peer in uplink.peers):
            raise ValueError(f"uplinks: two have the peer {peer}")
        return self


class FabricSettings(_Section):
    """What a ToR's configuration says beyond what the agents know."""

    gateway: GatewaySettings = GatewaySettings()
    lacp: LacpSettings = LacpSettings()
    tors: dict[str, TorFabricSettings] = {}
    maximum_routes: int | None = Field(default=None, ge=1)
    """Routes that a ToR takes from one server, per family, before it closes the session; None for a tenth more than the
    rack's IPv4 pools have, rounded up to hundreds."""
    maximum_routes_restart_min: int = Field(default=1, ge=1, le=1440)
    """How long such a session stays closed."""
    uplink_delay_s: int = Field(default=5, ge=0, le=300)
    """How long the way to the spines must be back before server ports come up."""
    bfd_interval_ms: int = Field(default=300, ge=50, le=5000)
    """Between ToR and spine; three misses are a failure."""


class FabricFile(_Section):
    """A file with this section alone, for a rack whose other settings are objects of the Kubernetes API."""

    fabric: FabricSettings
