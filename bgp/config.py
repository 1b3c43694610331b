"""ExaBGP's configuration file: rendered, and split again into what each neighbour runs. Pure but for `read_password`.

Each neighbour's section stands by itself and carries, as its description, a digest of all the rest: the *generation*.
A description can change without touching the session, ExaBGP shows it on request, and so a section that was written can
be told from a section that is in force.

Keywords, and why: ``manual-eor`` because the automatic End-of-RIB leaves before the first route and makes the
neighbours drop what graceful restart kept; ``adj-rib-out`` so that ExaBGP replays its routes to a switch that comes
back while no agent runs; ``send { parsed; update; }`` because an acknowledgement says *queued*, never *sent*;
``md5-base64 false`` because a key of hexadecimal digits would be decoded. Source: ExaBGP 5.0.15.
"""

from __future__ import annotations

import hashlib
import re
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from bgp.errors import ConfigError, PasswordError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bgp.model import IPAddress, Neighbor, SpeakerConfig

_SECTION = re.compile(r"^neighbor (?P<address>\S+) \{\n.*?^\}\n", re.MULTILINE | re.DOTALL)
_GENERATION = re.compile(r'^    description "(?P<generation>[^"]*)";$', re.MULTILINE)
_IDENTITY = re.compile(r"^    (?:router-id|local-address|local-as|peer-as) .*;$", re.MULTILINE)


def read_password(path: Path) -> str:
    """Return the first line of a password file; PasswordError when there is none, whatever the reason."""
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, ValueError) as error:
        raise PasswordError(f"password_file: {path} cannot be read: {error}") from error
    if not lines or not lines[0].strip():
        raise PasswordError(f"password_file: {path} is empty; remove the key to peer without a password")
    return lines[0].strip()


def section(config: SpeakerConfig, neighbor: Neighbor) -> str:
    """Return what one neighbour's section says."""
    restart = (
        f"graceful-restart {config.graceful_restart_s}" if config.graceful_restart_s else "graceful-restart disable"
    )
    optional = [
        f"listen {config.listen_port}" if config.listen_port else "",
        f'md5-password "{neighbor.password}"' if neighbor.password else "",
        "md5-base64 false" if neighbor.password else "",
        "outgoing-ttl 255" if neighbor.direct else "",
        "incoming-ttl 255" if neighbor.direct else "",
    ]
    lines = [
        f"router-id {config.router_id};",
        f"local-address {config.local_address};",
        f"local-as {config.local_as};",
        f"peer-as {neighbor.asn};",
        f"hold-time {config.hold_time_s};",
        *(f"{line};" for line in optional if line),
        "manual-eor true;",
        "group-updates true;",
        "adj-rib-out true;",
        "adj-rib-in true;",
        "family { ipv4 unicast; ipv6 unicast; }",
        f"capability {{ asn4 enable; route-refresh enable; {restart}; }}",
        "api {",
        "    processes [ relay ]; neighbor-changes; negotiated;",
        "    receive { parsed; update; } send { parsed; update; }",
        "}",
    ]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    lines.insert(0, f'description "{neighbor.name} {digest}";')
    return f"neighbor {neighbor.address} {{\n" + "".join(f"    {line}\n" for line in lines) + "}\n"


def sections(config: SpeakerConfig) -> dict[IPAddress, str]:
    """Return every neighbour's section."""
    return {neighbor.address: section(config, neighbor) for neighbor in config.neighbors}


def render(wanted: Iterable[str], relay: Sequence[str]) -> str:
    """Return the whole file: the relay that ExaBGP runs, with its arguments, and the neighbours' sections."""
    process = f"process relay {{\n    run {' '.join(relay)};\n    encoder json;\n}}\n"
    return "\n".join([process, *wanted])


def split(text: str) -> dict[IPAddress, str]:
    """Return every neighbour's section of a file that `render` made; ConfigError when it did not."""
    try:
        return {ip_address(found["address"]): found[0] for found in _SECTION.finditer(text)}
    except ValueError as error:
        raise ConfigError("the configuration file of the running ExaBGP was written by somebody else") from error


def generation(text: str) -> str:
    """Return the description of a section."""
    found = _GENERATION.search(text)
    return found["generation"] if found else ""


def digest(text: str) -> str:
    """Return the part of a section's generation that changes with what the session depends on."""
    return generation(text).rpartition(" ")[2]


def identity(text: str) -> list[str]:
    """Return what ExaBGP recognises a neighbour by: when it changes, ExaBGP forgets that neighbour's adj-rib-out."""
    return _IDENTITY.findall(text)
