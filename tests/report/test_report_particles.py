"""The section of a refinement's page on images that hold no particle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from halfmap.report.pages.refine import write_report
from halfmap.report.pages.snapshot import Snapshot
from halfmap.report.pictures.run_charts import particle_charts

COUNTS = [30, 8, 3, *[0] * 6, 1, 2, *[0] * 7, 40, 1916]  # of 2,000 images, by probability in steps of 0.05


def record(iteration: int, **changed: Any) -> dict[str, Any]:
    return {"iteration": iteration, "search": "global", "particle_share": 0.7 + 0.05 * iteration, "no_particle": 42,
            "particle_probability": COUNTS, **changed}


def words(folder: Path, records: list[dict[str, Any]], **settings: Any) -> str:
    text = write_report(folder, Snapshot(records, settings)).read_text(encoding="utf-8")
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", re.sub(r"<(style|script).*?</\1>", " ", text, flags=re.S)))


def test_the_page_says_how_many_images_match_no_better_than_noise(tmp_path: Path) -> None:
    text = words(tmp_path, [record(1), record(2), record(3)])
    assert "Images without a particle" in text and "42 of 2 000 images match no better than noise" in text
    assert "broken particle" in text and "halfmap select" in text
    assert "Share of images with a particle 0.850" in text
    assert "None of 1 916 images match" in words(tmp_path, [record(1, no_particle=0, particle_probability=[0, 1916])])
    assert "1 of 9 images matches" in words(tmp_path, [record(1, no_particle=1, particle_probability=[1, 8])])


def test_bars_are_as_high_as_the_logarithm_of_their_images() -> None:
    shown = particle_charts([record(1), record(2)])
    assert shown is not None and shown.share is not None
    bars = re.findall(r'x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', shown.probabilities.bars)
    left, top, width, height = ([float(bar[i]) for bar in bars] for i in range(4))
    assert len(bars) == sum(count > 0 for count in COUNTS)
    middles = [round((a + w / 2) / 50 - 0.5) for a, w in zip(left, width, strict=True)]
    assert middles == [i for i, count in enumerate(COUNTS) if count]
    assert all(t + h == pytest.approx(1000, abs=0.2) and t > 0 for t, h in zip(top, height, strict=True))
    # 30 and 3 images are a decade apart, 8 and 2 are log10(4) of one.
    by_count = dict(zip([count for count in COUNTS if count], height, strict=True))
    decade = by_count[30] - by_count[3]
    assert by_count[8] - by_count[2] == pytest.approx(0.60206 * decade, abs=0.3) and by_count[1] > 0


def test_a_share_that_stays_needs_no_chart() -> None:
    steady = particle_charts([record(i, particle_share=0.9981 + 0.001 * (i % 2)) for i in (1, 2, 3)])
    assert steady is not None and steady.share is None


@pytest.mark.parametrize("settings", [
    {"null_hypothesis": False}, {"null_hypothesis": ("no", "", "whether asked")}, {"search": ("fixed", "", "poses")},
])  # fmt: skip
def test_a_run_that_did_not_ask_has_no_such_section(tmp_path: Path, settings: dict[str, Any]) -> None:
    assert "Images without a particle" not in words(tmp_path, [record(1)], **settings)


@pytest.mark.parametrize("changed", [
    {key: value} for key in ("no_particle", "particle_probability") for value in (None, float("nan"), "odd", [])
])  # fmt: skip
def test_records_without_the_figures_leave_the_section_out(tmp_path: Path, changed: dict[str, Any]) -> None:
    assert "Images without a particle" not in words(tmp_path, [record(1), record(2, **changed)])
    assert "Images without a particle" not in words(tmp_path, [{"iteration": 1, "search": "global"}])
