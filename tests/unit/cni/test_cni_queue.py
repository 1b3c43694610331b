"""The folder of deletions, from the agent's side."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import structlog

from routed.cni.protocol import SIZE_LIMIT
from routed.cni.queue import DeletionQueue
from routed.domain.workload import AttachmentId

ONE = AttachmentId("one", "eth0")


def deletion(container_id: str = "one", command: str = "DEL", body: bytes = b"{}") -> bytes:
    return f"CNI_COMMAND={command}\0CNI_CONTAINERID={container_id}\0CNI_IFNAME=eth0\0CNI_NETNS=/n\0\0".encode() + body


def test_a_folder_that_is_not_there_is_made_for_root_alone(tmp_path: Path) -> None:
    assert DeletionQueue(tmp_path / "state" / "queue").pending() == []
    assert (tmp_path / "state" / "queue").stat().st_mode & 0o777 == 0o700


def test_what_waits_is_returned_until_it_is_discarded(tmp_path: Path) -> None:
    queue = DeletionQueue(tmp_path)
    for name in ("one", "two"):
        (tmp_path / f"{name}:eth0").write_bytes(deletion(name))
    assert {request.attachment for request in queue.pending()} == {ONE, AttachmentId("two", "eth0")}
    assert queue.holds(ONE)
    queue.discard(ONE)
    assert not queue.holds(ONE)
    assert [request.attachment for request in queue.pending()] == [AttachmentId("two", "eth0")]


def test_discarding_what_does_not_wait_is_no_failure(tmp_path: Path) -> None:
    queue = DeletionQueue(tmp_path / "never-made")
    queue.discard(ONE)
    assert not queue.holds(ONE)


def test_drafts_of_a_shim_are_no_requests(tmp_path: Path) -> None:
    (tmp_path / ".one:eth0.4711").write_bytes(deletion()[:10])
    assert DeletionQueue(tmp_path).pending() == []
    assert (tmp_path / ".one:eth0.4711").exists()


def test_a_deletion_with_a_broken_configuration_is_still_one(tmp_path: Path) -> None:
    (tmp_path / "one:eth0").write_bytes(deletion(body=b"{"))
    assert [request.attachment for request in DeletionQueue(tmp_path).pending()] == [ONE]


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", deletion()[:-3], deletion("other"), deletion(command="GC"), deletion(body=b"x" * SIZE_LIMIT)],
    ids=["empty", "no request", "cut", "another's", "no deletion", "too long"],
)
def test_what_cannot_be_understood_moves_aside_is_reported_and_does_not_block(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "one:eth0").write_bytes(content)
    (tmp_path / "two:eth0").write_bytes(deletion("two"))
    with structlog.testing.capture_logs() as logs:
        found = DeletionQueue(tmp_path).pending()
    assert [request.attachment.container_id for request in found] == ["two"]
    [kept] = (tmp_path / ".corrupt").iterdir()
    assert kept.name.startswith("one:eth0.")
    assert kept.read_bytes() == content
    assert [(line["event"], line["file"]) for line in logs] == [("cni.queue.corrupt", str(kept))]


def test_what_moves_aside_never_replaces_what_did_before(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        (tmp_path / "one:eth0").write_bytes(content)
        with structlog.testing.capture_logs():
            assert DeletionQueue(tmp_path).pending() == []
    assert {path.read_bytes() for path in (tmp_path / ".corrupt").iterdir()} == {b"first", b"second"}


def test_links_pipes_and_folders_move_aside(tmp_path: Path) -> None:
    secret = tmp_path / ".secret"
    secret.write_bytes(deletion())
    (tmp_path / "one:eth0").symlink_to(secret)
    (tmp_path / "two:eth0").mkdir()
    os.mkfifo(tmp_path / "three:eth0")
    with structlog.testing.capture_logs() as logs:
        assert DeletionQueue(tmp_path).pending() == []
    assert len(logs) == 3
    aside = {path.name.split(":")[0] for path in (tmp_path / ".corrupt").iterdir()}
    assert aside == {"one", "two", "three"}


def test_what_cannot_move_aside_stays_is_reported_and_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "one:eth0").write_bytes(b"junk")
    (tmp_path / "two:eth0").write_bytes(deletion("two"))
    (tmp_path / ".corrupt").touch()  # like a full disk: no folder can be made
    with structlog.testing.capture_logs() as logs:
        found = DeletionQueue(tmp_path).pending()
    assert [request.attachment.container_id for request in found] == ["two"]
    assert (tmp_path / "one:eth0").read_bytes() == b"junk"
    assert [(line["event"], line["file"]) for line in logs] == [("cni.queue.unreadable", str(tmp_path / "one:eth0"))]
