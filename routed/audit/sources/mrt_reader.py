"""Reads one MRT dump and prints its routes as JSON: a program of its own, which `mrt` runs.

``python -m routed.audit.sources.mrt_reader FILE``. mrtparse changes how the process takes SIGPIPE when it is imported,
keeps what it is about in globals, and is busy for long: nothing for a process that does anything else. RFC 6396.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import mrtparse

_TABLE_DUMP = 12
_TABLE_DUMP_V2 = 13
_PEER_INDEX_TABLE = 1
_UNICAST = frozenset({2, 4, 8, 10})
"""RIB_IPV4_UNICAST, RIB_IPV6_UNICAST, and both with path identifiers (RFC 8050)."""
_AS_PATH, _NEXT_HOP, _LOCAL_PREF, _COMMUNITY, _MP_REACH, _LARGE = 2, 3, 5, 8, 14, 32
Dump = dict[str, Any]
"""`at`, seconds since the epoch, and `routes`: prefix, peer, originated, next hops, AS path, communities, local
preference."""


class DumpError(Exception):
    """This is no complete dump of routes; the message says why."""


def read(path: str) -> list[Dump]:
    """Return the last dump of each view (BIRD: table) in a file; DumpError, OSError or EOFError unless it is whole."""
    dumps: dict[str, Dump] = {}
    current: Dump = {}
    peers: list[str] = []
    for kind, subtype, said in _records(path):
        if kind != _TABLE_DUMP_V2:
            what = "routes in the older format TABLE_DUMP" if kind == _TABLE_DUMP else f"MRT records of type {kind}"
            raise DumpError(f"it has {what}, and only a dump of routes in the format TABLE_DUMP_V2 is read")
        if subtype == _PEER_INDEX_TABLE:
            peers = [peer["peer_ip"] for peer in said["peer_entries"]]
            current = dumps[said["view_name"]] = {"at": _number(said["timestamp"]), "routes": []}
        elif subtype in _UNICAST:
            if not current:
                raise DumpError("it has routes before any table of peers")
            prefix = f"{said['prefix']}/{said['length']}"
            current["routes"].extend([prefix, *_route(entry, peers)] for entry in said["rib_entries"])
    if not dumps:
        raise DumpError("it is empty")
    return list(dumps.values())


def _records(path: str) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
    """Yield type, subtype and content of each record."""
    for record in mrtparse.Reader(path):
        if record.err:
            raise DumpError(f"it is damaged, or not written to its end: {record.err_msg}")
        yield _number(record.data["type"]), _number(record.data["subtype"]), record.data


def _route(entry: Mapping[str, Any], peers: list[str]) -> list[Any]:
    said = {_number(attribute["type"]): attribute["value"] for attribute in entry["path_attributes"]}
    reached = said.get(_MP_REACH, {}).get("next_hop", [])
    return [
        peers[entry["peer_index"]],
        _number(entry["originated_time"]),
        reached or ([said[_NEXT_HOP]] if _NEXT_HOP in said else []),
        [int(asn) for segment in said.get(_AS_PATH, ()) for asn in segment["value"]],
        [*said.get(_COMMUNITY, ()), *said.get(_LARGE, ())],
        said.get(_LOCAL_PREF),
    ]


def _number(said: Mapping[int, str]) -> int:
    """Return the number of what mrtparse shows as a number and its name."""
    return next(iter(said))


if __name__ == "__main__":
    try:
        json.dump(read(sys.argv[1]), sys.stdout)
    except (DumpError, OSError, EOFError) as error:
        sys.exit(str(error))
    except (KeyError, IndexError, ValueError, TypeError) as error:
        sys.exit(f"it is no MRT dump: {error!r}")
