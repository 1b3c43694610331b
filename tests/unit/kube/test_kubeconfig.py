"""Commands reach the cluster that kubectl reaches."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from routed.audit.settings import load
from routed.cli import torconfig
from routed.kube.api import NODES
from routed.kube.client import connect
from routed.kube.errors import NoAccess
from routed.kube.kubeconfig import users


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("said", "found"),
    [("", "{0}/.kube/config"), ("audit", "{0}/audit"), ("~/one:/etc/two:", "{0}/one:/etc/two")],
    ids=["the usual one", "from here", "several"],
)
def test_the_environment_says_which(home: Path, monkeypatch: pytest.MonkeyPatch, said: str, found: str) -> None:
    monkeypatch.setenv("KUBECONFIG", said)
    assert str(users()) == found.format(home)


def test_an_audit_file_elsewhere_means_the_same_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "audit")
    file = home / "etc/audit.yaml"
    file.parent.mkdir()
    for said, meant in (("{}", home / "audit"), ("{kubeconfig: audit}", file.with_name("audit"))):
        file.write_text(f"kubernetes: {said}\n")
        settings = load(file)
        assert settings.kubernetes is not None
        assert settings.kubernetes.kubeconfig is not None
        assert settings.path(settings.kubernetes.kubeconfig) == meant


# ---- several files


def cluster(path: Path, name: str, port: int, *, current: str) -> Path:
    """Write a kubeconfig of one cluster."""
    document = {
        "clusters": [{"name": name, "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": name, "user": {}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": current,
    }
    path.write_text(json.dumps(document))  # which is YAML
    return path


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be an API server that has one Node."""
    await reader.readuntil(b"\r\n\r\n")
    body = b'{"kind": "Node"}'
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
    await writer.drain()
    writer.close()


@pytest.mark.parametrize(
    "order", ["here other", "empty here other", "here empty other", "none here other", "aimless here other"]
)
async def test_the_first_file_with_a_current_context_says_which_cluster(home: Path, order: str) -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    cluster(home / "here", "here", port, current="here")
    cluster(home / "other", "other", 1, current="other")
    cluster(home / "aimless", "aimless", 1, current="")
    (home / "empty").touch()
    async with server, connect(Path(os.pathsep.join(str(home / name) for name in order.split()))) as api:
        assert await api.get(NODES, "s11") == {"kind": "Node"}


async def test_a_single_one_may_be_a_pipe(home: Path) -> None:
    """As in ``--kubeconfig <(kubectl config view --raw)``: it can be read once."""
    text = cluster(home / "here", "here", 1, current="here").read_bytes()
    reading, writing = os.pipe()
    try:
        os.write(writing, text)
        os.close(writing)
        async with connect(Path(f"/dev/fd/{reading}")):
            pass
    finally:
        os.close(reading)


@pytest.mark.parametrize("files", [["no-such"], ["no-such", "neither"], ["empty"], ["list"]])
async def test_files_that_say_nothing_are_no_access(home: Path, files: list[str]) -> None:
    (home / "empty").touch()
    (home / "list").write_text("[]")
    with pytest.raises(NoAccess, match="no API server can be reached"):
        async with connect(Path(os.pathsep.join(str(home / name) for name in files))):
            pass


def test_who_has_no_home_needs_none_for_a_rack_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "~nobody-of-this-name/config")
    example = Path(__file__).parents[3] / "rack.example.yaml"
    done = CliRunner().invoke(torconfig.app, ["--vendor", "eos", "--tor", "r1a", str(example)])
    assert (done.exit_code, done.exception) == (0, None)
    assert str(users()).endswith("/~nobody-of-this-name/config")
