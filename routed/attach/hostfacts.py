"""What this server looks like, for the agent and for ``routed doctor``: reads, judges little, changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from routed.attach import sysctl
from routed.attach.answers import Device, IPInterface
from routed.attach.kernel import Rtnl

_BONDING = "/sys/class/net/{}/bonding/broadcast_neighbor"


@dataclass(frozen=True, slots=True)
class Setting:
    """A kernel setting and what it should be."""

    name: str
    """Below ``net``: ``ipv4/ip_forward``."""
    value: str | None
    """None when this kernel does not have it."""
    wanted: tuple[str, ...]
    """Any of these will do."""
    why: str

    @property
    def good(self) -> bool:
        """Whether it is as it should be."""
        return self.value in self.wanted


def device(name: str) -> Device | None:
    """Return one device: its MAC, MTU, whether it is up and has carrier."""
    with Rtnl() as home:
        return home.device(name)


def devices(names: Iterable[str]) -> dict[str, Device | None]:
    """Return several devices by name, such as a bond's members; None for one that does not exist."""
    with Rtnl() as home:
        return {name: home.device(name) for name in names}


def addresses(name: str) -> list[IPInterface] | None:
    """Return a device's addresses, link-local ones left out; None when there is no such device."""
    with Rtnl() as home:
        found = home.device(name)
        return None if found is None else home.addresses(found.index)


def broadcast_neighbor(bond: str) -> bool | None:
    """Whether the bonding driver sends ARP and ND out of all members; None where it cannot or there is no such bond."""
    try:
        return Path(_BONDING.format(bond)).read_text().split()[0] in ("on", "1")
    except (FileNotFoundError, NotADirectoryError, IndexError):
        return None


def settings(bridge: str) -> tuple[Setting, ...]:
    """Return the kernel settings that the host side of the data path depends on.

    rp_filter and send_redirects count per device and for all: the larger value of the two holds
    (Documentation/networking/ip-sysctl.rst).
    """
    forward = _setting("ipv4/ip_forward", ("1",), "service traffic enters and leaves through the bridge device")
    scopes = ("all", bridge)
    return (
        forward,
        *(
            _setting(f"ipv4/conf/{scope}/rp_filter", ("0", "2"), "pods' packets arrive where no route points")
            for scope in scopes
        ),
        *(
            _setting(f"ipv4/conf/{scope}/send_redirects", ("0",), "pods must not be told to go around the host")
            for scope in scopes
        ),
    )


def _setting(name: str, wanted: tuple[str, ...], why: str) -> Setting:
    return Setting(name, sysctl.read(name), wanted, why)
