"""Dumps that real FRR and BIRD write while they peer with each other, and files that are no whole dump."""

from __future__ import annotations

import bz2
import gzip
import struct
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from routed.audit.model import Route, SwitchView
from routed.audit.sources import CouldNotObserve
from routed.audit.sources.mrt import Mrt
from tests.fixtures.tors import HOST_ASN, HOST_V4, HOST_V6, Rack, Tor, run, until

pytestmark = pytest.mark.system

BIRD = """
router id 10.99.0.1;
log "{folder}/bird.log" all;
protocol device {{ }}
protocol static pods4 {{
    ipv4;
    route 10.101.0.2/32 blackhole {{
        bgp_path.prepend(65500); bgp_community.add((65000, 911)); bgp_large_community.add((65000, 1, 2));
    }};
    route 10.101.0.3/32 blackhole;
}}
protocol static pods6 {{
    ipv6;
    route fd00:101::2/128 blackhole {{ bgp_path.prepend(65500); bgp_community.add((65000, 911)); }};
}}
protocol bgp tor {{
    local 10.99.0.1 as {asn};
    neighbor {tor} as {tor_asn};
    multihop 3;
    connect retry time 1;
    connect delay time 1;
    ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};
    ipv6 {{ import all; export where source = RTS_STATIC; next hop address {v6}; }};
}}
"""
FRR = (
    "no bgp network import-check",
    "address-family ipv4 unicast",
    "network 10.101.0.0/24 route-map OWN",
    "exit-address-family",
    "address-family ipv6 unicast",
    "network fd00:101::/64",
    f"neighbor {HOST_V4} route-map OUT out",
    "exit-address-family",
)
ROUTE_MAPS = (
    "route-map OWN permit 10",
    "set community 65011:7",
    "set large-community 65011:7:8",
    "route-map OUT permit 10",
    "set ipv6 next-hop global fd99:1::2",  # over IPv4, FRR would have none for BIRD
)
POD = ip_network("10.101.0.2/32")
PLAIN = ip_network("10.101.0.3/32")
POD6 = ip_network("fd00:101::2/128")
POOL = ip_network("10.101.0.0/24")
POOL6 = ip_network("fd00:101::/64")


class Speakers:
    """FRR is tor1; BIRD is the server, with a control socket of its own."""

    def __init__(self, rack: Rack) -> None:
        self.tor: Tor = rack.tors[0]
        self.folder = rack.run_dir
        config = self.folder / "bird.conf"
        config.write_text(
            BIRD.format(folder=self.folder, asn=HOST_ASN, tor=self.tor.address, tor_asn=self.tor.asn, v6=HOST_V6)
        )
        self.socket = self.folder / "bird.ctl"
        command = ["ip", "netns", "exec", rack.host, "bird", "-f", "-c", str(config), "-s", str(self.socket)]
        self.bird = subprocess.Popen(command)

    def birdc(self, *words: str) -> str:
        return run("birdc", "-s", str(self.socket), *words, check=False)

    def wait(self) -> None:
        until(lambda: {POD, PLAIN, POD6} <= self.tor.rib().keys(), "FRR has BIRD's routes")
        until(
            lambda: str(POOL) in self.birdc("show", "route") and str(POOL6) in self.birdc("show", "route"), "and back"
        )

    def frr_dump(self) -> Path:
        path = self.tor.run_dir / "rib.mrt"
        self.tor.vtysh("configure terminal", f"dump bgp routes-mrt {path} 1")
        until(lambda: path.exists() and path.stat().st_size > 0, "FRR has dumped")
        self.tor.vtysh("configure terminal", f"no dump bgp routes-mrt {path} 1")
        return path

    def bird_dump(self) -> Path:
        path = self.folder / "bird.mrt"
        self.birdc("mrt", "dump", "table", '"master*"', "to", f'"{path}"')
        until(lambda: path.exists() and path.stat().st_size > 0, "BIRD has dumped")
        return path


@pytest.fixture(scope="module")
def dumps() -> Iterator[dict[str, bytes]]:
    rack = Rack()
    bird = None
    try:
        rack.tors[0].extra = FRR
        rack.tors[0].start()
        rack.tors[0].vtysh("configure terminal", *ROUTE_MAPS)
        speakers = Speakers(rack)
        bird = speakers.bird
        speakers.wait()
        yield {"frr": speakers.frr_dump().read_bytes(), "bird": speakers.bird_dump().read_bytes()}
    finally:
        if bird is not None:
            bird.kill()
            bird.wait()
        rack.close()


async def observed(content: bytes, folder: Path, peer: str | None = None) -> SwitchView:
    path = folder / "rib.mrt"
    path.write_bytes(content)
    return await Mrt("tor1", path, None if peer is None else ip_address(peer), 30).observe()


def routes(view: SwitchView, prefix: object) -> list[Route]:
    return [route for route in view.routes if route.prefix == prefix]


async def test_what_frr_learned(dumps: dict[str, bytes], tmp_path: Path) -> None:
    view = await observed(dumps["frr"], tmp_path)
    assert view.at is not None
    assert timedelta(0) <= datetime.now(UTC) - view.at < timedelta(minutes=5)
    (pod,) = routes(view, POD)
    assert pod.next_hops == (ip_address(HOST_V4),)
    assert pod.as_path == (HOST_ASN, 65500)
    assert pod.communities == frozenset({"65000:911", "65000:1:2"})
    assert (pod.best, pod.installed, pod.stale, pod.peer) == (True, None, None, ip_address(HOST_V4))
    assert pod.age_s is not None
    assert 0 <= pod.age_s < 300
    (plain,) = routes(view, PLAIN)
    assert (plain.as_path, plain.communities) == ((HOST_ASN,), frozenset())
    (pod6,) = routes(view, POD6)
    assert (pod6.next_hops, pod6.communities) == ((ip_address(HOST_V6),), frozenset({"65000:911"}))
    for own in (*routes(view, POOL), *routes(view, POOL6)):
        assert (own.next_hops, own.as_path, own.best, own.peer) == ((), (), True, None)
    assert {route.prefix for route in view.routes} == {POD, PLAIN, POD6, POOL, POOL6}


async def test_what_bird_learned(dumps: dict[str, bytes], tmp_path: Path) -> None:
    view = await observed(dumps["bird"], tmp_path)
    (pool,) = routes(view, POOL)
    assert pool.next_hops == (ip_address("10.99.0.11"),)
    assert (pool.as_path, pool.communities) == ((65011,), frozenset({"65011:7", "65011:7:8"}))
    assert (pool.best, pool.peer) == (True, ip_address("10.99.0.11"))
    (pool6,) = routes(view, POOL6)
    assert (pool6.as_path, pool6.peer) == ((65011,), ip_address("10.99.0.11"))
    assert routes(view, POD), "both tables are in the file, one after the other"


async def test_of_a_collectors_dump_only_what_the_switch_told(dumps: dict[str, bytes], tmp_path: Path) -> None:
    view = await observed(dumps["frr"], tmp_path, HOST_V4)
    assert {route.prefix for route in view.routes} == {POD, PLAIN, POD6}
    with pytest.raises(CouldNotObserve, match=r"it has no routes from 192\.0\.2\.1"):
        await observed(dumps["frr"], tmp_path, "192.0.2.1")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
async def test_compressed_files(compress: Callable[[bytes], bytes], dumps: dict[str, bytes], tmp_path: Path) -> None:
    assert len((await observed(compress(dumps["frr"]), tmp_path)).routes) == 5


async def test_the_last_dump_of_a_file_counts(dumps: dict[str, bytes], tmp_path: Path) -> None:
    assert len((await observed(dumps["frr"] * 2, tmp_path)).routes) == 5


def record(kind: int, subtype: int, content: bytes) -> bytes:
    return struct.pack(">IHHI", 1_700_000_000, kind, subtype, len(content)) + content


OLD = struct.pack(">HH4sBBI4sHH", 0, 0, bytes(4), 0, 1, 0, bytes(4), 65500, 0)
NO_DUMP: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "it is empty"),
    "one route short": (lambda dump: dump[:-1], "damaged, or not written to its end"),
    "within a header": (lambda dump: dump + dump[:5], "damaged, or not written to its end"),
    "half a gzip": (lambda dump: gzip.compress(dump)[:-9], "end-of-stream"),
    "older format": (lambda _: record(12, 1, OLD), "the older format TABLE_DUMP, and only"),
    "messages": (lambda _: record(16, 4, struct.pack(">IIHH4s4s", 1, 2, 0, 1, bytes(4), bytes(4))), "damaged|type 16"),
    "no peers": (lambda dump: dump[12 + struct.unpack(">I", dump[8:12])[0] :], "routes before any table of peers"),
    "text": (lambda _: b"BIRD 2.0.12 ready.\n" * 9, "it is no MRT dump"),
}


@pytest.mark.parametrize("case", NO_DUMP)
async def test_what_is_no_whole_dump_could_not_be_observed(case: str, dumps: dict[str, bytes], tmp_path: Path) -> None:
    change, message = NO_DUMP[case]
    with pytest.raises(CouldNotObserve, match=message) as caught:
        await observed(change(dumps["frr"]), tmp_path)
    assert str(caught.value).startswith(f"reading {tmp_path / 'rib.mrt'}: ")
    assert "\n" not in str(caught.value)


async def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CouldNotObserve, match="there is no such file"):
        await Mrt("tor1", tmp_path / "none", None, 5).observe()
