"""Options and marks of the whole suite."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import hypothesis
import pytest
from xdist.remote import Producer

from containerlab.runners import Runner
from tests.gotools import GoMissingError
from tests.sharing import Sharing

hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")  # the machine has other things to do; slowness is tests/bench's to find


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--runner",
        choices=list(Runner),
        default=Runner.netns,
        help="who realises the fabric of tests/lab: network namespaces, or containerlab itself",
    )
    parser.addoption(
        "--outage",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="how long the end-to-end test goes on without an API server, at least",
    )


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Sharing:
    """Decide which process of several runs what (``-n 2``)."""
    return Sharing(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    """Skip tests whose programs are not built and cannot be."""
    with _skipped_without_go():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Skip tests whose programs are not built and cannot be."""
    with _skipped_without_go():
        return (yield)


@contextlib.contextmanager
def _skipped_without_go() -> Iterator[None]:
    try:
        yield
    except GoMissingError as error:
        pytest.skip(str(error))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip on containers what only a fabric of namespaces can show; the mark says why."""
    if Runner(config.getoption("runner")) is Runner.netns:
        return
    for item in items:
        for mark in item.iter_markers("netns_only"):
            item.add_marker(pytest.mark.skip(reason=f"not on containerlab: {mark.args[0]}"))
