"""Switches by NAPALM: its process, with a driver of this test's own, and what EOS, NX-OS and Junos answer.

Where the answers come from is said at each of them: EOS's shape is that of the output that NAPALM publishes with its
tests (1.0.4.0/24 of issues 736, 1069 and 1347), NX-OS's that of output that users published, Junos's is derived from
published output. Nobody had such a switch here. NAPALM's drivers are real: those for
EOS and NX-OS speak HTTP to a stand-in, the one for Junos has no session.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from routed.audit.model import Route, SwitchView
from routed.audit.sources import CouldNotObserve, eos, junos, nxos
from routed.audit.sources.napalm import Login, Napalm
from tests.fakes.switch_api import SwitchApi
from tests.fakes.switch_ssh import SwitchSsh

NOW = 1_606_121_000.0
POD = ip_network("10.101.0.2/32")
POD6 = ip_network("fd00:101::2/128")
POOL = ip_network("10.101.0.0/24")
HOP = ip_address("10.1.0.11")
HOP6 = ip_address("fd00:1::11")


# ---- Arista EOS


def eos_path(hop: str, as_path: str, *communities: str, **kind: bool) -> dict[str, Any]:
    return {
        "asPathEntry": {"asPath": as_path, "asPathType": "External" if as_path else "Local"},
        "med": 0,
        "timestamp": 1606117832,
        "localPreference": 100,
        "weight": 0,
        "peerEntry": {"peerRouterId": "169.254.216.4", "peerAddr": hop or "0.0.0.0"},  # noqa: S104 - no socket
        "reasonNotBestpath": "noReason",
        "nextHop": hop,
        "routeType": {"valid": True, "active": True, "stale": False, "ecmp": False, "ecmpContributor": False} | kind,
        "routeDetail": {
            "origin": "Igp",
            "communityList": [word for word in communities if word.count(":") == 1],
            "largeCommunityList": [word for word in communities if word.count(":") == 2],
            "extCommunityList": [],
        },
    }


def eos_table(**paths: list[dict[str, Any]]) -> dict[str, Any]:
    entries = {prefix: {"totalPaths": len(of), "bgpRoutePaths": of} for prefix, of in paths.items()}
    return {"vrfs": {"default": {"routerId": "2.2.2.2", "asn": "65323", "bgpRouteEntries": entries}}}


def eos_entry(kind: str = "eBGP", *, hardware: bool = True) -> dict[str, Any]:
    return {"routeType": kind, "hardwareProgrammed": hardware, "kernelProgrammed": True, "vias": []}


EOS = [
    eos_table(
        **{
            str(POD): [
                eos_path(str(HOP), "65500", "65000:911", "65000:1:2"),
                eos_path("10.1.0.12", "65500 i", active=False, ecmp=True, ecmpContributor=True, stale=True),
                eos_path("10.254.1.2", "65100 (65012 65500) i", active=False),
            ],
            str(POOL): [eos_path("", "")],
            "10.101.1.0/24": [eos_path("10.254.1.2", "65100 65012")],
        }
    ),
    eos_table(**{str(POD6): [eos_path(str(HOP6), "65500")]}),
    {
        "vrfs": {
            "default": {
                "routes": {
                    str(POD): eos_entry(),
                    str(POOL): eos_entry("bgpAggregate"),
                    "10.101.1.0/24": eos_entry("static"),
                }
            }
        }
    },
    {"routes": {str(POD6): eos_entry(hardware=False)}},  # without VRFs, as older releases
]


def test_eos() -> None:
    found = list(eos.parse(EOS, NOW))
    first, second, third = (route for route in found if route.prefix == POD)
    assert first == Route(
        POD,
        (HOP,),
        (65500,),
        frozenset({"65000:911", "65000:1:2"}),
        best=True,
        installed=True,
        stale=False,
        age_s=NOW - 1606117832,
        peer=HOP,
    )
    assert (second.best, second.stale, second.as_path) == (True, True, (65500,)), "one of several of equal cost"
    assert (third.best, third.installed, third.as_path) == (False, False, (65100, 65012, 65500))
    (own,) = (route for route in found if route.prefix == POOL)
    assert (own.next_hops, own.as_path, own.peer, own.best, own.installed) == ((), (), None, True, True)
    (other,) = (route for route in found if str(route.prefix) == "10.101.1.0/24")
    assert other.installed is False, "a static route is used instead"
    (pod6,) = (route for route in found if route.prefix == POD6)
    assert (pod6.next_hops, pod6.installed) == ((HOP6,), False)


def test_eos_in_the_shape_of_its_older_releases() -> None:
    path = eos_path(str(HOP), "65500")
    path["routeDetail"]["peerEntry"] = path.pop("peerEntry")
    del path["routeDetail"]["largeCommunityList"]
    tables = [
        eos_table(**{str(POD): [path]}),
        eos_table(),
        {"routes": {str(POD): {"routeType": "eBGP"}}},
        {"routes": {}},
    ]
    (route,) = eos.parse(tables, NOW)
    assert (route.peer, route.installed) == (HOP, None)


# ---- Cisco NX-OS: shape of output that users published

NXOS = """\
BGP routing table information for VRF default, address family IPv4 Unicast
BGP routing table entry for 10.101.0.2/32, version 38
Paths: (3 available, best #1)
Flags: (0x8008001a) (high32 00000000) on xmit-list, is in urib, is best urib route, is in HW
Multipath: eBGP

  Advertised path-id 1
  Path type: external, path is valid, is best path, no labeled nexthop, in rib
  AS-Path: 65500 , path sourced external to AS
    10.1.0.11 (metric 0) from 10.1.0.11 (10.1.0.11)
      Origin IGP, MED not set, localpref 100, weight 0
      Community: 65000:911 65000:7
      Large Community: 65000:1:2

  Path type: external, path is valid, not best reason: newer EBGP path, multipath, no labeled nexthop, in rib
  AS-Path: 65500 , path sourced external to AS
    10.1.0.12 (metric 0) from 10.1.0.12 (10.1.0.12)
      Origin IGP, MED not set, localpref 100, weight 0

  Path type: external, path is valid, not best reason: AS Path, no labeled nexthop
  AS-Path: 65100 65012 65500 , path sourced external to AS
    10.254.1.2 (metric 0) from 10.254.1.2 (10.255.0.1)
      Origin IGP, MED not set, localpref 100, weight 0

  Path-id 1 advertised to peers:
    10.254.1.2
BGP routing table entry for 10.101.0.0/24, version 4
Paths: (1 available, best #1)
Flags: (0x000002) on xmit-list, is not in urib

  Advertised path-id 1
  Path type: aggregate, path is valid, is best path
  AS-Path: NONE, path locally originated
    0.0.0.0 (metric 0) from 0.0.0.0 (10.255.1.1)
      Origin IGP, MED not set, localpref 100, weight 32768
"""
NXOS6 = """\
BGP routing table information for VRF default, address family IPv6 Unicast
BGP routing table entry for fd00:101::2/128, version 3
Paths: (1 available, best #1)
Flags: (0x00001a) on xmit-list, is in u6rib

  Advertised path-id 1
  Path type: external, path is valid, is best path
  AS-Path: 65500 , path sourced external to AS
    fd00:1::11 (metric 0) from fd00:1::11 (10.1.0.11)
      Origin IGP, MED not set, localpref 100, weight 0
"""


def test_nxos() -> None:
    first, second, third, own, pod6 = nxos.parse([NXOS, NXOS6], NOW)
    assert first == Route(
        POD,
        (HOP,),
        (65500,),
        frozenset({"65000:911", "65000:7", "65000:1:2"}),
        best=True,
        installed=True,
        stale=False,
        peer=HOP,
    )
    assert (second.best, third.best, third.as_path) == (True, False, (65100, 65012, 65500))
    assert (own.prefix, own.next_hops, own.peer, own.best, own.installed) == (POOL, (), None, True, False)
    assert (pod6.prefix, pod6.next_hops, pod6.installed) == (POD6, (HOP6,), None)


# ---- Juniper Junos: derived from documentation and published output


def text(value: str, **attributes: str) -> list[dict[str, Any]]:
    return [{"data": value, "attributes": attributes} if attributes else {"data": value}]


def junos_path(hop: str, as_path: str, *communities: str, active: bool = True, more: Any = None) -> dict[str, Any]:
    return {
        "active-tag": [{"data": "*"}] if active else [{}],
        "protocol-name": text("BGP"),
        "nh": [{"to": text(hop), "via": text("irb.101")}],
        "gateway": text(hop),
        "age": text("1:12", **{"junos:seconds": "72"}),
        "as-path": text(f"AS path: {as_path} I"),
        "communities": [{"community": [{"data": word} for word in communities]}],
        **(more or {}),
    }


def junos_table(name: str, *routes: tuple[str, list[dict[str, Any]]]) -> str:
    listed = [
        {
            "rt-destination": text(prefix.split("/")[0]),
            "rt-prefix-length": text(prefix.split("/")[1]),
            "rt-entry": paths,
        }
        for prefix, paths in routes
    ]
    return json.dumps({"route-information": [{"route-table": [{"table-name": text(name), "rt": listed}]}]})


INDIRECT = {"protocol-nh": [{"to": text(str(HOP)), "indirect-nh": text("0x2 1048574")}]}
JUNOS = [
    junos_table(
        "inet.0",
        (
            str(POD),
            [
                junos_path("10.254.9.9", "65500", "65000:911", "large:65000:1:2", more=INDIRECT),
                junos_path("10.254.1.2", "65100 65012 65500", active=False),
            ],
        ),
        (str(POOL), [{"active-tag": text("*"), "protocol-name": text("Aggregate")}]),
        ("10.1.0.1/32", [{"active-tag": text("*"), "protocol-name": text("Local")}]),
    ),
    junos_table("inet6.0", (str(POD6), [junos_path(str(HOP6), "65500 {64512 64513}")])),
]


def test_junos() -> None:
    first, second, own, pod6 = junos.parse(JUNOS, NOW)
    assert (first.next_hops, first.as_path, first.best) == ((HOP,), (65500,), True)
    assert first.communities == frozenset({"65000:911", "65000:1:2"})
    assert (first.age_s, first.peer) == (72, ip_address("10.254.9.9"))
    assert (first.installed, first.stale) == (None, None), "it does not say"
    assert (second.best, second.as_path) == (False, (65100, 65012, 65500))
    assert (own.prefix, own.next_hops, own.best) == (POOL, (), True)
    assert (pod6.prefix, pod6.next_hops, pod6.as_path) == (POD6, (HOP6,), (65500, 64512, 64513))


def test_junos_in_brief_names_the_length_with_the_address() -> None:
    brief = JUNOS[0].replace('"data": "10.101.0.2"}', '"data": "10.101.0.2/32"}')
    assert next(iter(junos.parse([brief, JUNOS[1]], NOW))).prefix == POD


# ---- the process that asks

DRIVER = """
import json
from pathlib import Path
from napalm.base import NetworkDriver
from napalm.base.exceptions import ConnectionException

class Driver(NetworkDriver):
    def __init__(self, hostname, username, password, timeout=60, optional_args=None):
        self.login = [hostname, username, password, timeout, optional_args]
        self.password, self.asked = password, 0

    def open(self):
        print("drivers may print")
        Path(FOLDER, "login").write_text(json.dumps(self.login))
        Path(FOLDER, "arguments").write_bytes(Path("/proc/self/cmdline").read_bytes())
        if self.password == "wrong":
            raise ConnectionException("authentication failed")

    def close(self):
        Path(FOLDER, "closed").touch()

    def cli(self, commands, encoding="text"):
        answers = json.loads(Path(FOLDER, "answers").read_text())
        self.asked += 1
        return {commands[0]: answers[self.asked - 1]}
"""
JUNOS_DRIVER = """
from napalm.junos import JunOSDriver

class Device:
    def cli(self, command, warning=False, format="text"):
        assert command.endswith("| display json"), command
        return ANSWERS.pop(0)

ANSWERS = json.loads(Path(FOLDER, "answers").read_text())

class ADriver(JunOSDriver):  # NAPALM's own, but for the session
    open, close = Driver.open, Driver.close

    def __init__(self, *login, **more):
        Driver.__init__(self, *login, **more)
        self.device = Device()
"""


class Site:
    """A folder in which NAPALM finds drivers of this test's own: sites may have such (``custom_napalm``)."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        (folder / "custom_napalm").mkdir()
        for name in ("eos", "nxos", "junos"):
            text = f"FOLDER = {str(folder)!r}\n{DRIVER}{JUNOS_DRIVER if name == 'junos' else ''}"
            (folder / "custom_napalm" / f"{name}.py").write_text(text)
        (folder / "password").write_text("right\n")
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.setenv("SWITCHES", "from the environment")

    def napalm(self, driver: str, answers: list[Any], **changes: Any) -> Napalm:
        (self.folder / "answers").write_text(json.dumps(answers))
        login = {"password_file": self.folder / "password", "password_variable": None, "options": {"port": 8443}}
        return Napalm("r1a", Login(driver, "r1a.example.org", "audit", **(login | changes)), 30)

    @property
    def login(self) -> list[Any]:
        said: list[Any] = json.loads((self.folder / "login").read_text())
        return said


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


STRICT = {"ssh_strict": True, "system_host_keys": True}


@pytest.mark.parametrize(("driver", "answers"), [("eos", EOS), ("nxos", [NXOS, NXOS6]), ("junos", JUNOS)])
async def test_a_switch_is_asked(driver: str, answers: list[Any], site: Site) -> None:
    view = await site.napalm(driver, answers).observe()
    assert {POD, POOL, POD6} <= {route.prefix for route in view.routes}
    assert site.login == ["r1a.example.org", "audit", "right", 30, STRICT | {"port": 8443}]
    assert (site.folder / "closed").exists()
    assert b"right" not in (site.folder / "arguments").read_bytes(), "everybody on this host may read it"


async def test_passwords_come_from_the_environment_too_or_are_not_needed(site: Site) -> None:
    await site.napalm("eos", EOS, password_file=None, password_variable="SWITCHES").observe()  # noqa: S106 - its name
    assert site.login[2] == "from the environment"
    await site.napalm("eos", EOS, password_file=None).observe()
    assert site.login[2] == ""
    assert site.login[4] == STRICT | {"port": 8443, "use_keys": True, "allow_agent": True}


async def test_what_fails_is_said(site: Site) -> None:
    async def failure(**changes: Any) -> str:
        with pytest.raises(CouldNotObserve) as caught:
            await site.napalm("eos", EOS, **changes).observe()
        assert str(caught.value).startswith("eos on r1a.example.org, by NAPALM: ")
        return str(caught.value)

    assert "No such file" in await failure(password_file=site.folder / "none")
    assert "the environment has no NOBODY" in await failure(password_file=None, password_variable="NOBODY")  # noqa: S106
    (site.folder / "password").write_text("wrong")
    assert "authentication failed" in await failure()


async def test_without_napalm_it_says_how_to_install_it(site: Site) -> None:
    (site.folder / "napalm.py").write_text("raise ModuleNotFoundError(\"No module named 'napalm'\", name='napalm')")
    with pytest.raises(CouldNotObserve, match="NAPALM is not installed here: pip install napalm"):
        await site.napalm("eos", EOS).observe()


# ---- NAPALM's own drivers, over HTTP

SPOKEN: dict[str, tuple[tuple[str, ...], list[Any]]] = {
    "eos": (eos.QUESTIONS, EOS),
    "nxos": (nxos.QUESTIONS, [NXOS, NXOS6]),
}
LOGIN = f"Basic {base64.b64encode(b'audit:right').decode()}"


async def spoken(driver: str, answers: dict[str, Any], folder: Path, password: str = "right") -> SwitchView:  # noqa: S107
    (folder / "password").write_text(password)
    with SwitchApi(answers, LOGIN) as api:
        options: dict[str, str | int | bool] = {"transport": "http", "port": api.port}
        login = Login(driver, "127.0.0.1", "audit", folder / "password", None, options)
        return await Napalm("r1a", login, 30).observe()


@pytest.mark.parametrize("driver", SPOKEN)
async def test_real_drivers_get_the_answers(driver: str, tmp_path: Path) -> None:
    questions, answers = SPOKEN[driver]
    view = await spoken(driver, dict(zip(questions, answers, strict=True)), tmp_path)
    assert {POD, POOL, POD6} <= {route.prefix for route in view.routes}


@pytest.mark.parametrize("driver", SPOKEN)
async def test_a_command_that_a_switch_refuses_is_not_an_empty_table(driver: str, tmp_path: Path) -> None:
    questions, answers = SPOKEN[driver]
    with pytest.raises(CouldNotObserve, match=r"exit status 1: .*Error.*: .*[Ii]nvalid command"):
        await spoken(driver, dict(zip(questions[:-1], answers, strict=False)), tmp_path)


async def test_a_login_that_fails_could_not_be_observed(tmp_path: Path) -> None:
    with pytest.raises(CouldNotObserve, match="ConnectionException: Cannot connect to"):
        await spoken("nxos", {}, tmp_path, "wrong")


# ---- NAPALM's own drivers, over ssh


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "password").write_text("right")
    (tmp_path / ".ssh").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("known", "options", "told"),
    [(False, {}, []), (True, {}, ["right"]), (False, {"ssh_strict": False}, ["right"])],
    ids=["a stranger", "a known host", "whoever answers, if options say so"],
)
@pytest.mark.parametrize("driver", ["eos", "nxos_ssh"])
async def test_a_password_is_told_to_known_hosts_alone(
    driver: str, known: bool, options: dict[str, str | int | bool], told: list[str], home: Path
) -> None:
    with SwitchSsh() as switch:
        (home / ".ssh" / "known_hosts").write_text(switch.known_host if known else "")
        spoken_to: dict[str, str | int | bool] = {"transport": "ssh", "port": switch.port}
        login = Login(driver, "127.0.0.1", "audit", home / "password", None, spoken_to | options)
        with pytest.raises(CouldNotObserve, match="Authentication" if told else "not found in known_hosts"):
            await Napalm("r1a", login, 30).observe()
        assert switch.passwords == told


ANSWERS: dict[str, tuple[str, list[Any], Callable[[Any], Any]]] = {
    "eos that knows no BGP": ("eos", EOS, lambda _: {"vrfs": {}}),
    "eos over ssh that printed no JSON": ("eos", EOS, lambda _: {}),
    "eos without details": ("eos", EOS, lambda said: json.loads(json.dumps(said).replace("routeDetail", "detail"))),
    "nxos that refuses": ("nxos", [NXOS, NXOS6], lambda _: "% Invalid command at '^' marker."),
    "nxos without an AS path": ("nxos", [NXOS, NXOS6], lambda said: said.replace("AS-Path: 65500", "AS-Plan: 1")),
    "nxos without a next hop": ("nxos", [NXOS, NXOS6], lambda said: said.replace("10.1.0.11 (metric 0)", "somewhere")),
    "nothing": ("nxos", [NXOS, NXOS6], lambda _: ""),
    "junos that refuses": ("junos", JUNOS, lambda _: "error: syntax error"),
    "junos without AS paths": ("junos", JUNOS, lambda said: said.replace("as-path", "path")),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_anything_else_could_not_be_observed(case: str, site: Site) -> None:
    driver, answers, change = ANSWERS[case]
    with pytest.raises(CouldNotObserve, match="this is not what it says of its routes"):
        site.napalm(driver, [])._view(json.dumps([change(answers[0]), *answers[1:]]))
