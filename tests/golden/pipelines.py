"""The pipelines of which tests/golden keeps the text: one file each, written by ``python -m tests.golden.pipelines``.

The unit tests compare these files with what the pipeline computes, the system tests with what real OVS dumps.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

from ovs_flows.cookies import BASE_OBJECT, cookie
from ovs_flows.meters import from_pod, to_pod
from ovs_flows.model import Entry
from ovs_flows.pipeline import BridgeView, Endpoint, base, endpoint
from ovs_flows.text import format_entries

FOLDER = Path(__file__).parent

DUAL = BridgeView(
    uplinks=(1,),
    host_mac="02:aa:00:00:00:10",
    gateway_mac="02:00:00:00:01:01",
    host_addresses=(ip_address("10.1.0.11"), ip_address("fd00:1::11")),
    pools=(ip_network("10.101.0.0/24"), ip_network("fd00:101::/64")),
    services=(ip_network("10.96.0.0/16"),),
)
ONLY4 = replace(DUAL, host_addresses=DUAL.host_addresses[:1], pools=DUAL.pools[:1])
POD = Endpoint(
    ofport=1000,
    mac="0a:58:0a:65:00:0b",
    addresses=(ip_address("10.101.0.11"), ip_address("fd00:101::b")),
    gateways=(ip_address("10.101.0.1"), ip_address("fd00:101::1")),
)
POD4 = replace(POD, addresses=POD.addresses[:1], gateways=POD.gateways[:1])

PIPELINES: dict[str, tuple[BridgeView, Endpoint]] = {
    "v4": (ONLY4, POD4),
    "dual": (DUAL, POD),
    "limited": (DUAL, replace(POD, to_pod=to_pod(1, 200_000_000), from_pod=from_pod(1, 10_000_000))),
    "vlan": (replace(DUAL, vlan=108), POD),
    "two-uplinks": (replace(DUAL, uplinks=(1, 2)), POD),
    "two-uplinks-vlan": (replace(DUAL, uplinks=(1, 2), vlan=108), POD),
    "no-gateway": (replace(DUAL, gateway_mac=None), POD),
}


def entries(name: str) -> dict[int, frozenset[Entry]]:
    """Return a pipeline as the flows plane takes it."""
    view, pod = PIPELINES[name]
    return {cookie(BASE_OBJECT): base(view), cookie(1): endpoint(pod)}


def lines(name: str) -> list[str]:
    """Return a pipeline as text: groups, base flows, the pod's meters and flows."""
    return [line for owner, found in entries(name).items() for line in format_entries(found, owner)]


def golden(name: str) -> list[str]:
    """Return the text as it is kept."""
    return (FOLDER / f"{name}.txt").read_text(encoding="ascii").splitlines()


if __name__ == "__main__":
    for title in PIPELINES:
        (FOLDER / f"{title}.txt").write_text("\n".join(lines(title)) + "\n", encoding="ascii")
