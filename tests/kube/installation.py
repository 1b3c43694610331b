"""The end-to-end test's copy of deploy/kustomize/example, as docs/install.md has an operator make one."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from tests.kube.control_plane import SERVICES
from tests.kube.images import BORROWED
from tests.kube.installed import NAMESPACE
from tests.kube.objects import Object, named
from tests.kube.worker import PLUGINS
from tests.manifests import DEPLOY

RACK_FILES = Path(__file__).parents[2] / "containerlab" / "racks"
IMAGE, NEXT_IMAGE = (f"registry.example.org/routed:0.{number}.0" for number in (1, 2))
"""What the example names, and what an upgrade is to."""
_RECLAIM_AFTER_S = 2


def write(folder: Path) -> Path:
    """Write it, the kustomizations that it builds on beside it; return the folder to apply."""
    shutil.copytree(DEPLOY / "kustomize", folder)
    copy = folder / "example"
    for rack in racks():
        (copy / f"{rack['metadata']['name']}.yaml").write_text(yaml.safe_dump(rack))
    agents = yaml.safe_load((copy / "agent.yaml").read_text())
    agents["kubernetes"]["reclaim_after_s"] = _RECLAIM_AFTER_S
    (copy / "agent.yaml").write_text(yaml.safe_dump(agents))
    (copy / "borrowed.yaml").write_text(yaml.safe_dump(_borrowing()))
    kustomization = yaml.safe_load((copy / "kustomization.yaml").read_text())
    kustomization["resources"].append("r2.yaml")
    kustomization["patches"] = [{"path": "borrowed.yaml"}]
    (copy / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return copy


def renew(folder: Path, image: str, patched: Iterable[Object]) -> None:
    """Name another image in the copy, and bring in these Racks as they are by now."""
    for rack in patched:
        head = named(rack["apiVersion"], rack["kind"], rack["metadata"]["name"])
        (folder / f"{rack['metadata']['name']}.yaml").write_text(yaml.safe_dump({**head, "spec": rack["spec"]}))
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    (named_there,) = kustomization["images"]
    named_there["newName"], _, named_there["newTag"] = image.rpartition(":")
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))


def racks() -> Iterator[Object]:
    """Yield the lab's racks as objects."""
    for name in ("r1", "r2"):
        file = yaml.safe_load((RACK_FILES / f"{name}.yaml").read_text())
        spec = {key: file[key] for key in ("tors", "hosts", "pools", "steering")}
        bgp = {"asn": file["bgp"]["asn"], "graceful_restart_s": 120}
        spec |= {"bgp": bgp, "ipam": {"cooldown_s": 180}, "services": [str(SERVICES)]}
        yield {**named("routed.dev/v1alpha1", "Rack", name), "spec": spec}


def _borrowing() -> Object:
    """Return the patch with which an agent uses this machine's programs, and the plugin is where the nodes look."""
    volumes = [{"name": "cni-bin", "hostPath": {"path": str(PLUGINS)}}]
    mounts = []
    for number, folder in enumerate(BORROWED):
        volumes.append({"name": f"borrowed-{number}", "hostPath": {"path": folder, "type": "Directory"}})
        mounts.append({"name": f"borrowed-{number}", "mountPath": folder, "readOnly": True})
    spec = {
        "volumes": volumes,
        "initContainers": [{"name": "prepare", "volumeMounts": mounts}],
        "containers": [{"name": "agent", "volumeMounts": mounts}],
    }
    return {**named("apps/v1", "DaemonSet", "routed", namespace=NAMESPACE), "spec": {"template": {"spec": spec}}}
