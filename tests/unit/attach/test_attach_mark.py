"""The ownership mark: what is written is what is read, and only what is ours is taken for ours."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routed.attach import mark
from routed.attach.errors import MarkTooLong
from routed.attach.mark import LIMIT, Mark
from routed.domain.workload import AttachmentId

NAMES = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=64)
PATHS = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\0"), min_size=1, max_size=30)


@given(NAMES, NAMES, PATHS)
def test_reads_back_what_it_wrote(container: str, ifname: str, path: str) -> None:
    written = Mark(AttachmentId(container, ifname), f"/run/{path}")

    assert mark.parse(written.text()) == written
    assert mark.is_ours(written.text())
    assert written.text().startswith(mark.beginning(written.id))


def test_one_container_is_not_mistaken_for_another_whose_id_begins_alike() -> None:
    longer = Mark(AttachmentId("abcd", "eth0"), "/run/netns/x").text()

    assert not longer.startswith(mark.beginning(AttachmentId("abc", "eth0")))
    assert not longer.startswith(mark.beginning(AttachmentId("abcd", "eth")))


@pytest.mark.parametrize("alias", ["", "routedX", "routed-something", "other abc eth0 /run/netns/x", "Routed"])
def test_does_not_claim_what_others_wrote(alias: str) -> None:
    assert not mark.is_ours(alias)
    assert mark.parse(alias) is None


@pytest.mark.parametrize("alias", ["routed", "routed ", "routed abc", "routed abc eth0", "routed abc eth0 "])
def test_a_slot_without_a_whole_mark_is_free(alias: str) -> None:
    assert mark.parse(alias) is None


def test_fills_the_kernels_limit_and_says_so_one_byte_later() -> None:
    key = AttachmentId("c" * 64, "eth0")
    room = LIMIT - len(mark.beginning(key))

    assert len(Mark(key, "/" * room).text().encode()) == LIMIT
    with pytest.raises(MarkTooLong, match="256 bytes of 255"):
        Mark(key, "/" * (room + 1)).text()
    with pytest.raises(MarkTooLong):
        Mark(key, "é" * (room - 1)).text()
