"""Every kind of finding has its section in the runbook, and its cause on the fabric."""

from __future__ import annotations

import re
from pathlib import Path

from routed.audit.model import Kind
from tests.lab.audit_causes import CAUSES, TOGETHER

RUNBOOK = Path(__file__).parents[3] / "docs" / "audit.md"


def test_every_kind_has_its_section() -> None:
    findings = RUNBOOK.read_text().split("\n## Findings\n")[1].split("\n## ")[0]
    assert re.findall(r"^### ([a-z-]+)$", findings, re.MULTILINE) == list(Kind)


def test_every_kind_is_caused_on_the_fabric() -> None:
    assert CAUSES.keys() == set(Kind)
    assert set(CAUSES.values()) <= {cause for together in TOGETHER.values() for cause in together}
