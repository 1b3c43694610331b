"""Labs by containerlab itself: the same topology file, its nodes as Docker containers, the same `Lab` to use them.

Owns what containerlab needs: its program (fetch.sh), a Docker (docker.sh), the images (images/build.sh), and a copy of
the topology file under the lab's name. A container's namespaces are entered as a node's are, never by `docker exec`.
Source: containerlab 0.79, https://containerlab.dev/manual/topo-def-file.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from containerlab.errors import LabError, NodeError
from containerlab.lab import STATE, Lab
from containerlab.node import Node
from containerlab.topology import Topology

HERE = Path(__file__).parent
NEEDED = ("docker", "go", "debootstrap")
PLUGIN = Path("/opt/cni/bin/routed")


class Container(Node):
    """A node that is a container."""

    plugin = PLUGIN

    @classmethod
    def adopt(cls, folder: Path, host: str, name: str) -> Container:
        """Note a container of a lab that was deployed. LabError when there is none of that name."""
        found = _inspect(host, name)
        environment = dict(variable.split("=", 1) for variable in found["Config"]["Env"])
        document = {
            "name": folder.name,
            "group": found["Config"]["Labels"]["clab-node-group"],
            "env": {"HOME": "/root", "HOSTNAME": folder.name, **environment},
            "host": host,
            "container": found["Id"],
            "pid": found["State"]["Pid"],
        }
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "spec.json").write_text(json.dumps(document, indent=1))
        return cls(folder)

    def inspect(self) -> dict[str, Any]:
        """Return what Docker says of it. LabError when it is gone."""
        return _inspect(self.spec["host"], self.spec["container"])

    @property
    def pid(self) -> int:
        """The container's init, as the host counts. NodeError when the container has stopped."""
        spec = self.spec
        pid = int(spec["pid"])
        try:
            groups = Path(f"/proc/{pid}/cgroup").read_text()
        except OSError:
            groups = ""
        if spec["container"] not in groups:  # the number may be another process's by now
            raise NodeError(f"{self.name} stopped; its last words:\n{self.last_words()}")
        return pid

    def last_words(self) -> str:
        """Return the end of what the entrypoint printed."""
        done = self._docker("logs", "--tail", "20")
        return (done.stdout + done.stderr).strip()

    def stop(self) -> None:
        """Remove the container; nothing to do when it is gone already."""
        if (self.folder / "spec.json").exists():
            self._docker("rm", "--force")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _docker(self, *words: str) -> subprocess.CompletedProcess[str]:
        spec = self.spec
        command = ["docker", "--host", spec["host"], *words, spec["container"]]
        return subprocess.run(command, capture_output=True, text=True, check=False)


class ContainerLab(Lab):
    """A lab that containerlab deployed."""

    node_type = Container

    @staticmethod
    def obstacle() -> str | None:
        """Return why no such lab can run on this machine; None when it can, and Docker runs then."""
        missing = [program for program in NEEDED if shutil.which(program) is None]
        if missing:
            return f"containerlab needs {', '.join(missing)}: not installed"
        try:
            _docker_host()
        except LabError as error:
            return str(error)
        return None

    def _build(self, plan: Topology) -> None:
        if (obstacle := self.obstacle()) is not None:
            raise LabError(obstacle)
        host = _docker_host()
        self._write_document(plan, runner="containerlab", host=host)
        self.report(f"{self.name}: preparing containerlab and the images")
        program = _run([HERE / "fetch.sh"]).strip()
        _run([HERE / "images" / "build.sh"], DOCKER_HOST=host)
        self._write_document(plan, runner="containerlab", host=host, program=program)
        self._topology.write_text(yaml.safe_dump(renamed(plan, self.name), sort_keys=False))
        self.report(f"{self.name}: containerlab deploys {len(plan.nodes)} nodes and {len(plan.links)} links")
        self._containerlab("deploy")
        for name in plan.nodes:
            Container.adopt(self.folder / name, host, f"clab-{self.name}-{name}")

    def down(self) -> None:
        """Have containerlab destroy the lab, then remove what is left of it, also when nothing is there."""
        if self._topology.exists():
            _docker_host()  # after a crash of Docker its containers wait for the next
            self._containerlab("destroy", "--cleanup")
        super().down()
        others = (json.loads(path.read_text()) for path in STATE.glob("*/lab.json"))
        if not any(other.get("runner") == "containerlab" for other in others):
            _run([HERE / "docker.sh", "stop"])

    @property
    def _topology(self) -> Path:
        return self.folder / f"{self.name}.clab.yml"

    def _containerlab(self, verb: str, *options: str) -> None:
        document = self._document()
        environment = {"DOCKER_HOST": document["host"], "CLAB_VERSION_CHECK": "disable"}
        said = _run([document["program"], verb, *options, "-t", self._topology], **environment)
        (self.folder / f"{verb}.log").write_text(said)


def renamed(plan: Topology, name: str) -> dict[str, Any]:
    """Return the topology file under another name and for another place: `destroy` knows the name only from there."""
    document: dict[str, Any] = yaml.safe_load(plan.path.read_text())
    body = document["topology"]
    levels = [body.get("defaults")]
    for section in ("kinds", "groups", "nodes"):
        levels += body.get(section, {}).values()
    for level in levels:
        if level and "binds" in level:
            level["binds"] = [str(plan.path.parent / bind) for bind in level["binds"]]
    return {**document, "name": name}


def _inspect(host: str, name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(_run(["docker", "--host", host, "inspect", "--type", "container", name]))
    return found[0]


def _docker_host() -> str:
    return _run([HERE / "docker.sh", "start"]).strip()


def _run(command: Sequence[str | Path], **environment: str) -> str:
    """Run a program of the machine and return what it prints; LabError with all of its words when it fails."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        start_new_session=True,  # an interrupt from the terminal is for the runner
    )
    if done.returncode:
        words = " ".join(str(word) for word in command)
        raise LabError(f"{words}: exit {done.returncode}:\n{(done.stdout + done.stderr).strip()}")
    return done.stdout
