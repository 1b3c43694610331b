from __future__ import annotations

from pathlib import Path

import pytest

from containerlab.cli import graph
from containerlab.errors import TopologyError
from containerlab.graph import mermaid
from containerlab.topology import TWO_RACKS, Endpoint, load

SMALL = """
name: small
topology:
  defaults: {kind: linux, sysctls: {net.ipv4.ip_forward: 0, net.ipv4.conf.all.rp_filter: 2}, exec: [first]}
  groups:
    router:
      image: lab/plain:latest
      binds: ["__clabNodeName__.conf:/etc/plain.conf:ro"]
      env: {COLOUR: red, SIZE: 1}
      sysctls: {net.ipv4.ip_forward: 1}
      exec: [second]
      healthcheck: {test: [CMD, "true"], interval: 1}
  nodes:
    left: {group: router, env: {COLOUR: blue}, exec: [third], healthcheck: {test: [CMD-SHELL, a && b]}}
    right: {group: router, binds: ["left.conf:/etc/plain.conf"]}
  links:
    - endpoints: ["left:eth1", "right:eth1"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images" / "plain").mkdir(parents=True)
    (tmp_path / "images" / "plain" / "start.sh").touch()
    for name in ("left", "right"):
        (tmp_path / f"{name}.conf").touch()
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "small.clab.yml"
    path.write_text(text)
    return path


def test_what_is_more_specific_wins_and_maps_merge(folder: Path) -> None:
    nodes = load(write(folder, SMALL)).nodes
    left, right = nodes["left"], nodes["right"]
    assert left.env == {"COLOUR": "blue", "SIZE": "1"}
    assert right.env == {"COLOUR": "red", "SIZE": "1"}
    assert left.sysctls == {"net.ipv4.ip_forward": "1", "net.ipv4.conf.all.rp_filter": "2"}
    assert left.exec == ("first", "second", "third")
    assert left.image == folder / "images" / "plain"


def test_binds_know_the_nodes_name_and_merge_by_target(folder: Path) -> None:
    nodes = load(write(folder, SMALL)).nodes
    (left,) = nodes["left"].binds
    (right,) = nodes["right"].binds
    assert (left.source, left.target, left.read_only) == (folder / "left.conf", "/etc/plain.conf", True)
    assert (right.source, right.read_only) == (folder / "left.conf", False)


def test_health_checks_are_docker_s(folder: Path) -> None:
    nodes = load(write(folder, SMALL)).nodes
    left, right = nodes["left"].healthcheck, nodes["right"].healthcheck
    assert left is not None
    assert right is not None
    assert left.command == ("/bin/sh", "-c", "a && b")
    assert right.command == ("true",)
    assert (right.interval, right.retries) == (1, 3)


def test_links_have_containerlabs_mtu_unless_they_say_otherwise(folder: Path) -> None:
    (link,) = load(write(folder, SMALL)).links
    assert link.mtu == 9500
    assert link.ends == (Endpoint("left", "eth1"), Endpoint("right", "eth1"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            (" image: lab/plain:latest", " pull: lab/plain"),
            "topology.groups.router.pull: this runner does not know the key",
        ),
        (("lab/plain:latest", "lab/other"), "topology.nodes.left.image: lab/other: there is no"),
        ((" image: lab/plain:latest", ""), "topology.nodes.left.image: missing"),
        (("kind: linux, ", ""), "topology.nodes.left.kind: missing"),
        (("kind: linux", "kind: linux, privileged: 7"), "topology.defaults.privileged: Input should be a valid bool"),
        (("name: small", "name: small\nmgmt: {network: x}"), "mgmt.network: this runner does not know the key"),
        (("kind: linux", "kind: nokia_srlinux"), "topology.defaults.kind: Input should be 'linux'"),
        (("group: router, env", "group: routers, env"), "topology.nodes.left.group: there is no group 'routers'"),
        (
            ("__clabNodeName__.conf:", "none.conf:"),
            "topology.nodes.left.binds: none.conf:/etc/plain.conf:ro: there is no",
        ),
        ((":/etc/plain.conf:ro", ":etc/plain.conf"), "must be source:/absolute/target"),
        (('"right:eth1"', '"middle:eth1"'), "topology.links.0.endpoints: middle:eth1: there is no node 'middle'"),
        (('"right:eth1"', '"right"'), "topology.links.0.endpoints: 'right' is not node:interface"),
        (('"right:eth1"', '"left:eth1"'), "topology.links.0.endpoints: left:eth1: the interface has a link already"),
        (('"right:eth1"', '"right:a-very-long-name"'), "an interface's name has at most 15 characters"),
        (("name: small", "title: small"), "name: Field required"),
        (("nodes:", "nodes: ["), "not YAML"),
    ],
)
def test_a_mistake_is_named_with_its_place(folder: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in SMALL
    path = write(folder, SMALL.replace(*change))
    with pytest.raises(TopologyError) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_all_mistakes_are_told_at_once(folder: Path) -> None:
    text = SMALL.replace("lab/plain:latest", "lab/other").replace('"right:eth1"', '"middle:eth1"')
    with pytest.raises(TopologyError) as caught:
        load(write(folder, text))
    assert "images/other" in str(caught.value)
    assert "middle:eth1" in str(caught.value)


def test_a_missing_file_is_an_error_of_the_topology(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="No such file"):
        load(tmp_path / "none.clab.yml")


def test_the_two_racks_are_what_they_say() -> None:
    plan = load(TWO_RACKS)
    assert len(plan.nodes) == 10
    assert len(plan.links) == 2 * 4 + 4 * 2
    pair = {frozenset(end.node for end in link.ends) for link in plan.links}
    assert {"r1a", "r1b"} not in pair, "a stackless pair has no link of its own"


def test_the_graph_draws_every_link(capsys: pytest.CaptureFixture[str]) -> None:
    graph(TWO_RACKS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "graph TD"
    assert '  r1a ---|"s11 : etha"| s11' in lines
    assert sum(" ---|" in line for line in lines) == len(load(TWO_RACKS).links)


def test_the_graph_in_the_docs_is_the_files() -> None:
    page = (TWO_RACKS.parents[1] / "docs" / "fabric.md").read_text()
    assert f"```mermaid\n{mermaid(load(TWO_RACKS))}\n```\n" in page, "python -m containerlab graph prints it"
