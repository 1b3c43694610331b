"""docs/audit.md, In a cluster: the account of deploy/audit, what it may run in an agent's pod, and what asks there."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest
import yaml

from routed.audit.settings import AuditSettings
from routed.audit.sources.command import filled
from tests.kube.binaries import program
from tests.kube.client import Answer, Client
from tests.kube.control_plane import ControlPlane
from tests.kube.installed import ADDRESSES, NAMESPACE, NODES, RACKS, add_node, eventually, manifests
from tests.kube.objects import named
from tests.kube.pages import DOCS, script
from tests.manifests import DEPLOY

PAGE = DOCS / "audit.md"
NODE = "audited-1"
POD = f"/api/v1/namespaces/{NAMESPACE}/pods/routed-{NODE}"
EXPORT = ("routed", "audit", "export")
REFUSED = "ValidatingAdmissionPolicy 'routed-audit'"
ALLOWED = "Upgrade request required"
"""What the API server says of a command that may run, to who does not want to hear what it prints."""
_BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"


@pytest.fixture(scope="module")
def auditor(cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The account, made as the page says, on a cluster with an agent's pod whose kubelet does not answer."""
    admin, folder = cluster.admin, tmp_path_factory.mktemp("audit")
    add_node(cluster, NODE)
    nowhere = [{"type": "InternalIP", "address": "127.0.0.1"}]
    status = {"addresses": nowhere, "daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}
    admin.patch(f"{NODES}/{NODE}/status", {"status": status}).granted()
    pod = named("v1", "Pod", f"routed-{NODE}", labels={"app.kubernetes.io/component": "agent"})
    containers = [{"name": name, "image": "routed"} for name in ("agent", "another")]
    pod["spec"] = {"nodeName": NODE, "serviceAccountName": "routed", "containers": containers}
    admin.post(POD.rpartition("/")[0], pod).granted()
    admin.patch(f"{POD}/status", {"status": {"phase": "Running"}}).granted()
    typed = script(PAGE, "The audit file").replace("deploy/audit", str(DEPLOY / "audit"))
    environment = _environment(cluster.kubeconfig(admin, folder / "admin.kubeconfig"))
    subprocess.run(["sh", "-ec", typed], cwd=folder, env=environment, check=True, timeout=60)
    (user,) = yaml.safe_load((folder / "audit.kubeconfig").read_text())["users"]
    assert user["user"].keys() == {"token"}, "nothing is left of the administrator's"
    client = cluster.client_with(user["user"]["token"])
    eventually(lambda: _ask(client, "true"), lambda answer: REFUSED in answer.message)
    yield client
    subprocess.run(["kubectl", "delete", "--filename", DEPLOY / "audit"], env=environment, check=True, timeout=60)
    for path in (POD, f"{NODES}/{NODE}"):
        admin.delete(path).granted()


def _environment(kubeconfig: Path) -> dict[str, str]:
    path = (str(program("kubectl").parent), str(DEPLOY / "audit"), os.environ["PATH"])
    return {"PATH": os.pathsep.join(path), "KUBECONFIG": str(kubeconfig), "HOME": str(kubeconfig.parent)}


def _ask(user: Client, *command: str, **more: str) -> Answer:
    """Ask for a command in the agent's pod."""
    what = {"command": command, "container": "agent", "stdout": "true", **more}
    return user.get(f"{POD}/exec?{urlencode(what, doseq=True)}")


@contextmanager
def _without_policy(cluster: ControlPlane) -> Iterator[None]:
    (binding,) = (one for one in manifests("audit") if one["kind"] == "ValidatingAdmissionPolicyBinding")
    cluster.admin.delete(f"{_BINDINGS}/{binding['metadata']['name']}").granted()
    try:
        yield
    finally:
        cluster.admin.apply(binding).granted()


def test_it_may_export_and_run_nothing_else(cluster: ControlPlane, auditor: Client) -> None:
    assert _ask(auditor, *EXPORT).message == ALLOWED
    forbidden: list[tuple[tuple[str, ...], dict[str, str]]] = [
        (("sh",), {}),
        (("routed", "audit"), {}),
        ((*EXPORT, "--config", "/etc/shadow"), {}),
        (EXPORT, {"container": "another"}),
        (EXPORT, {"container": ""}),
    ]
    for command, more in forbidden:
        assert REFUSED in _ask(auditor, *command, **more).message
    with _without_policy(cluster):
        eventually(lambda: _ask(auditor, "sh"), lambda answer: answer.message == ALLOWED)
    eventually(lambda: _ask(auditor, "sh"), lambda answer: REFUSED in answer.message)


def test_nobody_else_is_bound_by_it(cluster: ControlPlane, auditor: Client) -> None:  # noqa: ARG001  # who is bound
    assert _ask(cluster.admin, "sh").message == ALLOWED


def test_it_sees_what_an_audit_needs(auditor: Client) -> None:
    for path in (RACKS, ADDRESSES, NODES, f"/api/v1/namespaces/{NAMESPACE}/pods"):
        auditor.get(path).granted()


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("get", "/api/v1/pods"),
        ("get", f"/api/v1/namespaces/{NAMESPACE}/secrets"),
        ("get", f"{POD}/log"),
        ("post", f"{POD}/attach"),
        ("post", f"{POD}/portforward"),
        ("patch", f"{POD}/ephemeralcontainers"),
        ("delete", POD),
        ("delete", f"{ADDRESSES}/10.8.0.1"),
        ("patch", f"{RACKS}/r1"),
        ("delete", _BINDINGS),
    ],
)
def test_what_no_audit_needs_is_refused(auditor: Client, verb: str, path: str) -> None:
    answer = getattr(auditor, verb)(path, *(() if verb in {"get", "delete"} else ({},)))
    assert (answer.status, answer.body["reason"]) == (403, "Forbidden")


def test_the_page_s_command_asks_the_agent_s_pod(cluster: ControlPlane, auditor: Client, tmp_path: Path) -> None:
    kubeconfig = cluster.kubeconfig(auditor, tmp_path / "audit.kubeconfig")
    asked = "/exec/routed/routed-audited-1/agent?command=routed&command=audit&command=export"
    said = _complaint(_on_the_page(NODE, kubeconfig), tmp_path)
    assert asked in said, "it is handed on to the Node's kubelet"
    assert "connection refused" in said, "of which there is none"
    assert _complaint(_on_the_page("s99", kubeconfig), tmp_path) == "no agent runs on s99, or s99 is no Node\n"


def _on_the_page(server: str, kubeconfig: Path) -> tuple[str, ...]:
    """Return the command that asks a server's agent in a cluster, with this kubeconfig."""
    (box,) = (
        box
        for box in re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
        if "KUBECONFIG" in box
    )
    here = box.replace("/etc/routed/audit.kubeconfig", str(kubeconfig))
    settings = AuditSettings.model_validate(yaml.safe_load(here))
    assert settings.agents is not None
    assert settings.agents.command is not None
    return filled(settings.agents.command, {"server": server})


def _complaint(command: tuple[str, ...], home: Path) -> str:
    environment = _environment(home / "none")
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60).stderr
