"""What is to be applied, from a file as kubectl prints it: what cannot be looked at is told with its key.

What a cluster answers: tests/kube/test_kube_torconfig.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from routed.kube.errors import NotFound
from routed.kube.whole import manifests, rack_to_be
from routed.settings import SettingsError
from tests.kube.installed import rack

NODE: dict[str, Any] = {"kind": "Node", "metadata": {"name": "s13", "labels": {"routed.dev/rack": "r1"}}}


def file_of(folder: Path, document: Any) -> Path:
    path = folder / "change.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_one_object_and_a_list_of_them_are_both_taken_as_they_are(tmp_path: Path) -> None:
    assert manifests(file_of(tmp_path, NODE)) == [NODE]
    both = [rack("r1"), NODE]
    assert manifests(file_of(tmp_path, {"apiVersion": "v1", "kind": "List", "items": both})) == both


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("text", "no Rack, no Node, and no List of these; a rack file goes without --rack"),
        ({"rack": "r1"}, "a rack file goes without --rack"),
        ({"kind": "List"}, "items: Field required"),
        ({"kind": "Pod", "metadata": {"name": "web-0"}}, r"items\[0\]: .*'Pod'.* 'Rack', 'Node'"),
        ({**NODE, "metadata": {}}, r"items\[0\].Node.metadata.name: Field required"),
        ({**NODE, "metadata": {"name": "s13", "labels": ["a"]}}, r"metadata.labels: .*dictionary"),
        ({**NODE, "status": {"addresses": ["10.1.0.13"]}}, r"status.addresses\[0\]: "),
        ({**rack("r1"), "spec": {}}, r"items\[0\].Rack.spec.tors: Field required"),
        ({**rack("r1"), "spec": rack("r1")["spec"] | {"bgp": {"password_secret": "x"}}}, "spec.bgp.password_secret: "),
        ({**rack("r1"), "spec": rack("r1")["spec"] | {"pools": [{"prefix": "10.1"}]}}, r"spec.pools\[0\].prefix: "),
    ],
)
def test_what_is_no_rack_and_no_node_is_told(tmp_path: Path, document: Any, said: str) -> None:
    path = file_of(tmp_path, document)
    with pytest.raises(SettingsError, match=said) as told:
        manifests(path)
    assert str(told.value).startswith(f"{path}: ")


async def test_a_cluster_without_racks_of_ours_is_asked_about(tmp_path: Path) -> None:
    runner = web.AppRunner(web.Application(), access_log=None)  # which knows no path at all
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        cluster = {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}
        config = {
            "current-context": "here",
            "clusters": [{"name": "here", "cluster": cluster}],
            "users": [{"name": "me", "user": {}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        }
        with pytest.raises(NotFound, match="is this the right cluster, with the resources of deploy/crds"):
            await rack_to_be("r1", (), file_of(tmp_path, config))
    finally:
        await runner.cleanup()
