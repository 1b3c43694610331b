"""Address objects: one per leased address, whose name is the address. Pure.

Creating an object of a name that is taken fails, so the API server gives an address to one server at most. For that to
hold, an address must have exactly one name: IPv4 stands as it is; IPv6, whose colons no name may have, as its eight
groups in lower-case hexadecimal without leading zeros, joined by hyphens, and never shortened (fd00-101-0-0-0-0-0-5).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from ipam.model import IPAddress, Pod
from routed.kube.api import Document
from routed.kube.errors import Malformed

RACK_LABEL = "routed.dev/rack"
CONFIRMED = "routed.dev/confirmed"
"""Annotation: a random word of the owner, written when it took up an object that it did not expect."""

STICKY = "routed.dev/sticky"
"""Annotation: namespace and name of the pod that the address is kept for, also while there is no such pod."""
WANTED = "routed.dev/wanted"
"""Annotation: names of addresses that the owner's pods wait for; whoever does not use them gives them up."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A server's right to an address, as the API holds it."""

    address: IPAddress
    node: str = ""
    """The server's Node; empty when the object does not say."""
    node_uid: str = ""
    uid: str = ""
    """The object's own; empty for one that was never stored."""
    version: str = ""
    """The object's resource version; empty when the object was not read in this run of the agent."""
    pod: Pod | None = None
    """Who uses the address, for people."""
    sticky: str = ""
    """The pod that the address is kept for, as `pod_key` spells it."""
    wanted: tuple[IPAddress, ...] = ()
    """What the owner would like to have of what others do not use."""

    @property
    def name(self) -> str:
        """The object's name."""
        return object_name(self.address)


def object_name(address: IPAddress) -> str:
    """Return the one name that an address has."""
    if address.version == 4:
        return str(address)
    return "-".join(f"{int(group, 16):x}" for group in address.exploded.split(":"))


def address_of(name: str) -> IPAddress:
    """Return the address that has this name; ValueError when no address has it."""
    address: IPAddress = IPv6Address(name.replace("-", ":")) if "-" in name else IPv4Address(name)
    if object_name(address) != name:
        raise ValueError(f"{name!r} is not how {address} is named")
    return address


def new_object(address: IPAddress, *, rack: str, node: str, node_uid: str) -> Document:
    """Return the object that claims an address for a server."""
    return {
        "metadata": {"name": object_name(address), "labels": {RACK_LABEL: rack}},
        "spec": {"address": str(address), "rack": rack, "node": node, "nodeUID": node_uid},
    }


def pod_key(pod: Pod) -> str:
    """Return what a pod and its successors have in common."""
    return f"{pod.namespace}/{pod.name}"


def notes(sticky: str, wanted: Sequence[IPAddress]) -> Document:
    """Return the change of an object that says whom its address is kept for, and what its owner waits for."""
    names = " ".join(map(object_name, wanted))
    return {"metadata": {"annotations": {STICKY: sticky or None, WANTED: names or None}}}


def usage(pod: Pod | None) -> Document:
    """Return the change of an object's status that says who uses the address, None for nobody."""
    said = None if pod is None else {"namespace": pod.namespace, "name": pod.name, "uid": pod.uid}
    return {"status": {"pod": said}}


def read(document: Document) -> Lease:
    """Return what an object says; Malformed when its name and its address disagree or a field is missing."""
    try:
        metadata, spec = document["metadata"], document["spec"]
        name, address = metadata["name"], ip_address(spec["address"])
        pod = (document.get("status") or {}).get("pod")
        noted = metadata.get("annotations") or {}
        lease = Lease(
            address=address,
            node=spec.get("node", ""),
            node_uid=spec.get("nodeUID", ""),
            uid=metadata["uid"],
            version=metadata["resourceVersion"],
            pod=Pod(pod["namespace"], pod["name"], pod.get("uid", "")) if pod else None,
            sticky=noted.get(STICKY, ""),
            wanted=_wanted(noted.get(WANTED, "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Malformed(f"an Address cannot be read: {error!r} in {document.get('metadata')}") from error
    if lease.name != name:
        raise Malformed(f"Address {name} speaks of {address}, whose name is {lease.name}")
    return lease


def _wanted(names: str) -> tuple[IPAddress, ...]:
    """Return the addresses of these names; anybody may have written nonsense, which makes no lease void."""
    found = []
    for name in names.split():
        with suppress(ValueError):
            found.append(address_of(name))
    return tuple(found)
