from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from ipam.errors import LedgerUnavailableError
from routed.domain.workload import Attachment, AttachmentId, PodRef
from routed.kube.api import Api, Document
from routed.kube.memory import Memory
from routed.kube.pods import Pods, namespace_exists, uids, vanished
from tests.fixtures.attachments import attachment

GRACE_S = 100.0


def test_a_pod_is_gone_when_it_is_missed_twice_a_grace_period_apart() -> None:
    here, gone = attachment("a"), attachment("b")
    missed, found = vanished({}, [here, gone], {"a"}, 0.0, GRACE_S)
    assert found == ()
    missed, found = vanished(missed, [here, gone], {"a"}, 99.0, GRACE_S)
    assert found == ()
    missed, found = vanished(missed, [here, gone], {"a"}, 100.0, GRACE_S)
    assert found == (gone,)


def test_a_pod_that_is_seen_again_was_never_gone() -> None:
    one = attachment("a")
    missed, _ = vanished({}, [one], set(), 0.0, GRACE_S)
    missed, _ = vanished(missed, [one], {"a"}, 50.0, GRACE_S)
    missed, found = vanished(missed, [one], set(), 100.0, GRACE_S)
    assert found == ()
    assert vanished(missed, [one], set(), 200.0, GRACE_S)[1] == (one,)


def test_an_attachment_that_was_made_anew_is_another_one() -> None:
    one = attachment("a")
    missed, _ = vanished({}, [one], set(), 0.0, GRACE_S)
    _, found = vanished(missed, [replace(one, sequence=2)], set(), 100.0, GRACE_S)
    assert found == ()


@pytest.mark.parametrize("odd", [replace(attachment("a"), pod=PodRef()), replace(attachment("a"), leaving=True)])
def test_nobody_is_missed_whose_pod_is_not_known_or_who_leaves_anyway(odd: Attachment) -> None:
    assert vanished({}, [odd], set(), 0.0, GRACE_S) == ({}, ())


def test_what_is_no_longer_attached_is_forgotten() -> None:
    missed, _ = vanished({}, [attachment("a")], set(), 0.0, GRACE_S)
    assert vanished(missed, [], set(), 200.0, GRACE_S) == ({}, ())


def test_a_static_pod_is_known_by_the_uid_that_the_kubelet_gave_it() -> None:
    mirror = {
        "metadata": {
            "uid": "6e0b4b0a-0000-4000-8000-000000000001",
            "annotations": {
                "kubernetes.io/config.hash": "5d1c7c8cd2e9",
                "kubernetes.io/config.mirror": "5d1c7c8cd2e9",
                "x": "y",
            },
        }
    }
    assert uids([mirror, {"metadata": {"uid": "b"}}]) == {"6e0b4b0a-0000-4000-8000-000000000001", "5d1c7c8cd2e9", "b"}


def test_a_sandbox_lives_while_its_namespace_does(tmp_path: Path) -> None:
    (tmp_path / "netns").touch()
    one = Attachment(AttachmentId("c", "eth0"), PodRef(), str(tmp_path / "netns"), 0, (), 1)
    assert namespace_exists(one)
    assert not namespace_exists(replace(one, netns=str(tmp_path / "none")))
    assert not namespace_exists(replace(one, netns=""))


class NoPods:
    """An API server that knows of no pod."""

    async def request(
        self, method: str, path: str, *, body: Document | None = None, content_type: str = "application/json"
    ) -> Document:
        assert (method, body, content_type) == ("GET", None, "application/json")
        assert path.startswith("/api/v1/pods")
        return {"items": [], "metadata": {"resourceVersion": "1"}}

    def stream(self, path: str, *, timeout_s: float) -> AsyncIterator[Document]:
        raise NotImplementedError(f"{path} for {timeout_s} s: a sweep watches nothing")


async def test_who_cannot_be_discarded_yet_stays_missed_and_keeps_nobody_else(tmp_path: Path) -> None:
    first, second = attachment("a"), attachment("b")
    attached = [first, second]
    full = {first}

    async def discard(one: Attachment) -> None:
        if one in full:
            raise LedgerUnavailableError("ledger.db: database or disk is full")
        attached.remove(one)

    pods = Pods(
        Api(NoPods()),
        "s11",
        attachments=lambda: attached,
        discard=discard,
        memory=Memory(tmp_path / "pods.json"),
        grace_s=0,
        rng=Random(1),  # noqa: S311 - the same in each run
    )
    await pods.sweep()
    assert attached == [first, second], "seen once"
    await pods.sweep()
    assert attached == [first]
    full.clear()
    await pods.sweep()
    assert attached == []
