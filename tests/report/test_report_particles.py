"""The section of a refinement's page on images that hold no particle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from halfmap.imaging.ctf import Defocus
from halfmap.imaging.optics import OpticsGroup
from halfmap.maps.mrc import write_stack
from halfmap.particles.table import ParticleTable
from halfmap.report.pages.methods import methods_text
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


def seen(folder: Path, probability: list[float]) -> dict[str, Any]:
    """Fields of a snapshot with a map and a table of images of noise in one stack."""
    rng, count = np.random.default_rng(1), len(probability)
    write_stack(folder / "s&s.mrcs", rng.normal(size=(count, 32, 32)).astype(np.float32), 4.0)
    zeros, ones = torch.zeros(count, dtype=torch.float64), torch.ones(count, dtype=torch.float64)
    table = ParticleTable(
        {"halfmapParticleProbability": np.array(probability), "rlnLogLikeliContribution": np.arange(count)},
        (OpticsGroup("one", 300, 2.7, 0.1, 4.0, 32),), np.zeros(count, np.int64), (folder / "s&s.mrcs",),
        np.zeros(count, np.int64), np.arange(count), Defocus(1e4 * ones, 1e4 * ones, zeros, zeros, zeros, ones),
        torch.eye(3, dtype=torch.float64).expand(count, 3, 3), torch.zeros(count, 2, dtype=torch.float64), None,
        np.zeros(count, np.int64), folder / "particles.star",
    )  # fmt: skip
    volume = rng.normal(size=(32, 32, 32)).astype(np.float32)
    last = record(1, pixel_size=4.0, no_particle=sum(p < 0.5 for p in probability))
    return {"records": [last], "settings": {"diameter": ("90", "A", "")}, "map": volume,
            "mask": np.ones_like(volume), "particles": table}


def test_images_without_a_particle_are_shown_beside_what_the_map_says_and_named(tmp_path: Path) -> None:
    text = write_report(tmp_path, Snapshot(**seen(tmp_path, [0.9, 0.0001, 0.25, 1.0]))).read_text(encoding="utf-8")
    shown = re.findall(r"<figcaption><b>(.*?)</b> <span[^>]*>(.*?)</span>", text)
    assert shown == [("&lt; 0.001", "2@s&amp;s.mrcs"), ("0.250", "3@s&amp;s.mrcs"), ("&gt; 0.999", "4@s&amp;s.mrcs"),
                     ("0.900", "1@s&amp;s.mrcs")]
    assert len(re.findall(r'alt="(?:image|projection of the map for) \d@s&amp;s.mrcs"', text)) == 8


def test_where_every_image_holds_a_particle_none_is_shown(tmp_path: Path) -> None:
    text = write_report(tmp_path, Snapshot(**seen(tmp_path, [0.9, 0.8]))).read_text(encoding="utf-8")
    assert "None of" in text and "Most probable" not in text and "No images shown" not in text


def test_a_page_without_stacks_or_table_says_why_it_shows_no_images(tmp_path: Path) -> None:
    fields = seen(tmp_path, [0.9, 0.2])
    (tmp_path / "s&s.mrcs").unlink()
    for changed, why in (({}, "s&amp;s.mrcs"), ({"particles": None}, "particles.star is missing"),
                         ({"map": None}, "map, mask"), ({"settings": {}}, "diameter")):
        text = write_report(tmp_path, Snapshot(**(fields | changed))).read_text(encoding="utf-8")
        (said,) = re.findall(r"No images shown: (.*?)</p>", text)
        assert why in said and said.endswith(".") and "Least probable" not in text


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


def test_the_paragraph_for_a_paper_says_that_images_were_weighed_only_where_they_were() -> None:
    said = methods_text(Snapshot([record(1), record(3, particles=2000)], {"null_hypothesis": ("yes", "", "")}))
    assert "as a weight and without a threshold" in said and "estimated (0.85)" in said
    assert "42 images of 2\u2009000 had a probability below one half." in said
    assert "No images of" in methods_text(Snapshot([record(1, no_particle=0)]))
    assert "1 image of" in methods_text(Snapshot([record(1, no_particle=1)]))
    for off in ({"null_hypothesis": ("no", "", "")}, {"null_hypothesis": False}, {"search": "fixed"}):
        assert "probability" not in methods_text(Snapshot([record(1)], off))
    assert "probability" not in methods_text(Snapshot([record(1, no_particle=None)]))


@pytest.mark.parametrize("changed", [
    {key: value} for key in ("no_particle", "particle_probability") for value in (None, float("nan"), "odd", [])
])  # fmt: skip
def test_records_without_the_figures_leave_the_section_out(tmp_path: Path, changed: dict[str, Any]) -> None:
    assert "Images without a particle" not in words(tmp_path, [record(1), record(2, **changed)])
    assert "Images without a particle" not in words(tmp_path, [{"iteration": 1, "search": "global"}])
