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
    return [*(one for one in parse(BASE.read_text()) if one["kind"] != "DaemonSet"), *racks(), _shared(), daemons]


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


def racks() -> list[Object]:
    """Return the lab's racks as objects."""
    made = []
    for name in ("r1", "r2"):
        file = yaml.safe_load((RACKS / f"{name}.yaml").read_text())
        spec = {key: file[key] for key in ("tors", "hosts", "pools", "steering")}
        bgp = {"asn": file["bgp"]["asn"], "graceful_restart_s": 120}
        spec |= {"bgp": bgp, "ipam": {"cooldown_s": 180}, "services": [str(SERVICES)]}
        made.append({**named("routed.dev/v1alpha1", "Rack", name), "spec": spec})
    return made


def _shared() -> Object:
    """Return what is the same on every server, and no Rack's to say."""
    bridge = {"name": "br0", "uplink": "bond0", "members": ["etha", "ethb"]}
    file = {"bridge": bridge, "kubernetes": {"reclaim_after_s": RECLAIM_AFTER_S}}
    data = {"agent.yaml": yaml.safe_dump(file)}
    return {**named("v1", "ConfigMap", "routed-racks", namespace=NAMESPACE), "data": data}


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
