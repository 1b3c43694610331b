"""The audit's page in a real browser: what it asks for, what it looks like, and that its script does its work."""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from routed.audit.model import Audit
from routed.audit.report.page import render
from tests.browser import CHROMIUM, Page, browser
from tests.golden.audits import SAMPLE, hostile

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium, 124 MB"),
]
CRITICAL, USED, USED_DARK = (196, 40, 31), (74, 154, 120), (63, 143, 109)
COUNT = """
(async () => {{
  const image = new Image();
  image.src = "data:image/png;base64,{data}";
  await image.decode();
  const canvas = Object.assign(document.createElement("canvas"), {{ width: image.width, height: image.height }});
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, image.width, image.height).data;
  const counts = {{}};
  for (let at = 0; at < pixels.length; at += 4) {{
    const colour = `${{pixels[at]}},${{pixels[at + 1]}},${{pixels[at + 2]}}`;
    counts[colour] = (counts[colour] || 0) + 1;
  }}
  return counts;
}})()
"""


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with browser() as tab:
        yield tab


def written(folder: Path, audit: Audit) -> str:
    file = folder / "audit.html"
    file.write_text(render(audit), encoding="utf-8")
    return file.as_uri()


async def colours(page: Page, picture: bytes) -> dict[tuple[int, ...], int]:
    """Return how many pixels have which colour; the page itself allows no images, an empty one does."""
    await page.open("about:blank")
    found = await page.run(COUNT.format(data=base64.b64encode(picture).decode()))
    return {tuple(map(int, colour.split(","))): count for colour, count in found.items()}


async def test_page_asks_for_nothing_and_fits(page: Page, tmp_path: Path) -> None:
    url = written(tmp_path, SAMPLE)
    for width in (1280, 400):
        await page.open(url, width=width)
        assert await page.run("document.documentElement.scrollWidth") <= width
    assert set(page.requests()) == {url}
    assert page.complaints() == []


async def test_screenshot_shows_racks_and_findings_by_day_and_by_night(page: Page, tmp_path: Path) -> None:
    url = written(tmp_path, SAMPLE)
    await page.open(url, height=1400)
    day = await page.screenshot()
    await page.media(scheme="dark")
    night = await page.screenshot()
    assert struct.unpack(">II", day[16:24]) == (1280, 1400)
    seen = await colours(page, day)
    assert seen[USED] > 572 * 90, "a cell of each of the 572 IPv4 pods"
    assert seen[CRITICAL] > 2 * 100, "two cells, a badge, the verdict"
    dark = await colours(page, night)
    assert dark[USED_DARK] > 572 * 90
    assert USED not in dark


async def test_search_finds_pods_and_their_findings(page: Page, tmp_path: Path) -> None:
    await page.open(written(tmp_path, SAMPLE))
    await page.run("document.querySelector('#query').value = 'shop/web-3 s12'")
    await page.run("document.querySelector('#query').dispatchEvent(new Event('input'))")
    await page.until("!document.querySelector('#hits').hidden")
    rows = await page.run("[...document.querySelectorAll('#hits tr')].map(row => row.innerText)")
    assert [row.split()[:3] for row in rows] == [["10.101.0.23", "shop/web-3", "s12"]]
    assert await page.run("document.querySelector('#hits a').getAttribute('href')") == "#f3"
    shown = "[...document.querySelectorAll('.finding')].filter(one => !one.hidden).map(one => one.id)"
    assert await page.run(shown) == ["f3"]
    assert await page.run("[...document.querySelectorAll('.rack')].filter(one => !one.hidden).length") == 1
    await page.run("document.querySelector('#hits a').click()")
    await page.until("document.querySelector('#f3').open")


async def test_levels_can_be_hidden(page: Page, tmp_path: Path) -> None:
    await page.open(written(tmp_path, SAMPLE))
    await page.run("document.querySelector('.tile input[value=critical]').click()")
    assert await page.run("[...document.querySelectorAll('.finding')].map(one => one.hidden)") == [
        *([True] * 2),
        *([False] * 3),
    ]


@pytest.mark.parametrize(
    ("prefix", "at", "tip"),
    [
        ("10.101.0.0/24", 23, "10.101.0.23  shop/web-3 on s12"),
        ("10.101.1.0/24", 250, "10.101.1.250  nobody"),
        ("fd00:101::/64", 9, "fd00:101::1:9  shop/search-1 on s12"),
    ],
)
async def test_a_cell_says_whose_address_it_is(page: Page, tmp_path: Path, prefix: str, at: int, tip: str) -> None:
    await page.open(written(tmp_path, SAMPLE))
    shown = f"document.querySelector('.map[aria-label^=\"{prefix}\"]')"
    await page.run(f"{shown}.scrollIntoView({{behavior: 'instant', block: 'center'}})")  # a mouse reaches nothing else
    box = await page.run(f"{shown}.getBoundingClientRect().toJSON()")
    x, y = (box[side] + box["width"] * (cell + 0.5) / 16 for side, cell in (("left", at % 16), ("top", at // 16)))
    await page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    await page.until("!document.querySelector('#tip').hidden")
    assert (await page.run("document.querySelector('#tip').textContent")).startswith(tip)


async def test_without_script_all_is_there_to_read(page: Page, tmp_path: Path) -> None:
    await page.open(written(tmp_path, SAMPLE), script=False)
    answer = await page.call("Page.captureSnapshot")
    assert "10.101.0.23" in answer["data"]
    await page.call("Emulation.setScriptExecutionDisabled", value=False)
    assert not await page.run("document.querySelector('#query').offsetParent"), "what needs the script is not shown"
    assert await page.run("document.querySelector('#f1 .planes').checkVisibility()")


async def test_on_paper_every_finding_is_open(page: Page, tmp_path: Path) -> None:
    await page.open(written(tmp_path, SAMPLE), script=False)
    await page.media("print", "dark")
    heights = "[...document.querySelectorAll('.planes')].map(one => one.getBoundingClientRect().height > 20)"
    await page.call("Emulation.setScriptExecutionDisabled", value=False)
    assert set(await page.run(heights)) == {True}
    paper = await page.screenshot()
    seen = await colours(page, paper)
    assert max(seen, key=lambda colour: seen[colour]) == (255, 255, 255), "also for those who prefer the dark"


async def test_hostile_names_run_nothing(page: Page, tmp_path: Path) -> None:
    await page.open(written(tmp_path, hostile("</pre><script>window.hit=1</script><img src=x onerror=window.hit=1>")))
    await page.run("document.querySelector('#query').value = 'img'")
    await page.run("document.querySelector('#query').dispatchEvent(new Event('input'))")
    await page.until("!document.querySelector('#hits').hidden")
    assert await page.run("document.querySelectorAll('#hits tr').length") == 1
    assert await page.run("window.hit === undefined && !document.querySelector('img')")
    assert page.complaints() == []
