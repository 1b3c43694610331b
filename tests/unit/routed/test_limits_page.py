"""The limits that docs/operations.md tells are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from routed.cni.server import Limits
from routed.domain.wiring import MOST_PFS, VF_SLOTS, VFS_OF_A_PF
from tests.manifests import DEPLOY, container

PAGE = (Path(__file__).parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")


def told(of: str) -> list[int]:
    """Return the numbers of a row."""
    (row,) = re.findall(rf"^\| {re.escape(of)} \| (.*?) \|", PAGE.partition("\n## Limits\n")[2], re.MULTILINE)
    return [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", row)]


def test_a_rack_has_as_many_tors_and_pools_as_its_schema_takes() -> None:
    (version,) = yaml.safe_load((DEPLOY / "crds/racks.yaml").read_text())["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    assert told("ToRs of a rack") == [spec["tors"]["maxItems"], spec["tors"]["minItems"]]
    assert told("pools of a rack")[0] == spec["pools"]["maxItems"]


def test_a_server_has_as_many_pods_and_calls_as_the_agent_takes() -> None:
    assert told("pods of a server")[0] == VF_SLOTS
    assert told("pods with a VF of a server") == [VFS_OF_A_PF, MOST_PFS]
    assert told("CNI calls of a server at once") == [Limits().calls]
    memory, *_ = told("memory of an agent's container")
    assert f"{memory}Mi" == container("agent")["resources"]["limits"]["memory"]
