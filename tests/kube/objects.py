"""What the end-to-end test has the API server keep: the installation, as deploy/ has it, and its users' workload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.kube.control_plane import SERVICES
from tests.kube.images import BORROWED, PORT, WORKLOAD
from tests.kube.worker import PLUGINS
from tests.manifests import BASE, container, found, parse

Object = dict[str, Any]
RACKS = Path(__file__).parents[2] / "containerlab" / "racks"
NAMESPACE = "routed"
NODE_PORT = 30080
RECLAIM_AFTER_S = 4


def installation() -> list[Object]:
    """Return what `kubectl apply -k` sends."""
    daemons = found("DaemonSet")
    _adapt(daemons["spec"]["template"]["spec"])
    return [*(one for one in parse(BASE.read_text()) if one["kind"] != "DaemonSet"), _racks(), daemons]


def agent_image() -> str:
    """Return the name of the image that the DaemonSet runs."""
    return str(container("agent")["image"])


def _adapt(spec: Object) -> None:
    """Let an agent's pod borrow this machine's programs, and install the plugin where the test's runtimes look."""
    for volume in spec["volumes"]:
        if volume["name"] == "cni-bin":
            volume["hostPath"]["path"] = str(PLUGINS)
    for number, folder in enumerate(BORROWED):
        spec["volumes"].append({"name": f"borrowed-{number}", "hostPath": {"path": folder, "type": "Directory"}})
        for one in (*spec["initContainers"], *spec["containers"]):
            one["volumeMounts"].append({"name": f"borrowed-{number}", "mountPath": folder, "readOnly": True})


def _racks() -> Object:
    files = {}
    for file in (RACKS / "r1.yaml", RACKS / "r2.yaml"):
        rack = yaml.safe_load(file.read_text())
        for server in rack["servers"].values():
            del server["owns"]  # the API server grants leases instead
        rack["bgp"]["graceful_restart_s"], rack["ipam"]["cooldown_s"] = 120, 180
        rack["services"] = [str(SERVICES)]
        rack["kubernetes"] = {"reclaim_after_s": RECLAIM_AFTER_S}
        files[file.name] = yaml.safe_dump(rack)
    return {**named("v1", "ConfigMap", "routed-racks", namespace=NAMESPACE), "data": files}


def deployment(name: str, replicas: int) -> Object:
    """Return a Deployment of web servers, each of which answers with its name."""
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": _web()}
    return {
        **named("apps/v1", "Deployment", name),
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


def bare_pod(name: str) -> Object:
    """Return one such web server as a pod of its own."""
    return {**named("v1", "Pod", name, namespace="default", labels={"app": name}), "spec": _web()}


def _web() -> Object:
    probe = {"port": PORT}
    server = {
        "name": "web",
        "image": WORKLOAD,
        "command": ["sh", "-c", f"hostname >/tmp/index.html; exec httpd -f -p {PORT} -h /tmp"],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"httpGet": {**probe, "path": "/index.html"}, "periodSeconds": 1},
        "livenessProbe": {"tcpSocket": probe},
    }
    return {"containers": [server], "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 1}


def service(name: str, node_port: int = NODE_PORT) -> Object:
    """Return a Service for a Deployment of that name, which nodes offer at a port of theirs, too."""
    port = {"port": 80, "targetPort": PORT, "nodePort": node_port}
    return {**named("v1", "Service", name), "spec": {"type": "NodePort", "selector": {"app": name}, "ports": [port]}}


def named(version: str, kind: str, name: str, **metadata: Any) -> Object:
    """Return an object's head."""
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **metadata}}
