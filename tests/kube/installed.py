"""The project's own resources on a control plane, and their users: agents with the tokens that kubelet gives them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from routed.kube.api import Api
from routed.kube.client import connect
from tests.kube.client import Answer, Client
from tests.kube.control_plane import ControlPlane, bound_token

DEPLOY = Path(__file__).parents[2] / "deploy"
NAMESPACE = ACCOUNT = "routed"
RACKS, ADDRESSES = (f"/apis/routed.dev/v1alpha1/{plural}" for plural in ("racks", "addresses"))
NODES = "/api/v1/nodes"
NOWHERE = "https://127.0.0.1:1"
"""Where no API server answers."""
BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": ACCOUNT},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "routed"},
    "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
}
_SEEN_S = 30.0
_POLL_S = 0.1


def manifests(*folders: str) -> Iterator[dict[str, Any]]:
    """Yield what stands in these folders of deploy/."""
    for folder in folders:
        for file in sorted((DEPLOY / folder).glob("*.yaml")):
            yield from yaml.safe_load_all(file.read_text())


def install(control: ControlPlane) -> None:
    """Apply resources and access rules, and wait until the API server goes by them."""
    admin = control.admin
    for manifest in (*manifests("crds", "access"), _named("v1", "Namespace", NAMESPACE)):
        admin.apply(manifest).granted()
    account = _named("v1", "ServiceAccount", ACCOUNT)
    admin.post(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", account).granted()
    admin.apply(BINDING).granted()
    for path in (RACKS, ADDRESSES):
        eventually(lambda path=path: admin.get(path), lambda answer: answer.ok)
    agent = agent_of(control, "first")
    foreign = address("192.0.2.1", node="another")
    eventually(
        lambda: agent.post(f"{ADDRESSES}?dryRun=All", foreign), lambda answer: "spec.node must be" in answer.message
    )


def agent_of(control: ControlPlane, node: str, **labels: str) -> Client:
    """Return a server's agent: its Node is there, a pod of the DaemonSet runs on it, and the token is that pod's."""
    add_node(control, node, **labels)
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods"
    pod = {
        **_named("v1", "Pod", f"agent-{node}"),
        "spec": {"nodeName": node, "serviceAccountName": ACCOUNT, "containers": [{"name": "agent", "image": "routed"}]},
    }
    made = control.admin.post(pods, pod)
    known = made.granted() if made.status != 409 else control.admin.get(f"{pods}/agent-{node}").granted()
    return control.client_with(bound_token(control, NAMESPACE, ACCOUNT, known))


def add_node(control: ControlPlane, node: str, **labels: str) -> dict[str, Any]:
    """Make a Node, unless it is there, and return it."""
    wanted = _named("v1", "Node", node)
    wanted["metadata"]["labels"] = labels
    made = control.admin.post(NODES, wanted)
    return made.granted() if made.status != 409 else control.admin.get(f"{NODES}/{node}").granted()


def address(
    text: str, *, node: str, rack: str = "r1", name: str | None = None, node_uid: str = "uid", **labels: str
) -> dict[str, Any]:
    """Return an Address as a server would make it; `labels` come on top of the rack's."""
    made = _named("routed.dev/v1alpha1", "Address", name or text)
    made["metadata"]["labels"] = {"routed.dev/rack": rack, **labels}
    return {**made, "spec": {"address": text, "rack": rack, "node": node, "nodeUID": node_uid}}


def rack(name: str = "r1") -> dict[str, Any]:
    """Return the rack of rack.example.yaml as a Rack."""
    file = yaml.safe_load((DEPLOY.parent / "rack.example.yaml").read_text())
    spec = {key: file[key] for key in ("tors", "hosts", "pools", "services", "vlan", "steering", "ipam")}
    bgp = {key: file["bgp"][key] for key in ("asn", "hold_time_s", "graceful_restart_s", "listen_port")}
    return {**_named("routed.dev/v1alpha1", "Rack", name), "spec": {**spec, "bgp": bgp}}


@asynccontextmanager
async def api_of(control: ControlPlane, client: Client, folder: Path) -> AsyncIterator[Api]:
    """Yield the agent's own way to the API server, for one user of it."""
    async with connect(control.kubeconfig(client, folder / "kubeconfig")) as api:
        yield api


def clear(control: ControlPlane, *paths: str) -> None:
    """Delete all objects of some kinds."""
    for path in paths:
        control.admin.delete(path).granted()
        eventually(lambda path=path: control.admin.get(path), lambda answer: not answer.body["items"])


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so; AssertionError when that takes too long."""
    deadline = time.monotonic() + _SEEN_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(_POLL_S / 10)  # between two looks


def eventually(ask: Callable[[], Answer], wanted: Callable[[Answer], bool]) -> Answer:
    """Ask until the answer is as wanted; AssertionError with the last one when that takes too long."""
    deadline = time.monotonic() + _SEEN_S
    while not wanted(answer := ask()):
        assert time.monotonic() < deadline, f"still {answer.status}: {answer.message or answer.body}"
        time.sleep(_POLL_S)  # between two looks
    return answer


def _named(version: str, kind: str, name: str) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}}
