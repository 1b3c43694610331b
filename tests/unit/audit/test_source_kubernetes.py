"""Racks and leases as an API server lists them; the server here answers lists and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from routed.audit.model import Holding
from routed.audit.sources import CouldNotObserve
from routed.audit.sources.plan import KubernetesPlan
from routed.kube.addresses import RACK_LABEL, new_object
from routed.settings import load
from tests.kube.installed import rack

EXAMPLE = Path(__file__).parents[3] / "rack.example.yaml"
NODES = [
    {
        "metadata": {"name": name, "labels": {RACK_LABEL: "r1"}},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }
    for name, address in (("s11", "10.1.0.11"), ("s12", "10.1.0.12"))
]


def lease(address: str, pod: dict[str, str] | None = None) -> dict[str, Any]:
    made: dict[str, Any] = dict(new_object(ip_address(address), rack="r1", node="s11", node_uid="n1"))
    made["metadata"] |= {"uid": "u", "resourceVersion": "7"}
    return {**made, "status": {"pod": pod}}


@asynccontextmanager
async def cluster(folder: Path, **lists: list[Any]) -> AsyncIterator[KubernetesPlan]:
    """Serve these lists by their plural; whatever else is asked for is forbidden."""

    async def answer(request: web.Request) -> web.Response:
        plural = request.path.rpartition("/")[2]
        if plural not in lists:
            return web.json_response({"message": f"{plural} is forbidden", "reason": "Forbidden"}, status=403)
        return web.json_response({"metadata": {"resourceVersion": "9"}, "items": lists[plural]})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "current-context": "other",
                    "clusters": [
                        {"name": "here", "cluster": {"server": f"http://127.0.0.1:{port}"}},
                        {"name": "other", "cluster": {"server": "http://127.0.0.1:1"}},
                    ],
                    "users": [{"name": "me", "user": {}}],
                    "contexts": [
                        {"name": name, "context": {"cluster": name, "user": "me"}} for name in ("here", "other")
                    ],
                }
            )
        )
        yield KubernetesPlan(kubeconfig, "here", timeout_s=10)
    finally:
        await runner.cleanup()


async def test_a_rack_is_what_its_file_says(tmp_path: Path) -> None:
    async with cluster(tmp_path, racks=[rack("r1"), rack("empty")], nodes=NODES) as source:
        (plan,) = await source.plans()
    assert plan.rack == load(EXAMPLE).domain_rack()
    assert {name: server.addresses for name, server in plan.servers.items()} == {
        "s11": (ip_address("10.1.0.11"),),
        "s12": (ip_address("10.1.0.12"),),
    }


async def test_leases_are_holdings(tmp_path: Path) -> None:
    used = lease("10.101.0.2", {"namespace": "shop", "name": "cart", "uid": "1"})
    async with cluster(tmp_path, addresses=[used, lease("10.101.0.3")]) as source:
        assert await source.holdings() == {
            "r1": [
                Holding(ip_address("10.101.0.2"), "s11", "shop/cart"),
                Holding(ip_address("10.101.0.3"), "s11", "", announce=False),
            ]
        }


Break = Callable[[], dict[str, list[Any]]]
BROKEN: list[tuple[Break, str]] = [
    (lambda: {"nodes": NODES}, "racks is forbidden"),
    (lambda: {"racks": [], "nodes": NODES}, "no Rack that selects a Node"),
    (lambda: {"racks": [{**rack("r1"), "spec": {}}], "nodes": NODES}, "Rack r1"),
    (lambda: {"racks": [rack("r1")], "nodes": [{**NODES[0], "status": {}}]}, "Node s11"),
]


@pytest.mark.parametrize(("lists", "message"), BROKEN)
async def test_racks_that_cannot_be_found_out(lists: Break, message: str, tmp_path: Path) -> None:
    async with cluster(tmp_path, **lists()) as source:
        with pytest.raises(CouldNotObserve, match=message):
            await source.plans()


async def test_leases_that_cannot_be_read_are_not_nobody_s(tmp_path: Path) -> None:
    async with cluster(tmp_path, addresses=[{"metadata": {"name": "10.101.0.2"}}]) as source:
        with pytest.raises(CouldNotObserve, match="an Address cannot be read"):
            await source.holdings()
    with pytest.raises(CouldNotObserve, match=r"the Kubernetes API of .*kubeconfig \(other\)"):
        await KubernetesPlan(tmp_path / "kubeconfig", "other", timeout_s=10).holdings()
