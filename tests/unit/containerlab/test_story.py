from __future__ import annotations

import pytest

from containerlab.story import Story


def test_a_story_without_a_terminal_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    story = Story("a title")
    story.chapter("one")
    with story.working("something long"):
        story.note("[on] the way")
    story.claim("this holds", True, "3 of 3")
    story.table(("pod", "IPv6"), [("p", "fd00::1")])
    told = capsys.readouterr().out
    assert "\x1b" not in told
    lines = [line.split(" s  ")[-1].strip() for line in told.splitlines() if line.strip()]
    assert lines == [
        "a title",
        "one",
        "something long ...",
        "[on] the way",
        "✓ this holds: 3 of 3",
        "pod  IPv6",
        "p    fd00::1",
    ]
    assert story.held


def test_one_claim_that_fails_fails_the_story(capsys: pytest.CaptureFixture[str]) -> None:
    story = Story("a title")
    story.claim("this holds", True, "yes")
    story.claim("this does not", False, "1 lost\n  pod-1 -> pod-2\n  pod-2 -> pod-1")
    assert not story.held
    assert "pod-2 -> pod-1" in capsys.readouterr().out, "the whole evidence stands where it was found"
    story.remark("look there")
    capsys.readouterr()
    story.summary()
    summary = capsys.readouterr().out
    assert "✓  this holds" in summary
    assert "✗  this does not  1 lost" in summary
    assert "pod-1" not in summary, "the summary is short"
    assert "! look there" in summary
    assert "1 of 2 claims failed" in summary
