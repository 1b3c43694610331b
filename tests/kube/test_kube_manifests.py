"""What deploy/ installs, put before the real API server: it has every field, and accepts every value."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.render import helm
from tests.kube.control_plane import ControlPlane
from tests.kube.installed import eventually
from tests.manifests import BASE, MONITORING, Object, found, parse

OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
OPERATOR_SUM = "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s="
ALL_OPTIONS = "dacOverride=true,bgpSecret=md5,imagePullSecrets[0].name=pull"


@pytest.fixture(scope="module")
def operator(cluster: ControlPlane) -> ControlPlane:
    """The control plane with the Prometheus operator's resources, which come as a Go module like everything else."""
    asked = ["go", "mod", "download", "-json", OPERATOR]
    module = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True, cwd="/").stdout)
    assert module["Sum"] == OPERATOR_SUM
    for plural in ("servicemonitors", "prometheusrules"):
        file = Path(module["Dir"], "example/prometheus-operator-crd", f"monitoring.coreos.com_{plural}.yaml")
        cluster.admin.apply(yaml.safe_load(file.read_text())).granted()
        path = f"/apis/monitoring.coreos.com/v1/{plural}"
        eventually(lambda path=path: cluster.admin.get(path), lambda answer: answer.ok)
    return cluster


def label(one: Object) -> str:
    return f"{one['kind']}/{one['metadata']['name']}"


@pytest.mark.parametrize("one", parse(BASE.read_text()), ids=label)
def test_the_api_server_takes_every_object(cluster: ControlPlane, one: Object) -> None:
    cluster.admin.apply(one, dry_run=True).granted()


@pytest.mark.parametrize("one", parse(MONITORING.read_text()), ids=label)
def test_it_takes_what_monitoring_needs(operator: ControlPlane, one: Object) -> None:
    operator.admin.apply(one, dry_run=True).granted()


def test_it_takes_the_daemonset_with_every_option(cluster: ControlPlane) -> None:
    for one in parse(helm("--set", ALL_OPTIONS)):
        cluster.admin.apply(one, dry_run=True).granted()


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("priorityClass", "high", "field not declared in schema"),
        ("dnsPolicy", "Nowhere", "Unsupported value"),
        ("volumes", [], "Not found"),
    ],
)
def test_it_refuses_what_is_wrong(cluster: ControlPlane, key: str, value: object, complaint: str) -> None:
    """Negative control: an unknown field, a bad value, a mount of a volume that is not there."""
    wrong = copy.deepcopy(found("DaemonSet"))
    wrong["spec"]["template"]["spec"][key] = value
    answer = cluster.admin.apply(wrong, dry_run=True)
    assert not answer.ok
    assert complaint in answer.message
