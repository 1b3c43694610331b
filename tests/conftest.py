"""Options of the whole suite."""

from __future__ import annotations

import pytest

from containerlab.runners import Runner


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--runner",
        choices=list(Runner),
        default=Runner.netns,
        help="who realises the fabric of tests/lab: network namespaces, or containerlab itself",
    )
