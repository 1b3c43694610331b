from __future__ import annotations

from pathlib import Path

from tests.bench.kernel import BASELINE, BEGIN, END, ratios

DOCUMENT = Path(__file__).parents[3] / "docs" / "performance.md"


def test_a_way_is_the_median_of_its_rounds_each_over_the_bridges_of_that_round() -> None:
    grid = ratios(
        {
            BASELINE: {"tcp_bw": [100, 200, 300], "tcp_lat": [10, 10, 40]},
            "another way": {"tcp_bw": [100, 500, 400], "tcp_lat": [5, 20, 5]},
        }
    )
    assert grid.rows == (
        (BASELINE, "1.00", "1.00 to 1.00", "1.00", "1.00 to 1.00"),
        ("another way", "1.33", "1.00 to 2.50", "0.50", "0.12 to 2.00"),
    )
    assert "3 rounds" in grid.title


def test_the_document_has_a_place_for_them() -> None:
    assert BEGIN in DOCUMENT.read_text().partition(END)[0]
