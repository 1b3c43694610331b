"""What everybody says of a node's pods and their host routes, side by side: for the message of a test that fails.

The chain is API server, runtime, agent (its ledger, then what it told each ToR), ToR; a route that is missing or left
over went wrong between the first two that disagree. Never decides anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from http.client import HTTPException
from typing import Any

from containerlab.runtime import RuntimeFailedError
from tests.kube.installed import NAMESPACE
from tests.kube.objects import Object
from tests.kube.worker import Worker
from tests.servers import Server

_ID = 12
"""Characters of a container's id that tell it from others."""


def testimony(pods: Sequence[Object], worker: Worker, server: Server) -> str:
    """Return what is known of the pods with addresses of their own on a node, a line each."""
    said = {
        "API server": list(_of_the_api_server(pods)),
        "runtime": list(_of_the_runtime(worker)),
        "ledger": [
            _line(row, "container", "pod", "addresses", "state", "error") for row in _page(server, "attachments")
        ],
        "adj-RIB-out": [_line(row, "prefix", "tor", "state") for row in _page(server, "routes")],
        **{tor: [" ".join(sorted(server.announced(tor)))] for tor in server.tors},
        "kubelet": worker.log("kubelet").splitlines(),
    }
    return "\n".join(f"{server.name}, {who}: {line}" for who, lines in said.items() for line in lines or ["nothing"])


def _of_the_api_server(pods: Sequence[Object]) -> Iterator[str]:
    for pod in pods:
        metadata, status = pod["metadata"], pod["status"]
        addresses = [each["ip"] for each in status.get("podIPs", ())]
        going = "going" if "deletionTimestamp" in metadata else ""
        yield f"{metadata['name']} {metadata['uid']} {status['phase']} {addresses} {going}"


def _of_the_runtime(worker: Worker) -> Iterator[str]:
    for pod in worker.runtime.pods():
        if pod.namespace == NAMESPACE:
            continue  # agents are on the node's own network
        if not pod.ready:
            yield f"{pod.id[:_ID]} {pod.name} {pod.uid} stopped"
            continue
        try:
            addresses = [str(address) for address in worker.runtime.inspect(pod.id).addresses]
        except RuntimeFailedError as error:  # it went meanwhile
            addresses = [str(error)]
        yield f"{pod.id[:_ID]} {pod.name} {pod.uid} {addresses}"


def _page(server: Server, page: str) -> list[dict[str, Any]]:
    try:
        return server.look(page)
    except (OSError, HTTPException) as error:
        return [{"error": f"the agent does not answer: {error}"}]


def _line(row: dict[str, Any], *columns: str) -> str:
    return " ".join(str(row[column])[: _ID if column == "container" else None] for column in columns if row.get(column))
