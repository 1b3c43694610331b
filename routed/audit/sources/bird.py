"""BIRD 2, asked through `birdc`: its text, since it has no other form. `birdc -r` is enough.

BIRD does not say per route whether graceful restart keeps it, only per session; nor whether the kernel has a route,
only that the kernel refused it ("!"). What that leaves open is None.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from ipam.model import IPAddress, IPNetwork
from routed.audit.model import Route, Shell, SwitchView
from routed.audit.sources import CouldNotObserve
from routed.audit.sources.command import Command

_READY = re.compile(r"BIRD 2\.\S+ ready\.")
_PROTOCOL = re.compile(r"(?P<name>\S+) +(?P<type>\S+) +(?:\S+) +(?:up|down|start|stop|flush)\b.*")
_PATH = re.compile(
    r"(?P<prefix>\S+)? +(?P<way>unicast|unreachable|blackhole|prohibited) "
    r"\[(?P<protocol>\S+) [^\]]*\](?P<marks>[ *!]*)\(.*"
)
_NUMBERS = re.compile(r"\(([0-9, ]+)\)")
_CONTINUED = "\t\t"


@dataclass(frozen=True, slots=True)
class Session:
    """What BIRD says of one BGP protocol."""

    neighbor: IPAddress | None
    """None for a range of neighbours."""
    established: bool
    restarting: bool
    """Graceful restart keeps routes of it."""

    @property
    def stale(self) -> bool | None:
        """Whether its routes are stale; None while new ones stand beside old ones."""
        if not self.restarting:
            return False
        return None if self.established else True


@dataclass(slots=True)
class _Path:
    prefix: IPNetwork
    way: str
    protocol: str
    marks: str
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bird:
    """One switch with BIRD 2."""

    name: str
    command: Command
    """Ends with ``birdc``, and its options."""

    async def observe(self) -> SwitchView:
        """Return its paths in BIRD's default tables; CouldNotObserve."""
        protocols = await self.command.run("show", "protocols", "all")
        routes = await self.command.run("show", "route", "all")
        try:
            return SwitchView(self.name, tuple(parse(routes, sessions(protocols))), Shell.BIRDC)
        except (ValueError, KeyError) as error:
            raise CouldNotObserve(f"{self.command}: this is not what BIRD 2 says of its routes: {error}") from error


def sessions(text: str) -> dict[str, Session]:
    """Return the BGP protocols of ``show protocols all`` by name; ValueError for anything else."""
    found: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in _answer(text)[1:]:
        if line.startswith(" "):
            if current is not None:
                current.append(line.strip())
        elif match := _PROTOCOL.fullmatch(line):
            current = found.setdefault(match["name"], []) if match["type"] == "BGP" else None
        else:
            raise ValueError(line)
    return {name: _session(lines) for name, lines in found.items()}


def _session(lines: list[str]) -> Session:
    said = dict(line.partition(":")[::2] for line in lines)
    neighbor = said.get("Neighbor address", "").strip().partition("%")[0]
    return Session(
        neighbor=ip_address(neighbor) if neighbor else None,
        established=said.get("BGP state", "").strip() == "Established",
        restarting="Neighbor graceful restart active" in lines,
    )


def parse(text: str, of: Mapping[str, Session]) -> Iterator[Route]:
    """Yield the paths of ``show route all``; ValueError or KeyError for anything else.

    The connected networks are left out: a switch announces those by other routes, if at all.
    """
    for path in _paths(_answer(text)):
        kind = path.attributes["Type"].split()[0]
        if kind == "BGP":
            yield _learned(path, of[path.protocol])
        elif kind != "device":
            best = "*" in path.marks
            yield Route(path.prefix, (), communities=None, best=best, installed=_installed(path), stale=False)


def _answer(text: str) -> list[str]:
    """Return the lines of an answer after the greeting."""
    greeting, *lines = [line for line in text.splitlines() if line.strip()] or [""]
    if not _READY.fullmatch(greeting):
        raise ValueError(f"it begins with {greeting!r}")
    return [line for line in lines if line != "Access restricted"]


def _paths(lines: list[str]) -> Iterator[_Path]:
    path: _Path | None = None
    name = ""
    for line in lines:
        if line.startswith(_CONTINUED) and path is not None:
            path.attributes[name] += f" {line.strip()}"
        elif line.startswith("\t") and path is not None:
            name, _, value = line.strip().partition(": ")  # next hops, "via" and "dev", are such names, too
            path.attributes[name] = value
        elif match := _PATH.fullmatch(line):
            if path is not None:
                yield path
            prefix = ip_network(match["prefix"]) if match["prefix"] else path.prefix if path is not None else None
            if prefix is None:
                raise ValueError(line)
            path = _Path(prefix, match["way"], match["protocol"], match["marks"])
        elif not line.startswith("Table "):
            raise ValueError(line)
    if path is not None:
        yield path


def _learned(path: _Path, session: Session) -> Route:
    said = path.attributes
    hops = [ip_address(word) for word in said["BGP.next_hop"].split()]
    words = said.get("BGP.as_path", "").replace("{", " ").replace("}", " ").split()
    return Route(
        prefix=path.prefix,
        next_hops=tuple(hop for hop in hops if not hop.is_link_local) or tuple(hops),
        as_path=tuple(map(int, words)),
        communities=frozenset(
            ":".join(numbers.replace(",", " ").split())
            for name in ("BGP.community", "BGP.large_community")
            for numbers in _NUMBERS.findall(said.get(name, ""))
        ),
        best="*" in path.marks,
        installed=_installed(path),
        stale=session.stale,
        peer=session.neighbor,
    )


def _installed(path: _Path) -> bool | None:
    """Return False for what cannot be in the forwarding table: not chosen, refused, or with a next hop that is lost."""
    lost = path.way != "unicast" and path.attributes["Type"].startswith("BGP")
    return False if "*" not in path.marks or "!" in path.marks or lost else None
