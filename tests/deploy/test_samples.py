"""Samples of SR-IOV and Multus: what those projects accept, and what belongs together is called the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from routed.cni.protocol import Config
from tests.manifests import DEPLOY, Object, parse

SAMPLES = DEPLOY / "samples"
SCHEMAS = Path(__file__).with_name("schemas")
PLUGINS = sorted(SAMPLES.glob("sriov-device-plugin-*.yaml"))
RESOURCE = "k8s.v1.cni.cncf.io/resourceName"


def sample(name: str) -> Object:
    (one,) = parse((SAMPLES / f"{name}.yaml").read_text())
    return one


def resources(file: Path) -> dict[str, Any]:
    """Return what a device plugin offers: name of the resource -> its selectors."""
    (one,) = parse(file.read_text())
    assert (one["kind"], one["metadata"]["name"]) == ("ConfigMap", "sriovdp-config"), "what the plugin mounts"
    config = json.loads(one["data"]["config.json"])
    check("sriov-device-plugin", config)
    return {f"{each['resourcePrefix']}/{each['resourceName']}": each["selectors"] for each in config["resourceList"]}


def check(schema: str, document: object) -> None:
    jsonschema.validate(document, json.loads((SCHEMAS / f"{schema}.json").read_text()))


def test_the_device_plugin_offers_the_vfs_of_both_makers() -> None:
    offered = {name: each["vendors"] for file in PLUGINS for name, each in resources(file).items()}
    assert offered == {"mellanox.com/cx5_sriov_switchdev": ["15b3"], "yunsilicon.com/xsc_sriov": ["1f67"]}


def test_the_network_is_one_that_multus_and_our_plugin_understand() -> None:
    network = sample("network-attachment")
    check("network-attachment-definition", network)
    config = json.loads(network["spec"]["config"])
    assert config["plugins"] == [{"type": "routed", "capabilities": {"deviceID": True}}]
    assert config["cniVersion"] == json.loads((DEPLOY / "cni/10-routed.conflist").read_text())["cniVersion"]
    (plugin,) = config["plugins"]
    # what a runtime makes of a list's entry for the plugin (CNI 1.1, Deriving request configuration)
    derived = {"cniVersion": config["cniVersion"], "name": config["name"], "type": plugin["type"]}
    derived |= {"runtimeConfig": {"deviceID": "0000:03:00.2"}, "deviceID": "0000:03:00.2"}
    assert Config.model_validate(derived).device == "0000:03:00.2"


def test_network_pod_and_device_plugin_name_the_same_things() -> None:
    network, pod = sample("network-attachment"), sample("pod-with-vf")
    named = f"{network['metadata']['namespace']}/{network['metadata']['name']}"
    assert pod["metadata"]["annotations"] == {"v1.multus-cni.io/default-network": named}
    resource = network["metadata"]["annotations"][RESOURCE]
    assert resource in {name for file in PLUGINS for name in resources(file)}
    (container,) = pod["spec"]["containers"]
    assert container["resources"] == {"requests": {resource: "1"}, "limits": {resource: "1"}}, "extended: equal"


@pytest.mark.parametrize(
    "mistake",
    [
        {"resources": []},
        {"resourceList": []},
        {"resourceList": [{"resourceName": "cx5 sriov switchdev"}]},
        {"resourceList": [{"resourceName": "vf", "selectors": {"vendors": "15b3"}}]},
        {"resourceList": [{"resourceName": "vf", "selectors": {"vendors": ["0x15b3"]}}]},
        {"resourceList": [{"resourceName": "vf", "selectors": {"vendor": ["15b3"]}}]},
    ],
)
def test_the_device_plugin_s_schema_finds_mistakes(mistake: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check("sriov-device-plugin", mistake)


@pytest.mark.parametrize("spec", [{}, {"config": {"type": "routed"}}, {"config": "{}", "mode": "l2"}])
def test_the_network_s_schema_finds_mistakes(spec: object) -> None:
    network = yaml.safe_load((SAMPLES / "network-attachment.yaml").read_text())
    with pytest.raises(jsonschema.ValidationError):
        check("network-attachment-definition", network | {"spec": spec})
