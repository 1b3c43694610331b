"""Reads a topology file of containerlab (https://containerlab.dev/manual/topo-def-file) into plain values.

Owns the part of the format that namespaces can realise, and refuses every other key by name rather than ignore it. What
`defaults`, `kinds`, `groups` and a node say is merged as containerlab does: the more specific wins; maps are merged by
key, binds by destination, and commands add up. Never touches the machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from containerlab.errors import TopologyError

TWO_RACKS = Path(__file__).parent / "two-racks.clab.yml"
"""The topology of the demo and the tests."""
DEFAULT_MTU = 9500  # containerlab's

Text = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int | float) else value)]
NAME = r"^[a-zA-Z0-9][a-zA-Z0-9-]*$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Healthcheck(_Strict):
    """When a node is healthy, as Docker defines it; durations in seconds."""

    test: Annotated[tuple[str, ...], Field(min_length=2)]
    """CMD and its arguments, or CMD-SHELL and one line of shell."""
    start_period: float = Field(0, alias="start-period")
    interval: float = 30
    timeout: float = 30
    retries: int = 3

    @property
    def command(self) -> tuple[str, ...]:
        """The argument vector to run inside the node."""
        how, *arguments = self.test
        return tuple(arguments) if how == "CMD" else ("/bin/sh", "-c", *arguments)


class _Management(_Strict):
    """The management network: there is none, since no node has an interface for it."""

    skip_when_unused: Annotated[Literal[True], Field(alias="skip-when-unused")]


class _Settings(_Strict):
    """What `defaults`, `kinds`, `groups` and nodes may say."""

    kind: Literal["linux"] | None = None
    group: str | None = None
    image: str | None = None
    binds: tuple[str, ...] = ()
    env: dict[str, Text] = {}
    exec: tuple[str, ...] = ()
    sysctls: dict[str, Text] = {}
    network_mode: Annotated[Literal["none"] | None, Field(alias="network-mode")] = None
    """A node never has the management interface that containerlab adds unless this says none."""
    privileged: bool | None = None
    """For containers only, as are the next: a node of namespaces may do what this process may."""
    cap_add: Annotated[tuple[str, ...], Field(alias="cap-add")] = ()
    security_opts: Annotated[tuple[str, ...], Field(alias="security-opts")] = ()
    devices: tuple[str, ...] = ()
    restart_policy: Annotated[Literal["no"] | None, Field(alias="restart-policy")] = None
    healthcheck: Healthcheck | None = None


class _Link(_Strict):
    endpoints: Annotated[tuple[str, ...], Field(min_length=2, max_length=2)]
    mtu: Annotated[int, Field(ge=68, le=65535)] = DEFAULT_MTU


class _Body(_Strict):
    defaults: _Settings = _Settings()
    kinds: dict[str, _Settings] = {}
    groups: dict[str, _Settings] = {}
    nodes: Annotated[dict[Annotated[str, Field(pattern=NAME)], _Settings | None], Field(min_length=1)]
    links: tuple[_Link, ...] = ()


class _File(_Strict):
    name: Annotated[str, Field(pattern=NAME)]
    mgmt: _Management | None = None
    topology: _Body


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or folder of the host that a node sees."""

    source: Path
    target: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node, with everything that it inherits."""

    name: str
    group: str | None
    image: Path
    """Folder of what the image runs: `<folder>/start.sh` is its entrypoint."""
    binds: tuple[Bind, ...]
    env: dict[str, str]
    exec: tuple[str, ...]
    sysctls: dict[str, str]
    healthcheck: Healthcheck | None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a link: an interface of a node."""

    node: str
    interface: str

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read "node:interface"; ValueError when it is something else."""
        node, colon, interface = text.partition(":")
        if not (node and colon and interface) or ":" in interface:
            raise ValueError(f"{text!r} is not node:interface")
        return cls(node, interface)

    def __str__(self) -> str:
        return f"{self.node}:{self.interface}"


@dataclass(frozen=True, slots=True)
class Link:
    """A cable between two interfaces; MTU in bytes."""

    ends: tuple[Endpoint, Endpoint]
    mtu: int


@dataclass(frozen=True, slots=True)
class Topology:
    """A topology file, read and checked."""

    path: Path
    name: str
    nodes: dict[str, NodeSpec]
    links: tuple[Link, ...]


def load(path: Path) -> Topology:
    """Read and check a topology file.

    Raises:
        TopologyError: with a line per problem, each naming its place in the file.
    """
    path = path.resolve()
    try:
        file = _File.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise TopologyError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise TopologyError(f"{path}: not YAML: {error}") from error
    except ValidationError as error:
        raise TopologyError("\n".join(f"{path}: {problem}" for problem in _explain(error))) from error
    problems: list[str] = []
    nodes = {name: _node(path.parent, file.topology, name, problems) for name in file.topology.nodes}
    links = tuple(_links(file.topology.links, nodes, problems))
    if problems:
        raise TopologyError("\n".join(f"{path}: {problem}" for problem in problems))
    return Topology(path, file.name, nodes, links)


def _explain(error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"]) or "the file"
        what = "this runner does not know the key" if problem["type"] == "extra_forbidden" else problem["msg"]
        yield f"{place}: {what}"


def _node(folder: Path, body: _Body, name: str, problems: list[str]) -> NodeSpec:
    own = body.nodes[name] or _Settings()
    group = own.group or body.defaults.group
    if group is not None and group not in body.groups:
        problems.append(f"topology.nodes.{name}.group: there is no group {group!r}")
    of_group = body.groups.get(group or "", _Settings())
    kind = own.kind or of_group.kind or body.defaults.kind
    if kind is None:
        problems.append(f"topology.nodes.{name}.kind: missing, here and in defaults")
    levels = (body.defaults, body.kinds.get(kind or "", _Settings()), of_group, own)
    image = next((level.image for level in reversed(levels) if level.image), None)
    return NodeSpec(
        name=name,
        group=group,
        image=_image(folder, name, image, problems),
        binds=_binds(folder, name, (bind for level in levels for bind in level.binds), problems),
        env={key: value for level in levels for key, value in level.env.items()},
        exec=tuple(command for level in levels for command in level.exec),
        sysctls={key: value for level in levels for key, value in level.sysctls.items()},
        healthcheck=next((level.healthcheck for level in reversed(levels) if level.healthcheck), None),
    )


def _image(folder: Path, name: str, image: str | None, problems: list[str]) -> Path:
    """Find what an image runs: `anything/tor:tag` is the folder `images/tor`, beside the topology file or this one."""
    if image is None:
        problems.append(f"topology.nodes.{name}.image: missing, here and in its group")
        return folder
    script = Path("images", image.rpartition("/")[2].partition(":")[0], "start.sh")
    places = (folder, TWO_RACKS.parent)
    source = next((place for place in places if (place / script).is_file()), None)
    if source is None:
        problems.append(f"topology.nodes.{name}.image: {image}: there is no {folder / script}")
    return (source or folder) / script.parent


def _binds(folder: Path, name: str, binds: Iterable[str], problems: list[str]) -> tuple[Bind, ...]:
    found: dict[str, Bind] = {}
    for text in binds:
        place = f"topology.nodes.{name}.binds: {text}"
        source, _, rest = text.replace("__clabNodeName__", name).partition(":")
        target, _, mode = rest.partition(":")
        if not target.startswith("/") or mode not in {"", "ro", "rw"}:
            problems.append(f"{place}: must be source:/absolute/target or source:/absolute/target:ro")
        elif not (folder / source).exists():
            problems.append(f"{place}: there is no {folder / source}")
        found[target] = Bind(folder / source, target, read_only=mode == "ro")
    return tuple(found.values())


def _links(links: Iterable[_Link], nodes: dict[str, NodeSpec], problems: list[str]) -> Iterator[Link]:
    used: Counter[Endpoint] = Counter()
    for number, link in enumerate(links):
        place = f"topology.links.{number}.endpoints"
        try:
            left, right = (Endpoint.parse(text) for text in link.endpoints)
        except ValueError as error:
            problems.append(f"{place}: {error}")
            continue
        for end in (left, right):
            used[end] += 1
            if end.node not in nodes:
                problems.append(f"{place}: {end}: there is no node {end.node!r}")
            if len(end.interface) > 15:
                problems.append(f"{place}: {end}: an interface's name has at most 15 characters")
            if used[end] == 2:
                problems.append(f"{place}: {end}: the interface has a link already")
        yield Link((left, right), link.mtu)
