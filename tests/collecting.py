"""An audit's BGP collector, run inside a node of a lab: what it hears of a switch that has that node as a neighbour."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from pathlib import Path

from containerlab.node import Node

_SCRIPT = """
import asyncio, sys
from ipaddress import ip_address
from routed.audit.sources import CouldNotObserve
from routed.audit.sources.collector import Collector

name, asn, timeout_s, *ends = sys.argv[1:]
addresses = list(map(ip_address, ends))
sessions = tuple(zip(addresses[::2], addresses[1::2]))
try:
    view = asyncio.run(Collector(name, int(asn), sessions, None, float(timeout_s)).observe())
except CouldNotObserve as error:
    sys.exit(str(error))
for route in view.routes:
    told = [list(map(str, route.next_hops)), list(route.as_path), sorted(route.communities)]
    print(repr((str(route.prefix), *told)))
"""
Heard = dict[str, tuple[list[str], list[int], list[str]]]
"""By prefix: next hops, AS path, communities."""


def collected(node: Node, switch: str, asn: int, *ends: str, timeout_s: float = 30) -> Heard:
    """Return what a switch sends to a node; `ends` are the sessions' addresses, the switch's and the node's in turn.

    CommandError has the reason when it could not be observed.
    """
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    command: Sequence[str] = [sys.executable, "-c", _SCRIPT, switch, str(asn), str(timeout_s), *ends]
    lines = node.run(command, env=environment).stdout.splitlines()
    return {prefix: tuple(told) for prefix, *told in map(ast.literal_eval, lines)}
