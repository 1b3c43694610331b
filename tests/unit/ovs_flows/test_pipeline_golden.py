"""The pipeline's text is the text that reviewers have seen: tests/golden and docs/pipeline.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ovs_flows.tables import TABLES
from ovs_flows.text import format_flow, format_group, parse_flow, parse_group
from tests.golden.pipelines import PIPELINES, golden, lines

PAGE = Path(__file__).parents[3] / "docs" / "pipeline.md"


@pytest.mark.parametrize("name", PIPELINES)
def test_pipeline_is_as_reviewed(name: str) -> None:
    """After a wanted change: ``python -m tests.golden.pipelines``, then read the difference."""
    assert lines(name) == golden(name)


@pytest.mark.parametrize("name", PIPELINES)
def test_golden_lines_read_back(name: str) -> None:
    for line in golden(name):
        if line.startswith("group_id"):
            assert format_group(parse_group(line)) == line
        elif not line.startswith("meter="):
            owner, flow = parse_flow(line)
            assert format_flow(flow, owner) == line


def test_page_shows_every_flow_of_the_dual_stack_pipeline_and_no_other() -> None:
    shown = re.findall(r"^(?:group_id|meter=|cookie=).*$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    known = {line for name in PIPELINES for line in golden(name)}
    assert set(shown) >= set(golden("dual"))
    assert set(shown) <= known


def test_page_has_a_section_for_every_table() -> None:
    headings = re.findall(r"^### (\d+) (\w+)", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert headings == [(str(table.number), table.name) for table in TABLES.values()]
