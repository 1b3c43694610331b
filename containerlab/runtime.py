"""A real container runtime: Debian's containerd, spoken to over the CRI as a kubelet does.

Owns one directory with all that containerd writes (state, root, socket, log, configuration), the processes that hang
on it, and one cgroup. Never touches another containerd and never pulls: the pause image is built here and imported.
Holds pods without containers, which is all that a network needs. Source: Container Runtime Interface v1.

A runtime lives where its ``prefix`` puts it: ``("nsenter", "--net=/run/...")`` for a plain network namespace,
``("nsenter", "-t", pid, "-n", "-m", ...)`` for a node of the fabric. The directory must be the same one inside and
outside, its path short (it holds a Unix socket), and loopback must be up inside. With ``--mount`` in the prefix, pods'
namespaces are in /run/netns as usual; else they are in the directory.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from containerlab.archives import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_START_TIMEOUT_S = 30.0
_CALL_TIMEOUT_S = 120.0
_POLL_S = 0.02
_PAUSE_IMAGE = "localhost/pause:1"
_CGROUPS = Path("/sys/fs/cgroup")

_messages, _services = grpc.protos_and_services("containerlab/cri.proto")

_CONFIG = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
# Those need kernel modules, devices or folders elsewhere; native snapshots work on any filesystem.
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.overlayfs",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{directory}/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
disable_apparmor = true
restrict_oom_score_adj = true # lowering it needs CAP_SYS_RESOURCE
netns_mounts_under_state_dir = {netns_in_state}

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni_bin}"
conf_dir = "{cni_conf}"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{directory}/runc"
"""


class RuntimeFailedError(Exception):
    """The runtime did not do as asked; the message says what it said."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod that runs, with its network."""

    id: str
    netns: Path
    """What the runtime named to the CNI plugin; valid in the runtime's mount namespace."""
    addresses: tuple[IPv4Address | IPv6Address, ...]


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as the runtime lists it."""

    id: str
    namespace: str
    name: str
    uid: str
    ready: bool
    """False once it was stopped: its network is gone, its record is kept until it is removed."""


class Runtime:
    """A containerd of our own. Thread-safe: pods may be run, stopped and removed all at once."""

    def __init__(self, directory: Path, prefix: Sequence[str], process: subprocess.Popen[bytes]) -> None:
        self._directory = directory
        self._prefix = tuple(prefix)
        self._process = process
        self._channel = grpc.insecure_channel(self.endpoint, options=[("grpc.enable_http_proxy", 0)])
        self._pods = _services.RuntimeServiceStub(self._channel)
        self._images = _services.ImageServiceStub(self._channel)

    @classmethod
    def start(
        cls,
        directory: Path,
        *,
        cni_bin: Path,
        cni_conf: Path,
        prefix: Sequence[str] = (),
        fresh: bool = True,
    ) -> Runtime:
        """Start containerd in ``directory``, after cleaning what an earlier run left there; return when it serves.

        ``cni_bin`` holds the plugins, ``loopback`` among them; ``cni_conf`` the network configuration, of which the
        first file by name counts and which is watched. Without ``fresh`` it starts as after a reboot: it remembers its
        images and pods, of which none runs. Raises RuntimeFailedError.
        """
        (clean if fresh else halt)(directory, prefix)
        directory.mkdir(parents=True, exist_ok=True)
        config = directory / "config.toml"
        config.write_text(
            _CONFIG.format(
                directory=directory,
                image=_PAUSE_IMAGE,
                cni_bin=cni_bin,
                cni_conf=cni_conf,
                netns_in_state="false" if "--mount" in prefix else "true",
            )
        )
        with (directory / "containerd.log").open("wb") as log:
            process = subprocess.Popen(
                [*prefix, "containerd", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        runtime = cls(directory, prefix, process)
        try:
            runtime._wait_until_serving()
            if fresh:
                pause = {"pause": _build_pause(directory)}
                runtime.import_image(Image(_PAUSE_IMAGE, pause, entrypoint=["/pause"]))
        except BaseException:
            runtime.close()
            raise
        return runtime

    @property
    def endpoint(self) -> str:
        """Where it serves the CRI."""
        return f"unix://{self._directory}/containerd.sock"

    @property
    def cgroup(self) -> str:
        """The control group that all pods have to be in; it ends with the runtime."""
        return f"/{_cgroup(self._directory)}"

    def run_pod(self, namespace: str, name: str, uid: str) -> Sandbox:
        """Start a pod and have its network attached (CNI ADD); raises RuntimeFailedError with the plugin's words."""
        metadata = _messages.PodSandboxMetadata(name=name, uid=uid, namespace=namespace)
        linux = _messages.LinuxPodSandboxConfig(cgroup_parent=self.cgroup)
        config = _messages.PodSandboxConfig(metadata=metadata, hostname=name, linux=linux)
        sandbox_id = self._call(self._pods.RunPodSandbox, _messages.RunPodSandboxRequest(config=config)).pod_sandbox_id
        return self.inspect(sandbox_id)

    def inspect(self, sandbox_id: str) -> Sandbox:
        """Return a running pod by its id; raises RuntimeFailedError when there is none."""
        request = _messages.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=True)
        answer = self._call(self._pods.PodSandboxStatus, request)
        network = answer.status.network
        addresses = [network.ip, *(each.ip for each in network.additional_ips)]
        namespaces = json.loads(answer.info["info"])["runtimeSpec"]["linux"]["namespaces"]
        path = next(each["path"] for each in namespaces if each["type"] == "network")
        # /var/run is a link, which would lead out of a node that is looked at from outside.
        netns = Path(path.replace("/var/run/", "/run/", 1) if path.startswith("/var/run/") else path)
        return Sandbox(sandbox_id, netns, tuple(ip_address(each) for each in addresses if each))

    def stop_pod(self, sandbox_id: str) -> None:
        """Stop a pod and have its network detached (CNI DEL); raises RuntimeFailedError."""
        self._call(self._pods.StopPodSandbox, _messages.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))

    def remove_pod(self, sandbox_id: str) -> None:
        """Forget a pod, stopping it first when it runs; raises RuntimeFailedError."""
        self._call(self._pods.RemovePodSandbox, _messages.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))

    def pods(self) -> tuple[Pod, ...]:
        """Return every pod that was not removed."""
        items = self._call(self._pods.ListPodSandbox, _messages.ListPodSandboxRequest()).items
        ready = _messages.SANDBOX_READY
        return tuple(
            Pod(each.id, each.metadata.namespace, each.metadata.name, each.metadata.uid, each.state == ready)
            for each in items
        )

    def network_ready(self) -> bool:
        """Return whether the runtime found a network configuration that it can use (what makes a node Ready)."""
        conditions = self._call(self._pods.Status, _messages.StatusRequest()).status.conditions
        return any(each.type == "NetworkReady" and each.status for each in conditions)

    def command(self, sandbox: Sandbox, *argv: str) -> tuple[str, ...]:
        """Return the command line that runs ``argv`` in the pod's network namespace."""
        return (*self._prefix, "nsenter", f"--net={sandbox.netns}", *argv)

    def close(self) -> None:
        """Kill everything and leave nothing; pods that still run get no DEL, as when a server loses power."""
        self._channel.close()
        clean(self._directory, self._prefix)
        self._process.wait()

    def power_off(self) -> None:
        """Lose all that a reboot takes and keep the disk, from which `start` goes on."""
        self._channel.close()
        halt(self._directory, self._prefix)
        self._process.wait()

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        try:
            return method(request, timeout=_CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            raise RuntimeFailedError(error.details()) from error

    def _wait_until_serving(self) -> None:
        try:
            grpc.channel_ready_future(self._channel).result(timeout=_START_TIMEOUT_S)
        except grpc.FutureTimeoutError as error:
            log = (self._directory / "containerd.log").read_text(errors="replace")
            raise RuntimeFailedError(f"containerd does not serve: {log[-2000:]}") from error

    def import_image(self, image: Image) -> None:
        """Take in an image, so that pods can use it; RuntimeFailedError."""
        ctr = ("ctr", "--address", f"{self._directory}/containerd.sock", "--namespace", "k8s.io")
        imported = subprocess.run(
            [*self._prefix, *ctr, "images", "import", "--snapshotter", "native", "-"],
            input=image.archive(),
            capture_output=True,
            check=False,
        )
        if imported.returncode:
            raise RuntimeFailedError(f"{image.name}: {imported.stderr.decode(errors='replace')}")
        request = _messages.ImageStatusRequest(image=_messages.ImageSpec(image=image.name))
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._call(self._images.ImageStatus, request).HasField("image"):  # the CRI learns of it by an event
            if time.monotonic() > deadline:
                raise RuntimeFailedError(f"containerd imported {image.name}, its CRI plugin does not see it")
            time.sleep(_POLL_S)


def clean(directory: Path, prefix: Sequence[str] = ()) -> None:
    """Remove all that a runtime in ``directory`` left: processes, mounts, cgroups, sockets, files. Safe at any time."""
    halt(directory, prefix)
    if directory.exists():
        shutil.rmtree(directory)


def halt(directory: Path, prefix: Sequence[str] = ()) -> None:
    """Remove what a reboot would take: processes, mounts, cgroups, sockets. What containerd wrote to disk stays."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while pids := _processes(directory):
        if time.monotonic() > deadline:
            raise RuntimeFailedError(f"processes {pids} of {directory} survive SIGKILL")
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)
    for address in directory.glob("state/io.containerd.runtime.v2.task/*/*/address"):
        Path(address.read_text().removeprefix("unix://")).unlink(missing_ok=True)
    for where in dict.fromkeys([tuple(prefix), ()]):
        _unmount(directory, where)
    for cgroup in _cgroups(directory):
        _remove_cgroup(cgroup)
    if (directory / "state").exists():
        shutil.rmtree(directory / "state")


def _processes(directory: Path) -> set[int]:
    """Return containerd, shims and runc (they name files of ours) and the pods' processes (they are in our cgroup)."""
    marks = {f"{directory}/{name}".encode() for name in ("config.toml", "containerd.sock", "runc/k8s.io")}
    pids: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended while we looked
            if marks & set((entry / "cmdline").read_bytes().split(b"\0")):
                pids.add(int(entry.name))
    for cgroup in _cgroups(directory):
        for folder, _, _ in os.walk(cgroup):
            with suppress(OSError):
                pids.update(int(pid) for pid in Path(folder, "cgroup.procs").read_text().split())
    return pids


def _unmount(directory: Path, prefix: Sequence[str]) -> None:
    listing = subprocess.run([*prefix, "cat", "/proc/self/mounts"], capture_output=True, text=True, check=False)
    points = [line.split()[1] for line in listing.stdout.splitlines()]  # nothing when the node itself is gone
    ours = [point for point in points if Path(point).is_relative_to(directory)]
    if ours:
        subprocess.run([*prefix, "umount", "--lazy", *reversed(ours)], check=True)


def _cgroups(directory: Path) -> list[Path]:
    """Return our cgroup in every hierarchy (version 1) or in the only one (version 2)."""
    parents = (_CGROUPS, *_CGROUPS.glob("*/"))
    return [parent / _cgroup(directory) for parent in parents if (parent / _cgroup(directory)).is_dir()]


def _remove_cgroup(path: Path) -> None:
    for child in path.glob("*/"):
        _remove_cgroup(child)
    path.rmdir()


def _cgroup(directory: Path) -> str:
    return str(directory).strip("/").replace("/", "-")


def _build_pause(directory: Path) -> bytes:
    binary = directory / "pause"
    source = Path(__file__).with_name("pause.c")
    subprocess.run(["cc", "-std=gnu11", "-Os", "-static", "-s", "-o", str(binary), str(source)], check=True)
    return binary.read_bytes()
