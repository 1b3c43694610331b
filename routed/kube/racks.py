"""Rack objects: which one is a server's, and the settings that its agent is composed from. Pure.

A Rack says what the servers of a rack have in common, in the words of a rack file; what differs stays with the server:
its own addresses on its Node, its devices and paths in the agent's own file. Joined, they are a whole rack file, and
go through the same checks. Whether a Rack is accepted depends on Racks alone, so that all servers agree.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from ipam.errors import PoolError
from ipam.model import IPAddress, IPNetwork, Pool, check_pools, prefix_set
from routed.kube.addresses import RACK_LABEL
from routed.kube.api import Document
from routed.kube.errors import Malformed, NoRack
from routed.settings import Settings, SettingsError, validated

ADDRESSES_ANNOTATION = "routed.dev/addresses"
"""On a Node whose InternalIP is not what its ToRs reach it by: the server's own addresses, separated by commas."""
SECRETS = Path("/etc/routed/secrets")
"""Where the DaemonSet mounts Secrets: NAME/KEY below it."""
_LOCAL = frozenset({"bridge", "cni", "ipvlan", "kubernetes", "metrics", "paths", "resync_s", "sriov"})
"""Sections of the agent's own file."""


def own_rack(node: Document, racks: Collection[Document]) -> Document:
    """Return the Rack that selects this Node; NoRack unless it is exactly one."""
    name = node["metadata"]["name"]
    found = sorted(rack["metadata"]["name"] for rack in racks if selects(rack, node))
    if not found:
        known = ", ".join(sorted(rack["metadata"]["name"] for rack in racks)) or "none"
        raise NoRack(f"no Rack selects Node {name} (there are: {known}); label it {RACK_LABEL}=RACK")
    if len(found) > 1:
        raise NoRack(f"Node {name} is selected by several Racks: {', '.join(found)}; it has to be in one")
    return next(rack for rack in racks if rack["metadata"]["name"] == found[0])


def selects(rack: Document, node: Document) -> bool:
    """Whether a Node has the labels that a Rack asks for; by default, the rack's name."""
    labels = node["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in _selector(rack).items())


def check(rack: Document, racks: Iterable[Document]) -> tuple[Pool, ...]:
    """Return a Rack's pools; Malformed unless any server could use it beside the other Racks.

    Of two that overlap, the older one may be used. The answer is the same on all servers: neither the Node nor the
    agent's own file is looked at.
    """
    settings = _settings(rack, {"a-server": _stand_in(rack)}, {"bridge": {"members": _members(rack)}}, SECRETS)
    mine = prefix_set(pool.prefix for pool in settings.pools)
    for other in racks:
        if _seniority(other) < _seniority(rack):
            theirs = prefix_set(ip_network(pool["prefix"]) for pool in other["spec"]["pools"])
            for common in (mine & theirs).iter_cidrs():
                raise Malformed(
                    f"{_title(rack)}: spec.pools: {common} is in a pool of Rack {other['metadata']['name']}"
                )
    return pools_of(settings)


def settings_of(rack: Document, node: Document, local: Mapping[str, Any], secrets: Path = SECRETS) -> Settings:
    """Return what a rack file would say of this server, alone in its rack; ``local`` is the agent's own file.

    Raises Malformed, which names the object and the field, and SettingsError for a key that does not belong in
    ``local``.
    """
    if foreign := local.keys() - _LOCAL:
        raise SettingsError(f"{', '.join(sorted(foreign))}: on Kubernetes, that is for the Rack or the Node to say")
    name = node["metadata"]["name"]
    addresses = [str(address) for address in server_addresses(node, _hosts(rack))]
    return _settings(rack, {name: {"addresses": addresses}}, local, secrets)


def whole_rack(rack: Document, nodes: Iterable[Document]) -> Settings:
    """Return what a rack file would say of a Rack and all of its servers; for looking at, not for an agent.

    Raises Malformed, and NoRack when it selects no Node: there is no rack without servers.
    """
    own = [node for node in nodes if selects(rack, node)]
    if not own:
        wanted = " ".join(f"{key}={value}" for key, value in _selector(rack).items())
        raise NoRack(f"{_title(rack)} selects no Node; label its servers' Nodes: kubectl label node NODE {wanted}")
    hosts = _hosts(rack)
    servers = {
        node["metadata"]["name"]: {"addresses": [str(address) for address in server_addresses(node, hosts)]}
        for node in own
    }
    return _settings(rack, servers, {"bridge": {"members": _members(rack)}}, SECRETS)


def server_addresses(node: Document, hosts: Collection[IPNetwork]) -> tuple[IPAddress, ...]:
    """Return a server's own addresses in its rack's subnets, IPv4 first; Malformed when none or too many are."""
    metadata = node["metadata"]
    said = (metadata.get("annotations") or {}).get(ADDRESSES_ANNOTATION)
    if said is not None:
        where, texts = f"annotation {ADDRESSES_ANNOTATION}", [text.strip() for text in said.split(",")]
    else:
        where = "InternalIP"
        entries = (node.get("status") or {}).get("addresses") or ()
        texts = [entry["address"] for entry in entries if entry["type"] == "InternalIP"]
    zoned = [text for text in texts if "%" in text]
    if zoned:
        raise Malformed(f"Node {metadata['name']}: {where}: {zoned[0]} has a zone, which means nothing to others")
    try:
        addresses = sorted({ip_address(text) for text in texts}, key=lambda address: (address.version, int(address)))
    except ValueError as error:
        raise Malformed(f"Node {metadata['name']}: {where}: {error}") from error
    inside = tuple(one for one in addresses if any(one.version == host.version and one in host for host in hosts))
    subnets = ", ".join(map(str, hosts))
    if said is not None and len(inside) < len(addresses):
        raise Malformed(f"Node {metadata['name']}: {where}: {said} is not all inside the rack's hosts ({subnets})")
    if not inside:
        raise Malformed(
            f"Node {metadata['name']}: {where}: {', '.join(texts) or 'none'}: not inside the rack's hosts ({subnets}); "
            f"name the server's addresses on its ToRs in the annotation {ADDRESSES_ANNOTATION}"
        )
    if len({address.version for address in inside}) < len(inside):
        raise Malformed(
            f"Node {metadata['name']}: {where}: {', '.join(map(str, inside))}: several of one family; "
            f"name one in the annotation {ADDRESSES_ANNOTATION}"
        )
    return inside


def pools_of(settings: Settings) -> tuple[Pool, ...]:
    """Return the pools as the ledger and the leases want them; PoolError when they make no sense."""
    return tuple(Pool(pool.prefix, pool.gateway, pool.reserved) for pool in settings.pools)


def _settings(rack: Document, servers: Mapping[str, Any], local: Mapping[str, Any], secrets: Path) -> Settings:
    spec = {key: value for key, value in rack["spec"].items() if key != "nodeSelector"}
    bgp = dict(spec.pop("bgp", {}))
    if secret := bgp.pop("password_secret", None):
        bgp["password_file"] = secrets / secret["name"] / secret["key"]
    document = {**local, **spec, "rack": rack["metadata"]["name"], "bgp": bgp, "servers": servers}
    try:
        settings = validated(document, _title(rack))
        check_pools(pools_of(settings))
    except SettingsError as error:
        _, *problems = (line.strip().removeprefix("the file: Value error, ") for line in str(error).splitlines())
        raise Malformed(f"{_title(rack)}: {'; '.join(problems)}") from error
    except PoolError as error:
        raise Malformed(f"{_title(rack)}: spec.pools: {error}") from error
    return settings


def _selector(rack: Document) -> Mapping[str, str]:
    selector: Mapping[str, str] = rack["spec"].get("nodeSelector", {RACK_LABEL: rack["metadata"]["name"]})
    return selector


def _title(rack: Document) -> str:
    return f"Rack {rack['metadata']['name']}"


def _seniority(rack: Document) -> tuple[str, str]:
    return rack["metadata"].get("creationTimestamp", ""), rack["metadata"]["name"]


def _hosts(rack: Document) -> tuple[IPNetwork, ...]:
    try:
        return tuple(ip_network(host["prefix"]) for host in rack["spec"]["hosts"])
    except (KeyError, TypeError, ValueError) as error:
        raise Malformed(f"{_title(rack)}: spec.hosts: {error}") from error


def _stand_in(rack: Document) -> dict[str, Any]:
    """Return some server of the rack, for checks that need one."""
    addresses = []
    for number, host in enumerate(rack["spec"].get("hosts") or ()):
        room = (address for address in _hosts(rack)[number] if str(address) != host.get("gateway"))
        addresses.append(str(next(room, host.get("gateway"))))
    return {"addresses": addresses}


def _members(rack: Document) -> list[str]:
    return [f"member-{number}" for number, _ in enumerate(rack["spec"].get("tors") or ())]
