"""The chart, the kustomize base and the example say the same; options do what they say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from routed.cli.prepare import own_file
from routed.kube.racks import own_rack, settings_of
from routed.settings import load, read
from tests.deploy.render import CHART, VALUES, helm, kustomize, rendered
from tests.deploy.tools import TOOLS
from tests.manifests import DEPLOY, Object, container, parse, pod_spec

pytestmark = pytest.mark.timeout(900)  # the tools may have to be built first

RESOURCES = DEPLOY.parent / "docs/custom-resources.md"
MONITORING = ("--set", "monitoring.serviceMonitor=true,monitoring.rules=true,monitoring.dashboard=true")


def named(objects: list[Object]) -> dict[tuple[str, str, str], Object]:
    found = {(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): one for one in objects}
    assert len(found) == len(objects)
    return found


def daemon_set(*arguments: str | Path) -> Object:
    (one,) = (one for one in parse(helm(*arguments)) if one["kind"] == "DaemonSet")
    return one


# ---- one source of truth


def test_what_stands_in_the_repository_is_what_the_chart_renders() -> None:
    for path, text in rendered().items():
        assert path.read_text() == text, f"{path.name}: `make manifests` was forgotten"


def test_helm_and_kustomize_install_the_same_objects() -> None:
    objects = named(parse(helm("--include-crds", "--set", "namespace.create=true", *MONITORING)))
    assert (
        named(parse(kustomize(DEPLOY / "kustomize/base")) + parse(kustomize(DEPLOY / "kustomize/monitoring")))
        == objects
    )
    assert {kind for kind, _, _ in objects} >= {"DaemonSet", "ServiceMonitor", "PrometheusRule", "ClusterRole"}


def test_a_change_of_the_chart_is_noticed(tmp_path: Path) -> None:
    """Negative control of the two before."""
    changed = tmp_path / "chart"
    shutil.copytree(CHART, changed)
    template = changed / "templates/daemonset.yaml"
    template.write_text(template.read_text().replace("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"))
    base = named(parse(kustomize(DEPLOY / "kustomize/base")))
    other = named(parse(helm("--include-crds", "--values", VALUES, chart=changed)))
    assert {key for key in base if base[key] != other[key]} == {("DaemonSet", "routed", "routed")}


def test_resources_and_access_rules_are_those_beside_the_chart() -> None:
    written = [
        one
        for folder in ("crds", "access")
        for file in (DEPLOY / folder).glob("*.yaml")
        for one in parse(file.read_text())
    ]
    objects = named(parse(kustomize(DEPLOY / "kustomize/base")))
    assert named(written).items() <= objects.items()


def test_helm_finds_nothing_to_say_against_the_chart() -> None:
    linted = subprocess.run(
        [TOOLS.program("helm"), "lint", "--strict", CHART], capture_output=True, text=True, check=False
    )
    assert linted.returncode == 0, linted.stdout


# ---- what must be so


def test_the_agent_has_no_privilege_but_its_capabilities() -> None:
    spec, agent = pod_spec(), container("agent")["securityContext"]
    assert [key for key in ("hostPID", "hostIPC", "shareProcessNamespace") if key in spec] == []
    assert agent.keys() == {"allowPrivilegeEscalation", "readOnlyRootFilesystem", "seccompProfile", "capabilities"}
    assert agent["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (agent["allowPrivilegeEscalation"], agent["readOnlyRootFilesystem"]) == (False, True)
    assert agent["capabilities"]["drop"] == ["ALL"]
    assert "DAC_OVERRIDE" not in agent["capabilities"]["add"]


def test_only_what_needs_a_mount_on_the_server_is_privileged() -> None:
    spec = pod_spec()
    privileged = [
        one["name"]
        for one in (*spec["initContainers"], *spec["containers"])
        if one["securityContext"].get("privileged")
        or any(mount.get("mountPropagation") == "Bidirectional" for mount in one["volumeMounts"])
    ]
    assert privileged == ["prepare"]
    assert container("prepare")["securityContext"]["readOnlyRootFilesystem"]


def test_every_capability_has_its_reason_beside_it() -> None:
    lines = (CHART / "templates/daemonset.yaml").read_text().splitlines()
    (start,) = (number for number, line in enumerate(lines) if line.strip() == "add:")
    listed = [
        line.strip() for line in lines[start + 1 :] if line.strip().startswith("- ") and line.strip()[2].isupper()
    ]
    assert len(listed) == len(container("agent")["securityContext"]["capabilities"]["add"]) + 1  # the optional one
    assert all(len(line.partition("# ")[2]) > 10 for line in listed)


# ---- options


def test_agents_look_for_portmap_unless_host_ports_are_off() -> None:
    variable, mount = "ROUTED_CNI_BIN_DIR", "cni-bin"
    for arguments, looks in (((), True), (("--set", "hostPorts=false"), False)):
        (agent,) = daemon_set(*arguments)["spec"]["template"]["spec"]["containers"]
        mounts = [one for one in agent["volumeMounts"] if one["name"] == mount]
        paths = [one["value"] for one in agent["env"] if one["name"] == variable]
        assert paths == [one["mountPath"] for one in mounts]
        assert [one["readOnly"] for one in mounts] == [True] * looks


def test_racks_become_files_and_a_changed_rack_replaces_the_agents(tmp_path: Path) -> None:
    rack = yaml.safe_load((DEPLOY.parent / "rack.example.yaml").read_text())
    values = tmp_path / "values.yaml"
    pods = []
    for port in (9201, 9202):
        rack["metrics"]["port"] = port
        values.write_text(yaml.safe_dump({"racks": {"r1": rack}}))
        (config,) = (one for one in parse(helm("--values", values)) if one["kind"] == "ConfigMap")
        assert config["metadata"]["name"] == "routed-racks"
        (tmp_path / "r1.yaml").write_text(config["data"]["r1.yaml"])
        assert load(tmp_path / "r1.yaml").metrics.port == port
        pods.append(daemon_set("--values", values)["spec"]["template"]["metadata"])
    assert pods[0] != pods[1]


def test_reclaiming_is_not_checked_where_somebody_does_without(tmp_path: Path) -> None:
    """By the chart's option, and by the patch that docs/custom-resources.md has for kustomize."""
    everything = named(parse(helm("--values", VALUES))).keys()
    chart = named(parse(helm("--values", VALUES, "--set", "access.reclaimPolicy=false"))).keys()
    reclaiming = {("ValidatingAdmissionPolicy" + kind, "routed-reclaim") for kind in ("", "Binding")}
    assert {(kind, name) for kind, _, name in everything - chart} == reclaiming
    (patch,) = re.findall(r"```yaml\n(patches:\n.*?)```", RESOURCES.read_text(), re.DOTALL)
    example = shutil.copytree(DEPLOY / "kustomize", tmp_path / "kustomize") / "example"
    with (example / "kustomization.yaml").open("a") as file:
        file.write(patch)
    before, after = (named(parse(kustomize(folder))).keys() for folder in (DEPLOY / "kustomize/example", example))
    assert {(kind, name) for kind, _, name in before - after} == reclaiming


def test_a_server_without_open_vswitch_gets_its_pod_and_one_that_differs_its_own_file(tmp_path: Path) -> None:
    shared = {"kubernetes": {}, "bridge": {"name": "br0", "uplink": "bond0", "members": ["etha", "ethb"]}}
    own = {"kubernetes": {}, "ipvlan": {"uplink": "bond0", "members": ["ens1", "ens2"]}}
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"racks": {"agent": shared, "agent-node-7": own}}))
    objects = parse(helm("--values", values))
    (config,) = (one for one in objects if one["kind"] == "ConfigMap")
    for name, text in config["data"].items():
        (tmp_path / name).write_text(text)
    (tmp_path / "values.yaml").unlink()
    for node, expected in (("node-7", own), ("node-8", shared)):
        assert read(own_file(tmp_path, node)[0]) == expected
    (daemon,) = (one for one in objects if one["kind"] == "DaemonSet")
    volumes = {one["name"]: one.get("hostPath") for one in daemon["spec"]["template"]["spec"]["volumes"]}
    assert volumes["openvswitch"]["type"] == "DirectoryOrCreate", "a kubelet starts no pod beside a missing folder"


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ("image.digest=sha256:12", ["image: routed@sha256:12"]),
        ("image.repository=example.org/routed,image.tag=7", ["image: example.org/routed:7"]),
        ("updateStrategy.maxUnavailable=10%", ["maxUnavailable: 10%", "maxSurge: 0"]),
        ("dacOverride=true", ["- DAC_OVERRIDE"]),
        ("bgpSecret=md5", ["secretName: md5", "mountPath: /etc/routed/secrets/md5"]),
        (
            "hostPaths.cniConf=/var/lib/rancher/k3s/agent/etc/cni/net.d",
            ["path: /var/lib/rancher/k3s/agent/etc/cni/net.d"],
        ),
        ("metrics.port=9999", ["port: 9999"]),
    ],
)
def test_an_option_does_what_it_says(option: str, wanted: list[str]) -> None:
    (after,) = (yaml.safe_dump(daemon_set("--set", option)),)
    before = yaml.safe_dump(daemon_set())
    assert [text for text in wanted if text not in after] == []
    assert [text for text in wanted if text in before] in ([], ["maxSurge: 0"])


def test_only_who_asks_for_it_has_nics_set_up() -> None:
    spec = daemon_set("--set", "nic.setup=true,nic.vfs=16,nic.mtu=9000")["spec"]["template"]["spec"]
    assert [one["name"] for one in spec["initContainers"]] == ["prepare", "nic"], "the first finds the server's file"
    nic = spec["initContainers"][1]
    assert nic["args"] == ["nic", "setup", "--best-effort"], "else what is in the way takes the server's agent down"
    wanted = {"ROUTED_CONFIG": "/run/routed/rack.yaml", "ROUTED_NIC_VFS": "16", "ROUTED_NIC_MTU": "9000"}
    assert {each["name"]: each["value"] for each in nic["env"]} == wanted
    assert {each["name"] for each in nic["volumeMounts"]} <= {each["name"] for each in spec["volumes"]}
    assert "nic" not in [one["name"] for one in pod_spec()["initContainers"]], "the negative control"


def test_the_overlay_for_nics_is_the_base_and_that_container() -> None:
    base, nic = (named(parse(kustomize(DEPLOY / "kustomize" / name))) for name in ("base", "nic"))
    assert {key for key in base if base[key] != nic[key]} == {("DaemonSet", "routed", "routed")}
    options = ("--set", "nic.setup=true,nic.podResources=true")
    assert nic[("DaemonSet", "routed", "routed")] == daemon_set("--values", VALUES, *options)


def test_the_kubelets_socket_is_mounted_by_its_folder_where_somebody_asks_for_it() -> None:
    def mounted(*options: str) -> list[object]:
        spec = daemon_set(*options)["spec"]["template"]["spec"]
        (agent,) = spec["containers"]
        volumes = [one["hostPath"] for one in spec["volumes"] if one["name"] == "pod-resources"]
        mounts = [one for one in agent["volumeMounts"] if one["name"] == "pod-resources"]
        return [*volumes, *((one["mountPath"], one["readOnly"]) for one in mounts)]

    folder = str(load(DEPLOY.parent / "rack.example.yaml").sriov.pod_resources.parent)
    assert mounted("--set", "nic.podResources=true") == [{"path": folder, "type": "Directory"}, (folder, True)]
    moved = "nic.podResources=true,hostPaths.podResources=/data/kubelet/pod-resources"
    assert mounted("--set", moved)[1] == ("/data/kubelet/pod-resources", True)
    assert mounted() == [], "the negative control"


# ---- the example


def test_the_example_is_an_installation() -> None:
    objects = parse(kustomize(DEPLOY / "kustomize/example"))
    (racks,) = (
        one for one in objects if one["kind"] == "ConfigMap" and one["metadata"]["name"].startswith("routed-racks-")
    )
    local = yaml.safe_load(racks["data"]["agent.yaml"])
    (rack,) = (one for one in objects if one["kind"] == "Rack")
    node = {
        "metadata": {"name": "node-1", "labels": {"routed.dev/rack": "r1"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.1.0.11"}]},
    }
    assert own_rack(node, [rack]) is rack
    assert settings_of(rack, node, local).servers.keys() == {"node-1"}
    (daemon,) = (one for one in objects if one["kind"] == "DaemonSet")
    spec = daemon["spec"]["template"]["spec"]
    assert {"name": "racks", "configMap": {"name": racks["metadata"]["name"]}} in spec["volumes"]
    assert {one["image"] for one in (*spec["initContainers"], *spec["containers"])} == {
        "registry.example.org/routed:0.1.0"
    }
