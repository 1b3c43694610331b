"""The containers of deploy/'s DaemonSet on a server of the lab, run by runc as a kubelet would have them run.

What makes a container narrow comes from the manifest: capabilities, privileges, mounts and their propagation, the
environment, the read-only root. The image is the one that ROUTED_IMAGE names (`make image-test`); without it, what an
image would hold is mounted from this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from containerlab.agents import LOG, Agent
from containerlab.node import Node
from containerlab.pods import SHIM
from tests.fabric import eventually
from tests.manifests import container, pod_spec

ROOT = Path(__file__).parents[1]
_PROPAGATION = {None: "rprivate", "HostToContainer": "rslave", "Bidirectional": "rshared"}
_MASKED = ["/proc/kcore", "/proc/keys", "/proc/timer_list"]
_FROZEN = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
"""What containerd hides from a container without privileges, and what it makes read-only."""
_SECCOMP = ROOT / "tests/fixtures/seccomp.json"
"""RuntimeDefault: what containerd 1.7.27 (contrib/seccomp) makes of the manifest's capabilities on amd64."""
_KERNEL: list[dict[str, Any]] = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
    {"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "ro", "rslave"]},
]
_GRACE_S = 10.0


@dataclass(frozen=True)
class Image:
    """What a container finds at its root, besides the volumes."""

    root: str
    """The folder; relative to the bundle."""
    environment: Mapping[str, str]
    entrypoint: Sequence[str]
    mounts: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def built(cls, folder: Path) -> Image:
        """Return an image that was built; the folder has its files in root/ and its configuration in config.json."""
        configuration = json.loads((folder / "config.json").read_text())
        environment = dict(line.split("=", 1) for line in configuration["Env"])
        return cls(str(folder / "root"), environment, configuration["Entrypoint"])

    @classmethod
    def borrowed(cls) -> Image:
        """Return this machine's programs and this checkout, in place of an image."""
        programs = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin"
        ours = {"ROUTED_BGP_USER": "nobody", "ROUTED_PLUGIN": str(SHIM)}
        environment = {"PATH": programs, "container": "oci", **ours}
        folders = ["/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/passwd", "/etc/group", "/etc/ld.so.cache"]
        there = [path for path in (*folders, sys.base_prefix, str(ROOT)) if Path(path).exists()]
        options = ["rbind", "ro", "nosuid", "nodev", "rprivate"]
        mounts = [{"destination": path, "type": "bind", "source": path, "options": options} for path in there]
        return cls("root", environment, ["routed"], mounts)

    @property
    def speaker(self) -> str:
        """The user that ExaBGP runs as."""
        return self.environment["ROUTED_BGP_USER"]


IMAGE = Image.built(Path(os.environ["ROUTED_IMAGE"])) if "ROUTED_IMAGE" in os.environ else Image.borrowed()


class DaemonPod:
    """The DaemonSet's pod on one server, over and over; `racks` is the folder that stands for its ConfigMap."""

    def __init__(self, node: Node, scratch: Path, racks: Path) -> None:
        self.node, self._scratch = node, scratch
        self.plugins = scratch / "plugins"
        """Stands for /opt/cni/bin, which the lab's servers share with this machine."""
        self._sources = {one["name"]: one["hostPath"]["path"] for one in pod_spec()["volumes"] if "hostPath" in one}
        self._sources |= {"racks": str(racks), "cni-bin": str(self.plugins)}
        node.path(LOG.parent).mkdir(parents=True, exist_ok=True)
        node.run(["mount", "--make-rshared", "/run"])  # as systemd has it

    def prepare(self) -> str:
        """Run the init container to its end and return what it printed; CommandError."""
        return self.node.run(self._command("prepare")).stdout

    @contextlib.contextmanager
    def agent(self, *, without: str = "", also: str = "") -> Iterator[Agent]:
        """Run the agent's container, less a capability or with one more; ends it at the end, with all that is in it."""
        command = self._command("agent", without, also)
        with self.node.path(LOG).open("wb") as log:
            running = self.node.popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            eventually(lambda: self._pid() or running.poll() is not None, "the container")
            yield Agent(self.node, self._pid() or 0)
        finally:
            self.signal(signal.SIGKILL)
            running.wait()

    def stop(self, agent: Agent) -> None:
        """End the agent's container as a kubelet does; it must not need to be killed."""
        self.signal(signal.SIGTERM)
        eventually(lambda: not agent.alive(), "its end by itself", _GRACE_S)

    def signal(self, number: signal.Signals) -> None:
        """Signal the container's first process, which takes all others along when it ends."""
        self.node.run(["runc", "kill", self._name("agent"), number.name], check=False)

    def inside(self, *command: str, check: bool = True) -> str:
        """Run a command in the agent's container and return what it printed; CommandError, unless told otherwise."""
        return self.node.run(["runc", "exec", self._name("agent"), *command], check=check).stdout

    def log(self) -> str:
        """Return what the last agent wrote."""
        return self.node.path(LOG).read_text()

    def _pid(self) -> int | None:
        """Return the first process of the agent's container, as the server counts; None while there is none."""
        asked = self.node.run(["runc", "state", self._name("agent")], check=False)
        state = json.loads(asked.stdout or "{}")
        return state["pid"] if state.get("status") == "running" else None

    def _name(self, name: str) -> str:
        return f"{self._scratch.name}-{name}"

    def _command(self, name: str, without: str = "", also: str = "") -> list[str]:
        bundle = self._scratch / name
        (bundle / "root").mkdir(parents=True, exist_ok=True)
        (bundle / "config.json").write_text(json.dumps(self._oci(container(name), without, also)))
        return ["runc", "run", "--bundle", str(bundle), self._name(name)]

    def _oci(self, one: dict[str, Any], without: str, also: str) -> dict[str, Any]:
        """Translate a container of the manifest as containerd does (OCI runtime specification 1.0)."""
        security = one["securityContext"]
        privileged = security.get("privileged", False)
        if privileged:
            capabilities = _every_capability()
        else:
            assert security["capabilities"]["drop"] == ["ALL"]
            granted = {*security["capabilities"]["add"], also} - {without, ""}
            capabilities = [f"CAP_{name}" for name in granted]
        environment = {variable["name"]: variable.get("value", self.node.name) for variable in one["env"]}
        environment = {**IMAGE.environment, **environment}
        return {
            "ociVersion": "1.0.2",
            "process": {
                "args": [*IMAGE.entrypoint, *one["args"]],
                "cwd": "/",
                "env": [f"{name}={value}" for name, value in environment.items()],
                "user": {"uid": 0, "gid": 0},
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
                "noNewPrivileges": not security.get("allowPrivilegeEscalation", True),
            },
            "root": {"path": IMAGE.root, "readonly": security["readOnlyRootFilesystem"]},
            "mounts": [*_KERNEL, *IMAGE.mounts, *self._volumes(one)],
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc")],
                "rootfsPropagation": "rshared" if privileged else "rslave",
                "maskedPaths": [] if privileged else _MASKED,
                "readonlyPaths": [] if privileged else _FROZEN,
                **_filter(security),
            },
        }

    def _volumes(self, one: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for mount in one["volumeMounts"]:
            flags = ["rbind", "ro" if mount.get("readOnly") else "rw", _PROPAGATION[mount.get("mountPropagation")]]
            source = self._sources[mount["name"]]
            self.node.path(source).mkdir(parents=True, exist_ok=True)
            yield {"destination": mount["mountPath"], "type": "bind", "source": source, "options": flags}


def _filter(security: dict[str, Any]) -> dict[str, Any]:
    """Return the filter of system calls that a container asks for."""
    if "seccompProfile" not in security:
        return {}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    return {"seccomp": json.loads(_SECCOMP.read_text())}


def _every_capability() -> list[str]:
    """Return the names of all capabilities that this machine grants."""
    printed = subprocess.run(["capsh", "--print"], capture_output=True, text=True, check=True).stdout
    line = next(line for line in printed.splitlines() if line.startswith("Bounding set"))
    return [name.upper() for name in line.partition("=")[2].split(",")]
