"""The containers of deploy/'s DaemonSet on a server of the lab, run by runc as a kubelet would have them run.

What makes a container narrow comes from the manifest: capabilities, privileges, mounts and their propagation, the
environment, the read-only root. What an image would hold is mounted from this machine.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from containerlab.node import Node
from containerlab.pods import SHIM

ROOT = Path(__file__).parents[1]
MANIFEST = ROOT / "deploy/kustomize/base/routed.yaml"
USER = "nobody"
"""Whom ExaBGP runs as; the image has a user of its own."""
_PROPAGATION = {None: "rprivate", "HostToContainer": "rslave", "Bidirectional": "rshared"}
_READ_ONLY = ["rbind", "ro", "nosuid", "nodev", "rprivate"]
_MASKED = ["/proc/kcore", "/proc/keys", "/proc/timer_list"]
_FROZEN = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
"""What containerd hides from a container without privileges, and what it makes read-only."""


def pod_spec() -> dict[str, Any]:
    """Return the pod template's spec of the DaemonSet."""
    documents = yaml.safe_load_all(MANIFEST.read_text())
    found = next(document for document in documents if document["kind"] == "DaemonSet")
    spec: dict[str, Any] = found["spec"]["template"]["spec"]
    return spec


def container(name: str) -> dict[str, Any]:
    """Return one of its containers, init containers included."""
    spec = pod_spec()
    return next(one for one in (*spec["initContainers"], *spec["containers"]) if one["name"] == name)


class Pod:
    """The DaemonSet's pod on one server; `racks` is the folder that stands for its ConfigMap."""

    def __init__(self, node: Node, scratch: Path, racks: Path) -> None:
        self.node, self._scratch = node, scratch
        self._sources = {volume["name"]: volume["hostPath"]["path"] for volume in pod_spec()["volumes"] if "hostPath" in volume}
        self._sources["racks"] = str(racks)

    def prepare(self) -> str:
        """Run the init container to its end and return what it printed."""
        return self.node.run(self._command("prepare")).stdout

    @contextlib.contextmanager
    def agent(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the agent's container; what is left of it at the end is killed, with everything in it."""
        with (self._scratch / "agent.log").open("ab") as log:
            process = self.node.popen(self._command("agent"), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield process
        finally:
            self.kill("KILL")
            process.wait()

    def kill(self, signal: str) -> None:
        """Signal the container's first process, which takes all others along when it ends."""
        self.node.run(["runc", "kill", self._name("agent"), signal], check=False)

    def inside(self, *command: str) -> str:
        """Run a command in the agent's container."""
        return self.node.run(["runc", "exec", self._name("agent"), *command]).stdout

    def log(self) -> str:
        """Return what the agent wrote."""
        return (self._scratch / "agent.log").read_text()

    def _name(self, name: str) -> str:
        return f"{self.node.name}-{name}-{self._scratch.name}"

    def _command(self, name: str) -> list[str]:
        bundle = self._scratch / name
        (bundle / "root").mkdir(parents=True, exist_ok=True)
        (bundle / "config.json").write_text(json.dumps(self._oci(container(name))))
        return ["runc", "run", "--bundle", str(bundle), self._name(name)]

    def _oci(self, one: dict[str, Any]) -> dict[str, Any]:
        """Translate a container of the manifest as containerd does (OCI runtime specification 1.0)."""
        security = one["securityContext"]
        privileged = security.get("privileged", False)
        capabilities = _every_capability() if privileged else [f"CAP_{name}" for name in security["capabilities"]["add"]]
        assert privileged or security["capabilities"]["drop"] == ["ALL"]
        environment = {variable["name"]: variable.get("value", self.node.name) for variable in one["env"]}
        environment |= {"PATH": "/usr/sbin:/usr/bin", "ROUTED_BGP_USER": USER, "ROUTED_PLUGIN": str(SHIM)}
        return {
            "ociVersion": "1.0.2",
            "process": {
                "args": [str(Path(sys.executable).with_name("routed")), *one["args"]],
                "cwd": "/",
                "env": [f"{name}={value}" for name, value in environment.items()],
                "user": {"uid": 0, "gid": 0},
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
                "noNewPrivileges": not security.get("allowPrivilegeEscalation", True),
            },
            "root": {"path": "root", "readonly": security["readOnlyRootFilesystem"]},
            "mounts": [*_image(), *self._volumes(one)],
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc")],
                "rootfsPropagation": "rshared" if privileged else "rslave",
                "maskedPaths": [] if privileged else _MASKED,
                "readonlyPaths": [] if privileged else _FROZEN,
            },
        }

    def _volumes(self, one: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for mount in one["volumeMounts"]:
            source = self._sources[mount["name"]]
            self.node.path(source).mkdir(parents=True, exist_ok=True)
            flags = ["rbind", "ro" if mount.get("readOnly") else "rw", _PROPAGATION[mount.get("mountPropagation")]]
            yield {"destination": mount["mountPath"], "type": "bind", "source": source, "options": flags}


def _image() -> Iterator[dict[str, Any]]:
    """Yield the mounts that make up for an image: the system's programs, Python, the project."""
    yield {"destination": "/proc", "type": "proc", "source": "proc"}
    yield {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]}
    yield {"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "ro", "rslave"]}
    folders = ["/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/passwd", "/etc/group", "/etc/ld.so.cache"]
    for path in [*folders, sys.base_prefix, str(ROOT)]:
        if Path(path).exists():
            yield {"destination": path, "type": "bind", "source": path, "options": _READ_ONLY}


def _every_capability() -> list[str]:
    """Return the names of all capabilities that this machine grants."""
    printed = subprocess.run(["capsh", "--print"], capture_output=True, text=True, check=True).stdout
    line = next(line for line in printed.splitlines() if line.startswith("Bounding set"))
    return [name.upper() for name in line.partition("=")[2].split(",")]

