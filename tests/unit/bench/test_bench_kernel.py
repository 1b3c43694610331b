from __future__ import annotations

from pathlib import Path

from tests.bench.kernel import BASELINE, BEGIN, END, ratios

DOCUMENT = Path(__file__).parents[3] / "docs" / "performance.md"


def test_a_ways_median_is_of_single_rounds_and_its_best_of_the_best_rounds() -> None:
    grid = ratios(
        {
            BASELINE: {"tcp_bw": [100, 200, 300], "tcp_lat": [10, 10, 40]},
            "another way": {"tcp_bw": [100, 500, 400], "tcp_lat": [5, 20, 5]},
        },
        1.25,
    )
    assert grid.rows == ((BASELINE, "1.00", "1.00", "1.00", "1.00"), ("another way", "1.33", "1.67", "0.50", "0.50"))
    assert "3 rounds, load 1.2" in grid.title


def test_the_document_has_a_place_for_them() -> None:
    assert BEGIN in DOCUMENT.read_text().partition(END)[0]
