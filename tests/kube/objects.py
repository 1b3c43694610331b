"""What the end-to-end test's users have the API server keep."""

from __future__ import annotations

from typing import Any

from tests.kube.images import PORT, WORKLOAD

Object = dict[str, Any]
NODE_PORT, HOST_PORT = 30080, 18080


def deployment(name: str, replicas: int) -> Object:
    """Return a Deployment of web servers, each of which answers with its name."""
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": _web()}
    return {
        **named("apps/v1", "Deployment", name),
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


def bare_pod(name: str, host_port: int | None = None) -> Object:
    """Return one such web server as a pod of its own, which its node offers at a port of its own, too."""
    spec = _web()
    if host_port is not None:
        (port,) = spec["containers"][0]["ports"]
        port["hostPort"] = host_port
    return {**named("v1", "Pod", name, namespace="default", labels={"app": name}), "spec": spec}


def _web() -> Object:
    probe = {"port": PORT}
    server = {
        "name": "web",
        "image": WORKLOAD,
        "command": ["sh", "-c", f"hostname >/tmp/index.html; exec httpd -f -p {PORT} -h /tmp"],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"httpGet": {**probe, "path": "/index.html"}, "periodSeconds": 1, "timeoutSeconds": 5},
        "livenessProbe": {"tcpSocket": probe, "timeoutSeconds": 5},
    }
    return {"containers": [server], "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 1}


def service(name: str, node_port: int = NODE_PORT) -> Object:
    """Return a Service for a Deployment of that name, which nodes offer at a port of theirs, too."""
    port = {"port": 80, "targetPort": PORT, "nodePort": node_port}
    return {**named("v1", "Service", name), "spec": {"type": "NodePort", "selector": {"app": name}, "ports": [port]}}


def named(version: str, kind: str, name: str, **metadata: Any) -> Object:
    """Return an object's head."""
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **metadata}}
