"""docs/custom-resources.md, held against a real API server: its Rack is applied, its tables are asked for.

And docs/operations.md has no box that the end-to-end test does not type.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml

from routed.kube.addresses import object_name
from routed.kube.errors import Malformed
from routed.kube.occupancy import occupancy, status
from routed.kube.racks import check
from tests.kube.client import Client
from tests.kube.control_plane import ControlPlane
from tests.kube.installed import ADDRESSES, RACKS, address, clear, rack
from tests.kube.pages import OPERATIONS, headings

PAGE = (Path(__file__).parents[2] / "docs" / "custom-resources.md").read_text()
(MANIFEST,) = re.findall(r"```yaml\n(apiVersion: .*?)```", PAGE, re.DOTALL)
CONSOLE = re.findall(r"```console\n\$ (kubectl [^\n]+)\n(.*?)```", PAGE, re.DOTALL)
POD = {"namespace": "shop", "name": "web-0", "uid": "0f6a3f0e-3d0f-4b8e-9d5c-5d7f0a1c2b3d"}


@pytest.fixture(scope="module")
def admin(cluster: ControlPlane) -> Iterator[Client]:
    """Two racks, the second of which wants what the first one has, and some leases."""
    clear(cluster, RACKS, ADDRESSES)
    admin = cluster.admin
    leased = [("10.101.0.7", "s11", POD), ("10.101.0.8", "s11", None), ("10.101.1.31", "s12", None)]
    for text, node, pod in [*leased, ("fd00:101::7", "s11", POD)]:
        name = object_name(ip_address(text))
        admin.post(ADDRESSES, address(text, node=node, name=name)).granted()
        admin.patch(f"{ADDRESSES}/{name}/status", {"status": {"pod": pod}}).granted()
    second = rack("r2")
    second["spec"]["pools"] = [{"prefix": "10.101.1.0/24", "gateway": "10.101.1.1"}]
    racks = [admin.apply(made).granted() for made in (yaml.safe_load(MANIFEST), second)]
    for made in racks:
        try:
            uses, trouble = occupancy(check(made, racks), (ip_address(text) for text, *_ in leased)), None
        except Malformed as error:
            uses, trouble = None, str(error)
        said = {"status": status(made, uses, trouble, datetime.now(UTC))}
        admin.patch(f"{RACKS}/{made['metadata']['name']}/status", said).granted()
    yield admin
    clear(cluster, RACKS, ADDRESSES)


def shown(admin: Client, command: str) -> str:
    """Return what `kubectl get` prints of the same answer, an age of one second."""
    _, _, kind, *words = command.split()
    path = {"racks": RACKS, "addresses": ADDRESSES}[kind]
    if words and not words[0].startswith("-"):
        path += f"/{words[0]}"
    elif "--field-selector" in words:
        path += f"?fieldSelector={words[words.index('--field-selector') + 1]}"
    rows = admin.table(path, wide="wide" in words)
    cells = [
        [name.upper() for name in rows[0]],
        *(["" if cell is None else str(cell) for cell in row.values()] for row in rows),
    ]
    age = cells[0].index("AGE")
    for row in cells[1:]:
        row[age] = "1s"
    widths = [max(len(row[number]) for row in cells) + 3 for number in range(len(cells[0]))]
    return "".join("".join(map(str.ljust, row, widths)).rstrip() + "\n" for row in cells)


@pytest.mark.parametrize(("command", "answer"), [entry for entry in CONSOLE if entry[0].startswith("kubectl get")])
def test_the_page_shows_what_the_api_server_answers(admin: Client, command: str, answer: str) -> None:
    assert shown(admin, command) == answer


def test_the_page_shows_how_an_edit_is_refused(admin: Client) -> None:
    ((_, answer),) = [entry for entry in CONSOLE if entry[0].startswith("kubectl patch")]
    refused = admin.patch(f"{RACKS}/r1", {"spec": {"bgp": {"graceful_restart_s": 90}}})
    said = answer.strip().removeprefix('The Rack "r1" is invalid: spec: Invalid value: ')
    assert said in refused.message


def test_the_page_names_every_field_of_a_rack(admin: Client) -> None:
    crd = admin.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/racks.routed.dev").granted()
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    for name, schema in spec.items():
        if schema["type"] == "object" and "properties" in schema:
            for inner in schema["properties"]:
                assert f"| `{name}.{inner}` |" in PAGE
        else:
            assert f"| `{name}` |" in PAGE or f"| `{name}[]` |" in PAGE


def test_every_box_of_the_operations_page_is_typed() -> None:
    typed = re.findall(r'follow\("([^"]+)"', Path(__file__).with_name("test_end_to_end.py").read_text())
    assert headings(OPERATIONS) == set(typed)
