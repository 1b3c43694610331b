"""A real control plane: Debian's etcd and the project's own build of kube-apiserver, in one folder, on loopback.

Node authorizer, NodeRestriction and RBAC are on, as are service-account tokens and admission policies. Nothing runs
beside the API server: no controller and no kubelet, so Nodes, Pods and service accounts are what a test makes them.
Each control plane has a loopback address of its own, so several run side by side and one comes back where it was.

With an address of a lab's node, all of it runs in that node's network, where kubelets of other nodes reach it; and
`start_controllers` makes it a whole one.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import Any, Self

import urllib3

from tests.kube.binaries import program
from tests.kube.certificates import Authority
from tests.kube.client import Client

ISSUER = "https://kubernetes.default.svc"
SERVICES = ip_network("10.96.0.0/16")
_LOOPBACK = IPv4Address("127.64.0.0")
"""Plus a process id (22 bits): the addresses of that process's control planes, told apart by port."""
_COUNT = itertools.count()
_CONTROLLERS = (
    "daemonset-controller",
    "deployment-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "taint-eviction-controller",
)
_CONTROLLING = ("kube-controller-manager", "kube-scheduler")
LOST_NODE_S = 20.0
"""A node that has been silent for so long is not ready; kubelets speak up more often."""
_READY_S = 120.0
_POLL_S = 0.1


@dataclass
class ControlPlane:
    """etcd and an API server; a context manager that starts both and leaves nothing behind but the folder."""

    folder: Path
    address: IPv4Address = field(default_factory=lambda: _LOOPBACK + os.getpid())
    netns: str | None = None
    """Path of the network namespace that has the address; None for this process's own."""
    started_in_s: float = 0.0
    """How long it took from nothing to ready, certificates included."""
    _number: int = field(default_factory=lambda: next(_COUNT) * 10)
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _clients: dict[tuple[str, ...], Client] = field(default_factory=dict)
    _signing: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        program("kube-apiserver")  # built before the clock runs
        began = time.monotonic()
        try:
            self.authority = Authority.found(self.folder / "pki")
            self._serving = self.authority.server("kube-apiserver", [self.address, SERVICES[1]])
            self._tokens_key = self.authority.signing_key("tokens")
            self._start_etcd()
            self.start()
            self.wait_ready()
        except BaseException:
            self._end()
            raise
        self.started_in_s = time.monotonic() - began
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def url(self) -> str:
        """Where the API server answers."""
        return f"https://{self.address}:{6443 + self._number}"

    @property
    def admin(self) -> Client:
        """A client that may do everything."""
        return self.client_for("admin", ["system:masters"])

    def client_for(self, user: str, groups: Sequence[str] = ()) -> Client:
        """Return a client with a certificate for this user and these groups."""
        who = (user, *groups)
        with self._signing:  # nodes boot at the same time, and their proxies are one user
            if who not in self._clients:
                mine = self.authority.client(user, groups)
                self._clients[who] = Client(
                    self.url, self.authority.certificate, mine.certificate, mine.key, netns=self.netns
                )
            return self._clients[who]

    def client_with(self, token: str) -> Client:
        """Return a client with a service account's token."""
        return self._clients.setdefault(
            ("", token), Client(self.url, self.authority.certificate, token=token, netns=self.netns)
        )

    def kubeconfig(self, client: Client, path: Path) -> Path:
        """Write a kubeconfig for kubectl or another program that is to speak as this client does; returns the path."""
        user = {
            "client-certificate": client.certificate and str(client.certificate),
            "client-key": client.key and str(client.key),
            "token": client.token,
        }
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "routed", "cluster": {"server": self.url, "certificate-authority": str(client.trusted)}}
            ],
            "users": [{"name": "routed", "user": {key: value for key, value in user.items() if value}}],
            "contexts": [{"name": "routed", "context": {"cluster": "routed", "user": "routed"}}],
            "current-context": "routed",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(document))
        return path

    def start(self) -> None:
        """Start the API server, for the first time or after `stop`; `wait_ready` waits for it."""
        assert "kube-apiserver" not in self._processes, "it runs already"
        self._spawn(
            program("kube-apiserver"),
            f"--etcd-servers=http://{self.address}:{2379 + self._number}",
            f"--bind-address={self.address}",
            f"--secure-port={6443 + self._number}",
            f"--advertise-address={self.address}",
            f"--endpoint-reconciler-type={'none' if self.address.is_loopback else 'lease'}",
            f"--client-ca-file={self.authority.certificate}",
            f"--tls-cert-file={self._serving.certificate}",
            f"--tls-private-key-file={self._serving.key}",
            f"--service-account-key-file={self._tokens_key}",
            f"--service-account-signing-key-file={self._tokens_key}",
            f"--service-account-issuer={ISSUER}",
            f"--service-cluster-ip-range={SERVICES}",
            f"--kubelet-client-certificate={self.admin.certificate}",  # for `kubectl logs` and the like
            f"--kubelet-client-key={self.admin.key}",
            "--kubelet-preferred-address-types=InternalIP",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--profiling=false",
        )

    def start_controllers(self) -> None:
        """Start the controllers and the scheduler."""
        user = self.kubeconfig(self.admin, self.folder / "controllers.kubeconfig")
        common = (f"--kubeconfig={user}", "--leader-elect=false", f"--bind-address={self.address}")
        manager, scheduler = map(program, _CONTROLLING)
        self._spawn(
            manager,
            *common,
            f"--cert-dir={self.folder / 'controllers'}",
            f"--controllers={','.join(_CONTROLLERS)}",
            f"--root-ca-file={self.authority.certificate}",
            f"--service-account-private-key-file={self._tokens_key}",
            f"--node-monitor-period={LOST_NODE_S / 10:g}s",
            f"--node-monitor-grace-period={LOST_NODE_S:g}s",
        )
        self._spawn(scheduler, *common, f"--cert-dir={self.folder / 'scheduler'}")

    def stop(self) -> None:
        """End the API server the hard way, and controllers, as when their server dies; etcd and what it holds stay."""
        for name in ("kube-apiserver", *_CONTROLLING):
            self._kill(name)
        for client in self._clients.values():
            client.close()

    def wait_ready(self, timeout_s: float = _READY_S) -> None:
        """Wait until the API server says that it is ready; AssertionError with its log when it ended or is late."""
        deadline = time.monotonic() + timeout_s
        while not self._ready():
            for name, process in self._processes.items():
                assert process.poll() is None, f"{name} ended with {process.returncode}:\n{self.log(name)}"
            late = f"the API server is not ready after {timeout_s:g} s:\n{self.log('kube-apiserver')}"
            assert time.monotonic() < deadline, late
            time.sleep(_POLL_S)  # between two looks

    def log(self, name: str, characters: int = 4000) -> str:
        """Return the end of a program's log."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-characters:]

    def _ready(self) -> bool:
        try:
            return self.admin.get("/readyz").ok
        except urllib3.exceptions.HTTPError:
            return False

    def _start_etcd(self) -> None:
        client, peer = (f"http://{self.address}:{port + self._number}" for port in (2379, 2380))
        self._spawn(
            Path("etcd"),
            "--name=routed",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=routed={peer}",
            "--logger=zap",
            "--log-level=warn",
        )

    @property
    def _entering(self) -> Sequence[str]:
        """What goes before a command that is to run in the network of the address."""
        return () if self.netns is None else ("nsenter", f"--net={self.netns}")

    def _spawn(self, executable: Path, *arguments: str) -> None:
        with (self.folder / f"{executable.name}.log").open("ab") as log:
            self._processes[executable.name] = subprocess.Popen(
                [*self._entering, executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def _end(self) -> None:
        for client in self._clients.values():
            client.close()
        for name in reversed(tuple(self._processes)):
            self._kill(name)


def bound_token(control: ControlPlane, namespace: str, account: str, pod: dict[str, Any]) -> str:
    """Return a token as kubelet gets one for a pod: bound to the pod, and naming the node that the pod runs on."""
    bound = {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound}}
    return str(control.admin.post(path, body).granted()["status"]["token"])
