"""The local cut-off in the report: colours, slices, histogram, and the paper behind the regulariser."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from halfmap.cli.program import main
from halfmap.maps.mrc import write_map
from halfmap.regularisation.protocol import HalfSets, Solution
from halfmap.regularisation.sparse_smooth import SparseSmooth
from halfmap.regularisation.wiener import Uniform
from halfmap.report.pages.refine import write_report
from halfmap.report.pages.run_folder import report_from_run
from halfmap.report.pages.snapshot import Snapshot
from halfmap.report.pictures.charts import SCALE
from halfmap.report.pictures.colours import coloured, css_colour, scale_colours
from halfmap.report.pictures.local_cutoff import local_cutoff
from halfmap.report.pictures.png import png
from halfmap.report.pictures.slices import Window, crop, crop_linear
from halfmap.settings.regularisers import RegulariserOptions

BOX, PIXEL = 32, 2.5
Z, Y, X = np.meshgrid(*[np.arange(BOX) - BOX // 2] * 3, indexing="ij")
BALL = np.clip(9.7 - np.sqrt(X**2 + Y**2 + Z**2), 0, 1).astype(np.float32)
CANDIDATES = 1 / np.linspace(1 / 20, 1 / 6, 15)


def stepped() -> np.ndarray:
    """One of 15 cut-offs at each place [z,y,x], finer along x."""
    return CANDIDATES[np.clip(X + 7, 0, 14)].astype(np.float32)


def smooth() -> np.ndarray:
    """A cut-off that takes any value between 6 and 20 A [z,y,x]."""
    return (13 + 7 * np.sin(X / 4 + 0.3 * Y) * np.cos(Z / 5)).astype(np.float32)


def pixels_of(uri: str) -> np.ndarray:
    """A PNG with filter 2 decoded by the format's own rules: [y,x,3] or [y,x]."""
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"), validate=True)
    width, height, _, kind = struct.unpack(">IIBB", data[16:26])
    start = data.index(b"IDAT") + 4
    size = struct.unpack(">I", data[start - 8 : start - 4])[0]
    rows = np.frombuffer(zlib.decompress(data[start : start + size]), np.uint8).reshape(height, -1)
    assert set(rows[:, 0]) == {2}
    values = np.cumsum(rows[:, 1:].astype(int), axis=0) % 256
    return values.reshape(height, width, 3) if kind == 2 else values


def snapshot(theta: np.ndarray | None, **changed: Any) -> Snapshot:
    records = [{"iteration": 1, "box": BOX, "pixel_size": PIXEL, "resolution_A": 7.7, "resolution_05_A": 9.9}]
    fields: dict[str, Any] = {"records": records, "map": BALL + 0.1 * np.sin(X), "mask": BALL, "theta": theta}
    return Snapshot(**(fields | changed))


def cielab(rgb: np.ndarray) -> np.ndarray:
    """sRGB to CIELAB under D65 (IEC 61966-2-1, CIE 15), not by way of OKLab."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array([[0.4124564, 0.2126729, 0.0193339], [0.3575761, 0.7151522, 0.1191920],
                             [0.1804375, 0.0721750, 0.9503041]]) / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def test_equal_steps_of_the_value_look_like_equal_steps_of_colour() -> None:
    lab = cielab(scale_colours())
    assert (np.diff(lab[:, 0]) > 0).all()  # so it also reads in grey
    assert 20 < lab[0, 0] < 35 and 80 < lab[-1, 0] < 92  # neither end vanishes on a dark or a light page
    steps = np.linalg.norm(np.diff(lab[::15], axis=0), axis=1)
    assert steps.max() < 2.3 * steps.min()  # CIELAB itself is not even to better than that
    assert (np.diff(lab[::15, 0]) > 1.5).all()


def test_a_colour_picture_decodes_to_the_pixels_it_was_made_from() -> None:
    made = np.random.default_rng(2).integers(0, 256, (7, 11, 3)).astype(np.uint8)
    uri = "data:image/png;base64," + base64.b64encode(png(made)).decode()
    assert np.array_equal(pixels_of(uri), made)


@pytest.mark.parametrize("window", [Window(0, BOX), Window(6, 20), Window(5, 21)])
def test_linear_and_fourier_resampling_put_the_same_place_at_the_same_pixel(window: Window) -> None:
    wave = np.sin(2 * np.pi * X[0] / BOX) + np.cos(2 * np.pi * Y[0] / BOX)
    linear, fourier = crop_linear(wave, window), crop(wave, window)
    assert linear.shape == fourier.shape
    # A straight line misses a wave of length 32 by 0.5 % at most; the seam of the box is not crossed.
    np.testing.assert_allclose(linear[:240, :240], fourier[:240, :240], atol=0.012)


def test_slices_have_the_colour_of_their_theta_inside_the_mask_and_fade_outside() -> None:
    shown = local_cutoff(stepped(), BALL, PIXEL)
    assert shown is not None
    picture = pixels_of(shown.slices[0].uri).astype(float)
    side = picture.shape[0]
    width = 2 * (int(np.ceil(1.18 * 9)) + 2)  # voxels shown around a mask that reaches 9 from the centre
    column = [round((x + width / 2) * side / width) for x in range(-7, 8)]
    for x, at in zip(range(-7, 8), column, strict=True):
        place = (1 / CANDIDATES[x + 7] - 1 / 20) / (1 / 6 - 1 / 20)
        np.testing.assert_allclose(picture[side // 2, at], 255 * coloured(np.array(place)), atol=6)
    edge, middle = picture[8, column[14]], picture[side // 2, column[14]]
    np.testing.assert_allclose(edge, 0.22 * middle, atol=3)
    # The second slice is x across and z down: theta runs along x there too; the third shows y across, theta constant.
    assert np.array_equal(pixels_of(shown.slices[1].uri)[side // 2], picture[side // 2].astype(int))
    assert np.ptp(pixels_of(shown.slices[2].uri)[side // 2, 60:-60].astype(int), axis=0).max() <= 2


def test_the_histogram_has_a_bar_for_each_candidate_with_its_share_and_colour() -> None:
    theta = stepped()
    shown = local_cutoff(theta, BALL, PIXEL)
    assert shown is not None
    inside = theta[BALL > 0.5]
    expected = [100 * (np.abs(inside - c) < 1e-3).mean() for c in CANDIDATES]
    chart = shown.histogram.chart
    np.testing.assert_allclose(chart.series[0].values, expected, rtol=1e-6)
    assert [float(title.split()[0]) for title in chart.titles] == pytest.approx(CANDIDATES, abs=0.006)
    bars = re.findall(r'<rect fill="(#\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"',
                      str(shown.histogram.bars))
    assert len(bars) == 15
    span = 1 / chart.x.hi - 1 / chart.x.lo
    for (colour, x, y, width, height), theta_j, share in zip(bars, CANDIDATES, expected, strict=True):
        place = (1 / theta_j - 1 / 20) / (1 / 6 - 1 / 20)
        drawn = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        np.testing.assert_allclose(drawn, 255 * coloured(np.array(place)), atol=3)
        middle = (float(x) + float(width) / 2) / SCALE
        assert middle == pytest.approx((1 / theta_j - 1 / chart.x.lo) / span, abs=2e-4)
        assert float(height) / SCALE == pytest.approx(share / chart.y.hi, abs=2e-4)
        assert float(y) + float(height) == pytest.approx(SCALE, abs=0.2)
    assert json.loads(str(shown.histogram.data))["s"][0]["u"] == "%"


def test_the_histogram_of_many_values_counts_every_voxel_once() -> None:
    theta = smooth()
    shown = local_cutoff(theta, BALL, PIXEL)
    assert shown is not None
    shares = np.array(shown.histogram.chart.series[0].values)
    assert shares.sum() == pytest.approx(100)
    frequency = np.sort(1 / theta[BALL > 0.5].astype(float))
    edges = np.linspace(frequency[0], frequency[-1], len(shares) + 1)[1:-1]
    below = np.searchsorted(frequency, edges) / len(frequency)
    np.testing.assert_allclose(np.cumsum(shares)[:-1], 100 * below, atol=0.2)


def test_the_percentiles_are_those_of_the_voxels_inside_the_mask() -> None:
    shown = local_cutoff(smooth(), BALL, PIXEL)
    assert shown is not None
    expected = np.percentile(smooth()[BALL > 0.5], (5, 50, 95))
    np.testing.assert_allclose((shown.finest, shown.median, shown.coarsest), expected, rtol=5e-3)


def test_ticks_of_the_colour_bar_stand_where_their_colour_is() -> None:
    shown = local_cutoff(stepped(), BALL, PIXEL)
    assert shown is not None and len(shown.ticks) > 3
    for tick in shown.ticks:
        assert tick.percent == pytest.approx(100 * (1 / float(tick.label) - 1 / 20) / (1 / 6 - 1 / 20), abs=0.01)
    stops = re.findall(r"#\w{6}", shown.gradient)
    assert (stops[0], stops[8], stops[16]) == (css_colour(0), css_colour(0.5), css_colour(1))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -3.0])
def test_voxels_without_a_cut_off_are_left_out(value: float) -> None:
    theta = smooth()
    theta[BOX // 2 :, :, :] = value
    shown = local_cutoff(theta, BALL, PIXEL)
    assert shown is not None
    half = theta[: BOX // 2][BALL[: BOX // 2] > 0.5]
    assert shown.median == pytest.approx(np.median(half), rel=5e-3)
    assert pixels_of(shown.slices[1].uri)[200:].max() == 0  # z runs down


@pytest.mark.parametrize("theta", [np.full((BOX,) * 3, 8.0), np.where(X < 0, 9.0, 8.0), np.where(X < 0, 1e4, 2.0)])
def test_one_or_two_cut_offs_are_enough(theta: np.ndarray, tmp_path: Path) -> None:
    shown = local_cutoff(theta, BALL, PIXEL)
    assert shown is not None and sum(v or 0 for v in shown.histogram.chart.series[0].values) == pytest.approx(100)
    assert write_report(tmp_path, snapshot(theta)).is_file()


def test_the_section_is_there_if_and_only_if_there_is_a_theta(tmp_path: Path) -> None:
    without = write_report(tmp_path, snapshot(None)).read_text(encoding="utf-8")
    assert "<h2>Local cut-off</h2>" not in without
    page = write_report(tmp_path, snapshot(smooth())).read_text(encoding="utf-8")
    assert page.index("<h2>Map</h2>") < page.index("<h2>Local cut-off</h2>") < page.index("<h2>Progress</h2>")
    median = np.median(smooth()[BALL > 0.5])
    assert f"cut off at {median:.1f} Å or finer" in page
    assert page.count('src="data:image/png') - without.count('src="data:image/png') == 6


@pytest.mark.parametrize("changed", [
    {"theta": smooth()[:-1]}, {"theta": np.full((BOX,) * 3, np.nan)}, {"mask": None}, {"mask": 0 * BALL},
    {"mask": BALL[1:, 1:, 1:]}, {"map": None, "mask": None},
])
def test_what_cannot_be_shown_is_said(changed: dict[str, Any], tmp_path: Path) -> None:
    shown = dataclasses.replace(snapshot(smooth()), **changed)
    assert "Cannot be shown" in write_report(tmp_path, shown).read_text(encoding="utf-8")


def test_theta_comes_from_the_run_folder_too(tmp_path: Path) -> None:
    (tmp_path / "iterations.jsonl").write_text(json.dumps(snapshot(None).records[0]) + "\n")
    for name, volume in (("map", BALL), ("mask", BALL), ("theta", smooth())):
        write_map(tmp_path / f"{name}.mrc", torch.from_numpy(volume), PIXEL)
    assert "<h2>Local cut-off</h2>" in report_from_run(tmp_path).read_text(encoding="utf-8")


class WithTheta(Uniform):
    """The uniform filter, with 11.1 A said to be the cut-off everywhere."""

    def solve(self, halves: HalfSets, mask: torch.Tensor, memory: dict[str, Any]) -> Solution:
        return dataclasses.replace(super().solve(halves, mask, memory), arrays={"theta": torch.full_like(mask, 11.1)})


def test_a_refinement_hands_its_theta_to_the_report(refine, dataset, monkeypatch) -> None:
    monkeypatch.setattr("halfmap.refinement.problem.regulariser_named", lambda name, **options: WithTheta())
    done = refine(dataset, "--regulariser", "uniform", "--max-iterations", 1)
    assert done.status == 0, done.error
    page = (done.out / "report.html").read_text(encoding="utf-8")
    assert "cut off at 11.1 Å or finer" in page
    assert "with uniform regularisation (Scheres 2012)" in page
    assert (done.map("theta.mrc") == np.float32(11.1)).all()


# The paper behind the regulariser


def references() -> dict[str, list[tuple[str, str]]]:
    """Method -> short form and DOI of each paper, as the setting that chooses one says."""
    (choice,) = (field for field in dataclasses.fields(RegulariserOptions) if field.name == "regulariser")
    parts = (part.split(": ", 1) for part in choice.metadata["reference"].split("; "))
    return {name: re.findall(r"(\w+ \d{4}), doi:(\S+?)(?:,|$)", said) for name, said in parts}


@pytest.mark.parametrize("method", sorted(references()))
def test_the_paper_of_the_regulariser_is_cited_in_the_paragraph_and_below(method: str, tmp_path: Path) -> None:
    (tmp_path / "iterations.jsonl").write_text(json.dumps(snapshot(None).records[0]) + "\n")
    (tmp_path / "settings.toml").write_text(f'# method\nregulariser = "{method}"\n')
    assert main(["report", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    papers = references()[method]
    words = "; ".join(rf"{short.split()[0]}( et al\.)? {short.split()[1]}" for short, _ in papers)
    assert papers and re.search(rf"with {method} regularisation \({words}\)", page)
    for short, doi in papers:
        assert page.count(f'href="https://doi.org/{doi}"') == 1
        listed = [item for item in page.split("<li>") if doi in item]
        assert "not used in this run" not in listed[0] and short.split()[0] in listed[0]


def test_non_uniform_refinement_is_punjani_et_al(tmp_path: Path) -> None:
    shown = snapshot(None, settings={"regulariser": "nonuniform"})
    page = write_report(tmp_path, shown).read_text(encoding="utf-8")
    assert "with nonuniform regularisation (Punjani et al. 2020)" in page


def test_a_paper_that_is_not_known_in_full_is_cited_as_the_setting_says(tmp_path: Path) -> None:
    citing = "plain: Nobody 1999, doi:10.1/x(1)2; other: Somebody 2031, doi:10.1000/other"
    for name, said, doi in (("plain", "Nobody 1999", "10.1/x(1)2"), ("other", "Somebody 2031", "10.1000/other")):
        page = write_report(tmp_path, snapshot(None, settings={"regulariser": name}, citing=citing)).read_text()
        assert f"with {name} regularisation ({said})" in page and f'href="https://doi.org/{doi}"' in page
    page = write_report(tmp_path, snapshot(None, settings={"regulariser": "third"}, citing=citing)).read_text()
    assert "with third regularisation, in" in page


@pytest.mark.parametrize(("crosses", "said"), [
    (SparseSmooth(parameters="published-code").crosses, "the half-map FSC is no test here"),
    ("nothing (as soft-package 1.5 declares)", "images of noise test that"),
])  # fmt: skip
def test_what_leaks_and_what_a_package_declares_is_not_called_the_gold_standard(
    crosses: str, said: str, tmp_path: Path
) -> None:
    shown = snapshot(None)
    for expected, words in ((True, crosses), (False, Uniform().crosses)):
        records = [shown.records[0] | {"crosses": words}]
        page = write_report(tmp_path, dataclasses.replace(shown, records=records)).read_text(encoding="utf-8")
        assert (said in page) == expected and ("the usual gold standard" in page) != expected
