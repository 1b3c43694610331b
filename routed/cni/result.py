"""CNI results: what ADD answers with and what prevResult brings back, in every version of the protocol.

Owns the records and their two conversions, to and from JSON values; never does I/O. CNI 1.1.0 "ADD Success" has the
keys; the versions differ in little: 1.1.0 added those of `ADDED_IN_1_1`, 0.x also names the family of each address.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from routed.cni.errors import InvalidConfig

ADDED_IN_1_1 = {
    "interfaces": {"mtu", "socketPath", "pciID"},
    "routes": {"mtu", "advmss", "priority", "table", "scope"},
}
"""Keys that older versions do not have, by the list whose entries hold them."""


def _spelled(value: object) -> object:
    """Refuse what `ipaddress` would take and the specification does not: numbers and bytes as addresses."""
    if isinstance(value, int | bytes):
        raise ValueError("must be a string")  # noqa: TRY004 - pydantic reports ValueError, it lets TypeError through
    return value


def _with_length(value: object) -> object:
    """Refuse a prefix without its length: it would silently become a host's."""
    if isinstance(value, str) and "/" not in value:
        raise ValueError("must be in CIDR notation")
    return _spelled(value)


Address = Annotated[IPv4Address | IPv6Address, BeforeValidator(_spelled)]
Cidr = Annotated[IPv4Interface | IPv6Interface, BeforeValidator(_with_length)]
Prefix = Annotated[IPv4Network | IPv6Network, BeforeValidator(_with_length)]
Unsigned = Annotated[int, Field(ge=0, le=2**32 - 1, strict=True)]


class Record(BaseModel):
    """A JSON object; keys that it does not know are another version's or another plugin's, null means absent."""

    model_config = ConfigDict(frozen=True, extra="ignore", validate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _absent(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return {key: entry for key, entry in value.items() if entry is not None}
        return value


class Interface(Record):
    """One end of what was created."""

    name: str
    mac: str = ""
    mtu: Unsigned | None = None
    sandbox: str = ""
    """Path of the network namespace, as CNI_NETNS named it; empty on the host."""
    socket_path: str = Field(default="", validation_alias="socketPath", serialization_alias="socketPath")
    pci_id: str = Field(default="", validation_alias="pciID", serialization_alias="pciID")


class IP(Record):
    """An address that was assigned."""

    address: Cidr
    gateway: Address | None = None
    interface: Unsigned | None = None
    """Index into the result's interfaces."""


class Route(Record):
    """A route that was created."""

    dst: Prefix
    gw: Address | None = None
    mtu: Unsigned | None = None
    advmss: Unsigned | None = None
    priority: Unsigned | None = None
    table: Unsigned | None = None
    scope: Unsigned | None = None


class Dns(Record):
    """Resolver settings."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class Result(Record):
    """What an ADD made, or what the plugins before and including it made."""

    interfaces: tuple[Interface, ...] = ()
    """The host's end first, then the pod's."""
    ips: tuple[IP, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = Dns()

    @model_validator(mode="after")
    def _indexed(self) -> Result:
        for ip in self.ips:
            if ip.interface is not None and ip.interface >= len(self.interfaces):
                raise ValueError(f"ips: {ip.address} is on interface {ip.interface} of {len(self.interfaces)}")
        return self


def encode(result: Result, version: str) -> dict[str, Any]:
    """Return the JSON object that `version` of the protocol has for this result; what it cannot say is left out."""
    document: dict[str, Any] = {"cniVersion": version}
    document |= result.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    if version != "1.1.0":
        for section, keys in ADDED_IN_1_1.items():
            for entry in document.get(section, ()):
                for key in keys & entry.keys():
                    del entry[key]
    if version.startswith("0."):
        for entry, ip in zip(document.get("ips", ()), result.ips, strict=True):
            entry["version"] = str(ip.address.version)
    return document


def decode(document: object) -> Result:
    """Return the result that a JSON object of any supported version stands for; InvalidConfig says what is wrong."""
    try:
        return Result.model_validate(document)
    except ValidationError as error:
        raise InvalidConfig(f"prevResult: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """Return the first thing that a validation found, with the key that it found it at."""
    first = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}".removeprefix(": ")


def chain(previous: Result | None, own: Result) -> Result:
    """Return what a plugin answers that was given `previous`: all of it, then its own (CNI 1.1.0 "ADD Success")."""
    if previous is None:
        return own
    offset = len(previous.interfaces)
    moved = (
        ip if ip.interface is None else ip.model_copy(update={"interface": ip.interface + offset}) for ip in own.ips
    )
    return Result(
        interfaces=previous.interfaces + own.interfaces,
        ips=(*previous.ips, *moved),
        routes=previous.routes + own.routes,
        dns=own.dns if own.dns != Dns() else previous.dns,
    )


def differences(expected: Result, observed: Result) -> tuple[str, ...]:
    """Return what CHECK complains about, one sentence each; empty when all is as it should be.

    Args:
        expected: prevResult; it may hold what other plugins of the chain made, and routes that they changed.
        observed: what this plugin made, as it is now.
    """
    wanted = {(interface.name, interface.sandbox): interface for interface in expected.interfaces}
    found = []
    for interface in observed.interfaces:
        key = (interface.name, interface.sandbox)
        before = wanted.get(key)
        if before is None:
            found.append(f"interface {interface.name} is not in prevResult")
            continue
        if before.mac and interface.mac and before.mac.lower() != interface.mac.lower():
            found.append(f"interface {interface.name} has MAC {interface.mac}, prevResult says {before.mac}")
        was, now = _addresses(expected, key), _addresses(observed, key)
        found += [f"address {address} is missing from {interface.name}" for address in sorted(was - now)]
        found += [f"address {address} of {interface.name} is not in prevResult" for address in sorted(now - was)]
    return tuple(found)


def _addresses(result: Result, key: tuple[str, str]) -> set[str]:
    """Return the addresses on the interface of this name and sandbox."""
    held = {index for index, one in enumerate(result.interfaces) if (one.name, one.sandbox) == key}
    return {str(ip.address) for ip in result.ips if ip.interface in held}
