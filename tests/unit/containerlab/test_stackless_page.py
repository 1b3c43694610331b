"""The page that explains the ToRs' configuration quotes the one that the fabric runs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "containerlab" / "configs" / "r1a" / "frr.conf"


def test_every_quoted_line_is_in_the_configuration() -> None:
    page = (ROOT / "docs" / "stackless.md").read_text()
    quoted = [line for block in re.findall(r"```frr\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert quoted
    assert set(quoted) <= set(CONFIG.read_text().splitlines())
