"""The audit's page as text: complete without script, closed to the outside, and deaf to hostile names."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from routed.audit.model import Audit
from routed.audit.report.page import render
from tests.golden.audits import CLEAN, MISSING, SAMPLE, UNOBSERVED, hostile

HOSTILE = "\"'></pre></script><script>hit()</script><img src=//x.example onerror=hit()>{{ 7*7 }}\x1b[31m\u202e"


class Parsed(HTMLParser):
    """Elements with their attributes, and the text of each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


@pytest.mark.parametrize("audit", [SAMPLE, CLEAN, hostile(HOSTILE)], ids=["sample", "clean", "hostile"])
def test_page_refers_to_nothing_but_itself(audit: Audit) -> None:
    parsed = Parsed(render(audit))
    ids = {attributes["id"] for _, attributes in parsed.elements if "id" in attributes}
    for tag, attributes in parsed.elements:
        assert "src" not in attributes
        assert tag not in ("link", "img", "iframe", "object", "form", "base")
        assert not any(name.startswith("on") or name == "style" for name in attributes), "the page's policy forbids it"
        if "href" in attributes:
            assert (attributes["href"] or "").removeprefix("#") in ids
    (policy,) = (attributes["content"] for _, attributes in parsed.elements if "http-equiv" in attributes)
    assert str(policy).startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in str(policy)


def test_hostile_names_are_text() -> None:
    text = render(hostile(HOSTILE))
    benign = Parsed(render(hostile("name")))
    assert [tag for tag, _ in Parsed(text).elements] == [tag for tag, _ in benign.elements], "no element was added"
    assert "{{ 7*7 }}" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_everything_is_there_without_script() -> None:
    text = "".join(Parsed(render(SAMPLE)).texts)
    for finding in SAMPLE.findings:
        assert finding.text in text
        assert finding.next in text
        assert all(each.says in text for each in finding.evidence)
    for rack in SAMPLE.racks:
        assert all(f"{holding.address!s:<24} {holding.server:<12} {holding.pod}" in text for holding in rack.holdings)
    assert SAMPLE.accepted[0].text in text


def test_what_is_copied_is_the_command_alone() -> None:
    then = "on r1a and r1b: vtysh -c 'show route-map FROM-s12'"
    texts = Parsed(render(replace(CLEAN, findings=(replace(MISSING, next=then),)))).texts
    assert [text for text in texts if text.startswith(("on ", "vtysh "))] == [
        "on r1a and r1b:",
        "vtysh -c 'show route-map FROM-s12'",
    ]


@pytest.mark.parametrize(
    ("audit", "verdict"),
    [
        (SAMPLE, "4 findings"),
        (CLEAN, "Clean"),
        (replace(CLEAN, findings=(MISSING,)), "1 finding"),
        (replace(CLEAN, findings=(UNOBSERVED,)), "Nothing found, but not everything seen"),
    ],
)
def test_verdict_is_at_the_top(audit: Audit, verdict: str) -> None:
    assert verdict in Parsed(render(audit)).texts
    good = "Nothing is wrong: routes are as they should be"
    assert any(good in text for text in Parsed(render(audit)).texts) == (verdict == "Clean")


def test_worst_racks_come_first() -> None:
    parsed = Parsed(render(replace(SAMPLE, racks=(*CLEAN.racks[:0], *SAMPLE.racks), findings=SAMPLE.findings[2:])))
    assert [attributes["data-rack"] for _, attributes in parsed.elements if "data-rack" in attributes] == ["r1", "r2"]
    parsed = Parsed(render(replace(SAMPLE, findings=SAMPLE.findings[3:])))
    assert [attributes["data-rack"] for _, attributes in parsed.elements if "data-rack" in attributes] == ["r2", "r1"]
