"""`routed tor-config --rack`: of a Rack and its Nodes it writes what it writes of an equal rack file."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from routed.cli.main import app
from routed.kube.addresses import RACK_LABEL
from routed.kube.errors import Malformed
from routed.kube.whole import manifests, rack_to_be
from routed.settings import Settings, SettingsError, validated
from routed.torconfig.plan import plan
from routed.torconfig.render import render
from routed.torconfig.settings import FabricFile
from routed.torconfig.vendor_name import VendorName
from tests.kube.binaries import program
from tests.kube.control_plane import ControlPlane
from tests.kube.installed import NODES, RACKS, clear
from tests.kube.pages import DOCS, commands

ROOT = Path(__file__).parents[2]
ROLE = "/apis/rbac.authorization.k8s.io/v1"
PAGE = commands(DOCS / "tor-config.md", "A rack of a cluster")
IN_COMMON = ("tors", "hosts", "pools", "services", "vlan", "steering", "ipam")
NEW = "s13"
GROWN = {"prefix": "10.101.7.0/24", "gateway": "10.101.7.1"}
Document = dict[str, Any]


def rack_file(vendor: VendorName = VendorName.FRR) -> Document:
    """Return the rack file of a vendor's samples; its servers have names that no other test's Nodes have."""
    lab = ROOT / "containerlab" / "racks" / "r1.yaml"
    text = (lab if vendor is VendorName.FRR else ROOT / "deploy" / "tor" / vendor / "rack.yaml").read_text()
    document: Document = yaml.safe_load(text.replace("s11", "t11").replace("s12", "t12"))
    return document


def rack_of(file: Document) -> Document:
    """Return the same as a Rack."""
    bgp = {key: value for key, value in file["bgp"].items() if key != "password_file"}
    said = {key: value for key, value in file.items() if key in IN_COMMON and value is not None}
    head = {"apiVersion": "routed.dev/v1alpha1", "kind": "Rack", "metadata": {"name": file["rack"]}}
    return {**head, "spec": {**said, "bgp": bgp}}


def node(name: str, addresses: Sequence[str], **labels: str) -> Document:
    status = {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]}
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status}


@pytest.fixture(scope="module", autouse=True)
def nodes(cluster: ControlPlane) -> Iterator[None]:
    """The two servers of the rack, and one that is not in it yet."""
    servers = {name: server["addresses"] for name, server in rack_file()["servers"].items()}
    labels = {RACK_LABEL: "r1"}
    made = [node(name, addresses, **labels) for name, addresses in servers.items()]
    made.append(node(NEW, ["10.1.0.13", "fd00:1::13"]))
    for one in made:
        cluster.admin.post(NODES, one).granted()
    yield
    for one in made:
        cluster.admin.delete(f"{NODES}/{one['metadata']['name']}").granted()


@pytest.fixture
def racks(cluster: ControlPlane) -> Iterator[str]:
    """Where the Racks are, of which there is r1."""
    clear(cluster, RACKS)
    cluster.admin.apply(rack_of(rack_file())).granted()
    yield RACKS
    clear(cluster, RACKS)


@pytest.fixture
def kubeconfig(cluster: ControlPlane, tmp_path: Path) -> Path:
    return cluster.kubeconfig(cluster.admin, tmp_path / "kubeconfig")


@pytest.fixture
def fabric(tmp_path: Path) -> Path:
    path = tmp_path / "fabric.yaml"
    path.write_text(yaml.safe_dump({"fabric": rack_file()["fabric"]}))
    return path


def tor_config(*arguments: object, **environment: str) -> Result:
    command = ["tor-config", "--vendor", "frr", "--tor", "r1a", *map(str, arguments)]
    return CliRunner(env={"KUBECONFIG": None, **environment}).invoke(app, command)


def written(*arguments: object, **environment: str) -> str:
    done = tor_config(*arguments, **environment)
    assert (done.exception, done.stderr) == (None, "")
    return done.stdout


def refused(*arguments: object) -> str:
    done = tor_config(*arguments)
    assert isinstance(done.exception, SettingsError)
    assert done.stdout == ""
    return str(done.exception)


def kubectl(kubeconfig: Path, *words: str) -> str:
    command = [str(program("kubectl")), f"--kubeconfig={kubeconfig}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def typed(beginning: str, **capitals: str) -> list[list[str]]:
    """Return the words of the page's commands that begin so, without the program's name."""
    found = [line.split(" >")[0] for _, line in PAGE if line.startswith(beginning)]
    assert found, f"the page does not say to type {beginning}"
    return [[re.sub("[A-Z]{4,}", lambda word: capitals[word[0]], word) for word in line.split()[1:]] for line in found]


def of_file(document: Document, folder: Path) -> str:
    file = folder / "rack.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return written(file)


def texts(settings: Settings, vendor: VendorName) -> list[str]:
    return [file.text for tor in ("r1a", "r1b") for file in render(plan(settings, tor), vendor)]


@pytest.mark.parametrize("vendor", VendorName)
async def test_a_rack_object_is_written_as_its_rack_file_is(
    cluster: ControlPlane, racks: str, kubeconfig: Path, vendor: VendorName
) -> None:
    file = rack_file(vendor)
    cluster.admin.delete(f"{racks}/r1").granted()
    cluster.admin.apply(rack_of(file)).granted()
    found = await rack_to_be("r1", (), kubeconfig)
    side = FabricFile.model_validate({"fabric": file["fabric"]}).fabric
    assert texts(found.model_copy(update={"fabric": side}), vendor) == texts(validated(file, "the file"), vendor)


@pytest.mark.usefixtures("racks")
def test_the_command_writes_the_same_of_both(kubeconfig: Path, fabric: Path, tmp_path: Path) -> None:
    file = rack_file()
    wanted = of_file(file, tmp_path)
    assert written("--rack", "r1", "--kubeconfig", kubeconfig, "--context", "routed", "--fabric", fabric) == wanted
    assert written("--rack", "r1", "--fabric", fabric, KUBECONFIG=str(kubeconfig)) == wanted
    bare = of_file({key: value for key, value in file.items() if key != "fabric"}, tmp_path)
    assert written("--rack", "r1", "--kubeconfig", kubeconfig) == bare != wanted


def test_a_secret_of_the_cluster_is_a_placeholder_unless_it_is_given(
    cluster: ControlPlane, racks: str, kubeconfig: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of-both\n")
    arguments = ("--rack", "r1", "--kubeconfig", kubeconfig)
    assert "a Rack's bgp.password_secret" in refused(*arguments, "--password-file", secret)
    change = {"spec": {"bgp": {"password_secret": {"name": "routed-bgp", "key": "r1"}}}}
    cluster.admin.patch(f"{racks}/r1", change, "merge").granted()
    assert "password <md5-key>" in written(*arguments)
    assert "password of-both" in written(*arguments, "--password-file", secret)


@pytest.mark.usefixtures("racks")
def test_a_server_is_in_the_text_before_its_node_is_in_the_rack(kubeconfig: Path, tmp_path: Path) -> None:
    arguments = ("--rack", "r1", "--kubeconfig", kubeconfig)
    (dry,) = typed("kubectl label")
    change = tmp_path / "change.yaml"
    change.write_text(kubectl(kubeconfig, *dry))
    assert NEW not in written(*arguments)
    before = written(*arguments, change)
    assert f"FROM-{NEW}" in before
    try:
        kubectl(kubeconfig, "label", "node", NEW, f"{RACK_LABEL}=r1")
        assert written(*arguments) == before
    finally:
        kubectl(kubeconfig, "label", "node", NEW, f"{RACK_LABEL}-")


@pytest.mark.usefixtures("racks")
def test_a_pool_is_in_the_text_before_the_rack_has_it(kubeconfig: Path, tmp_path: Path) -> None:
    arguments = ("--rack", "r1", "--kubeconfig", kubeconfig)
    grow = json.dumps([{"op": "add", "path": "/spec/pools/-", "value": GROWN}])
    patch = ("patch", "rack", "r1", "--type=json", f"--patch={grow}")
    change = tmp_path / "change.yaml"
    change.write_text(kubectl(kubeconfig, *patch, "--dry-run=server", "--output=yaml"))
    assert GROWN["prefix"] not in written(*arguments)
    before = written(*arguments, change)
    assert GROWN["prefix"] in before
    kubectl(kubeconfig, *patch)
    assert written(*arguments) == before


@pytest.mark.usefixtures("racks")
async def test_a_rack_that_no_agent_would_follow_is_not_written(kubeconfig: Path, tmp_path: Path) -> None:
    second = rack_of(rack_file())
    second["metadata"]["name"] = "r2"
    file = tmp_path / "r2.yaml"
    file.write_text(
        yaml.safe_dump({"kind": "List", "items": [second, node("t21", ["10.1.0.21"], **{RACK_LABEL: "r2"})]})
    )
    with pytest.raises(Malformed, match=r"Rack r2: spec.pools: .* is in a pool of Rack r1"):
        await rack_to_be("r2", manifests(file), kubeconfig)
    second["spec"]["pools"] = [GROWN]
    file.write_text(
        yaml.safe_dump({"kind": "List", "items": [second, node("t21", ["10.1.0.21"], **{RACK_LABEL: "r2"})]})
    )
    assert list((await rack_to_be("r2", manifests(file), kubeconfig)).servers) == ["t21"]


def test_what_is_not_there_is_told_with_what_to_do_next(cluster: ControlPlane, racks: str, kubeconfig: Path) -> None:
    def said(name: str) -> str:
        return refused("--rack", name, "--kubeconfig", kubeconfig)

    empty = rack_of(rack_file())
    empty["metadata"]["name"], empty["spec"]["pools"] = "r3", [GROWN]
    cluster.admin.apply(empty).granted()
    assert f"the Kubernetes API of {kubeconfig}: there is no Rack r9 (there are: r1, r3)" in said("r9")
    assert "Rack r3 selects no Node; label its servers' Nodes: kubectl label node NODE routed.dev/rack=r3" in said("r3")
    clear(cluster, racks)
    assert "(there are: none; is this the right cluster?)" in said("r1")


@pytest.mark.usefixtures("racks")
def test_to_list_racks_and_nodes_is_all_that_it_takes(cluster: ControlPlane, kubeconfig: Path, tmp_path: Path) -> None:
    engineer = cluster.client_for("network-engineer")
    arguments = ("--rack", "r1", "--kubeconfig", cluster.kubeconfig(engineer, tmp_path / "engineer"))
    said = refused(*arguments)
    assert 'User "network-engineer" cannot list resource "racks"' in said
    assert "have somebody let this user list Racks and Nodes" in said
    try:
        for line in typed("kubectl create", USER="network-engineer"):
            kubectl(kubeconfig, *line)
        assert written(*arguments) == written("--rack", "r1", "--kubeconfig", kubeconfig)
    finally:
        for kind in ("clusterroles", "clusterrolebindings"):
            cluster.admin.delete(f"{ROLE}/{kind}/routed-tor-config")
