"""Claims about Fourier shell correlation, its correction for masks, its null band and the verdict."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.maps.masks import spherical_mask
from halfmap.maps.mrc import write_map
from halfmap.validation.fsc import (
    FscCurves,
    corrected_fsc,
    crossing_shell,
    fsc,
    mask_verdict,
    randomise_phases,
    resolution,
    write_fsc_xml,
)
from halfmap.validation.halfmaps import null_band
from halfmap.workflows.fsc_command import run

BOX, PIXEL = 40, 2.0


def _noise(box: int = BOX, seed: int = 0) -> Tensor:
    return torch.randn((box,) * 3, generator=torch.Generator().manual_seed(seed))


def _shells(box: int) -> np.ndarray:
    """Shell of every coefficient of the full complex grid, from numpy alone."""
    k = np.fft.fftfreq(box, 1 / box)
    return np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int)


def _coloured(box: int, amplitude: np.ndarray, seed: int) -> np.ndarray:
    """Gaussian noise whose coefficients have the standard deviation amplitude[s] (unscaled transform)."""
    white = np.fft.fftn(np.random.default_rng(seed).standard_normal((box,) * 3)) / box**1.5
    return np.fft.ifftn(white * amplitude[np.minimum(_shells(box), len(amplitude) - 1)]).real


def _molecule() -> Tensor:
    """Sixty Gaussian atoms within a radius of about 10 voxels."""
    generator = torch.Generator().manual_seed(1)
    x = torch.arange(BOX, dtype=torch.float32) - BOX // 2
    v = torch.zeros(BOX, BOX, BOX)
    for z0, y0, x0 in 4 * torch.randn(60, 3, generator=generator):
        v += (-((x[:, None, None] - z0) ** 2 + (x[:, None] - y0) ** 2 + (x - x0) ** 2)).exp()
    return v


@pytest.mark.parametrize("box", [17, 18])
def test_fsc_equals_the_sum_over_the_full_complex_grid(box: int) -> None:
    a, b = _noise(box, 1), _noise(box, 1) + 2 * _noise(box, 2)
    A, B = np.fft.fftn(a.double().numpy()), np.fft.fftn(b.double().numpy())
    shell = _shells(box)
    expected = [1.0]
    for s in range(1, box // 2 + 1):
        cross, pa, pb = (f[shell == s].sum().real for f in (A * B.conj(), abs(A) ** 2, abs(B) ** 2))
        expected.append(cross / math.sqrt(pa * pb))
    np.testing.assert_allclose(fsc(a, b).numpy(), expected, atol=2e-6)
    np.testing.assert_allclose(fsc(a.double(), b.double()).numpy(), expected, atol=1e-12)


def test_fsc_of_signal_plus_noise_is_ssnr_over_one_plus_ssnr() -> None:
    s = np.arange(BOX // 2 + 1)
    signal = np.exp(-0.1 * s)
    truth = _coloured(BOX, signal, 3)
    noise = 0.3
    halves = [torch.from_numpy(truth + _coloured(BOX, np.full(len(s), noise), seed)) for seed in (4, 5)]
    ssnr = (signal / noise) ** 2
    members = np.bincount(_shells(BOX).ravel())[: len(s)]
    deviation = (fsc(*halves).numpy() - ssnr / (1 + ssnr)) * np.sqrt(members)
    assert np.abs(deviation[1:]).max() < 4
    assert 0.1 < np.sqrt(np.mean(deviation[1:] ** 2)) < 1.2


def test_fsc_does_not_depend_on_the_scale_of_either_map() -> None:
    a, b = _noise(seed=1), _noise(seed=1) + _noise(seed=2)
    torch.testing.assert_close(fsc(1e-6 * a, 1e5 * b), fsc(a, b), atol=1e-6, rtol=0)
    torch.testing.assert_close(fsc(a, -b)[1:], -fsc(a, b)[1:], atol=1e-12, rtol=0)


def test_an_empty_map_has_no_correlation_rather_than_nan() -> None:
    assert fsc(_noise(), torch.zeros(BOX, BOX, BOX))[1:].abs().max() == 0


def test_the_resolution_is_interpolated_at_the_first_crossing() -> None:
    curve = torch.tensor([1.0, 0.9, 0.7, 0.3, 0.1, 0.6, 0.0])
    assert resolution(curve, 12, 1.5, 0.5) == pytest.approx(12 * 1.5 / 2.5)
    assert crossing_shell(curve, 0.143) == pytest.approx(3 + (0.3 - 0.143) / 0.2)
    assert resolution(torch.ones(7), 12, 1.5, 0.143) == 3.0
    assert resolution(torch.zeros(7), 12, 1.5, 0.143) == 18.0


@pytest.mark.parametrize("box", [17, 18])
def test_randomised_phases_keep_amplitudes_and_correlate_only_below_the_start(box: int) -> None:
    v = _noise(box).double()
    found = randomise_phases(v, 4, torch.Generator().manual_seed(1))
    A, B = np.fft.fftn(v.numpy()), np.fft.fftn(found.numpy())
    np.testing.assert_allclose(abs(B), abs(A), rtol=1e-9, atol=1e-9)
    curve = fsc(v, found)
    assert float(curve[:4].min()) > 1 - 1e-12
    assert float((curve[4:] / null_band(box)[4:]).abs().max()) < 4
    assert torch.equal(found, randomise_phases(v, 4, torch.Generator().manual_seed(1)))


def test_the_null_band_of_whole_boxes_agrees_with_simulation() -> None:
    curves = torch.stack([fsc(_noise(24, 2 * i), _noise(24, 2 * i + 1)) for i in range(120)])
    ratio = curves[:, 1:].std(dim=0) / null_band(24)[1:]
    assert float((ratio - 1).abs().max()) < 0.25 and float(ratio.mean()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("radius", [8, 13])
def test_the_null_band_inside_a_mask_agrees_with_simulation(radius: int) -> None:
    mask = spherical_mask(BOX, radius, 4)
    curves = torch.stack([fsc(_noise(BOX, 2 * i) * mask, _noise(BOX, 2 * i + 1) * mask) for i in range(100)])
    ratio = curves[:, 4:].std(dim=0) / null_band(BOX, mask)[4:]
    assert float((ratio - 1).abs().max()) < 0.3 and float(ratio.mean()) == pytest.approx(1, abs=0.06)


def test_pure_noise_in_a_tight_mask_has_no_corrected_correlation() -> None:
    mask = spherical_mask(BOX, 6, 2)
    generator = torch.Generator().manual_seed(0)
    runs = [corrected_fsc(_noise(seed=i), _noise(seed=99 - i), mask, generator) for i in range(12)]
    tail = slice(5, None)
    ratio = torch.stack([curves.corrected for curves in runs])[:, tail] / null_band(BOX, mask)[tail]
    # The difference of two independent estimates has sqrt(2) of the band; neighbouring shells are tied.
    assert max(curves.from_shell for curves in runs) <= 3
    assert float(ratio.square().mean().sqrt()) == pytest.approx(math.sqrt(2), rel=0.2)
    assert abs(float(ratio.mean())) < 0.3


def test_correction_removes_what_a_sharp_mask_makes() -> None:
    # Strong low-resolution signal leaks through the sharp edge of a mask into shells of nothing but noise.
    low = torch.from_numpy(_coloured(BOX, np.array([0.0, 3e3, 3e3, 3e3, 0.0]), 9)).float()
    half1, half2 = (low + 0.3 * _noise(seed=seed) for seed in (1, 2))
    mask = spherical_mask(BOX, 10, 0)
    curves = corrected_fsc(half1, half2, mask, torch.Generator().manual_seed(0))
    tail = slice(6, 13)
    assert float(curves.unmasked[tail].abs().max()) < 0.05
    assert float(curves.masked[tail].min()) > 0.3
    assert abs(float(curves.corrected[tail].mean())) < 0.08
    assert any("too tight or too sharp" in found.text for found in mask_verdict(curves, BOX, PIXEL))


def test_correction_by_a_generous_soft_mask_recovers_the_correlation_inside() -> None:
    v, inside = _molecule(), spherical_mask(BOX, 12, 5)
    half1, half2 = (v + 0.15 * _noise(seed=seed) for seed in (1, 2))
    curves = corrected_fsc(half1, half2, inside, torch.Generator().manual_seed(0))
    assert torch.equal(curves.corrected[: curves.from_shell + 2], curves.masked[: curves.from_shell + 2])
    box = (curves.unmasked, curves.corrected)
    assert resolution(box[1], BOX, PIXEL) < resolution(box[0], BOX, PIXEL)
    assert mask_verdict(curves, BOX, PIXEL) == []


def test_curves_are_the_same_for_the_same_seed() -> None:
    half1, half2 = (_molecule() + 0.3 * _noise(seed=seed) for seed in (1, 2))
    mask = spherical_mask(BOX, 12, 4)
    first, second = (
        corrected_fsc(half1, half2, mask, torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert torch.equal(first.corrected, second.corrected)


def test_the_verdict_names_shared_noise_and_dips() -> None:
    s = torch.arange(33, dtype=torch.float64)
    good = (1 + ((s - 16) / 1.5).exp()).reciprocal()
    zero = torch.zeros_like(s)

    def verdict(curve: Tensor) -> str:
        return " ".join(found.text for found in mask_verdict(FscCurves(curve, curve, curve, zero, curve, 12), 64, 2.0))

    assert verdict(good) == ""
    assert "levels off at 0.12" in verdict(good.clamp(min=0.12))
    assert "never falls to zero" in verdict(good.clamp(min=0.3))
    dip = good * (1 - 0.95 * (-((s - 8) ** 2) / 4).exp())
    assert "dips" in verdict(dip) and "rises again" in verdict(dip)


def test_the_xml_is_what_emdb_reads(tmp_path: Path) -> None:
    curve = torch.tensor([1.0, 0.8, -0.02], dtype=torch.float64)
    write_fsc_xml(tmp_path / "fsc.xml", curve, box=4, pixel_size=2.5, title='A "title" & more')
    root = ElementTree.parse(tmp_path / "fsc.xml").getroot()
    assert root.tag == "fsc" and root.get("title") == 'A "title" & more'
    assert root.get("xaxis") == "Resolution (A-1)" and root.get("yaxis") == "Correlation Coefficient"
    points = [(float(c.findtext("x", "")), float(c.findtext("y", ""))) for c in root.iter("coordinate")]
    assert points == [(0.0, 1.0), (0.1, 0.8), (0.2, -0.02)]
    assert [p.name for p in tmp_path.iterdir()] == ["fsc.xml"]


def test_the_command_reports_and_writes_what_the_functions_compute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half1, half2 = (_molecule() + 0.2 * _noise(seed=seed) for seed in (1, 2))
    paths = [tmp_path / f"half{i}.mrc" for i in (1, 2)]
    for path, half in zip(paths, (half1, half2), strict=True):
        write_map(path, half, PIXEL)
    found = run(paths[0], paths[1], None, tmp_path / "out" / "fsc", 60.0)
    expected = resolution(fsc(half1, half2), BOX, PIXEL)
    assert found["resolution_A"]["unmasked"]["0.143"] == pytest.approx(expected)
    assert f"{expected:.2f}" in capsys.readouterr().out
    out = tmp_path / "out" / "fsc"
    assert sorted(p.name for p in out.iterdir()) == ["fsc.csv", "fsc.json", "fsc.xml", "mask.mrc"]
    assert json.loads((out / "fsc.json").read_text()) == found
    rows = list(csv.DictReader((out / "fsc.csv").open()))
    assert [float(row["unmasked"]) for row in rows] == pytest.approx(fsc(half1, half2).tolist(), abs=1e-6)
    again = run(paths[0], paths[1], out / "mask.mrc")
    assert again["fsc"]["corrected"] == pytest.approx(found["fsc"]["corrected"], abs=1e-5)


def test_maps_that_do_not_belong_together_are_named(tmp_path: Path) -> None:
    write_map(tmp_path / "a.mrc", _noise(16), 2.0)
    write_map(tmp_path / "b.mrc", _noise(16).flip(0), 2.0)
    write_map(tmp_path / "small.mrc", _noise(14), 2.0)
    write_map(tmp_path / "other.mrc", _noise(16), 2.1)
    with pytest.raises(InputError, match=r"small\.mrc: box 14"):
        run(tmp_path / "a.mrc", tmp_path / "small.mrc")
    with pytest.raises(InputError, match=r"other\.mrc: pixel size 2\.1"):
        run(tmp_path / "a.mrc", tmp_path / "other.mrc")
    with pytest.raises(InputError, match=r"a\.mrc: values from"):
        run(tmp_path / "a.mrc", tmp_path / "b.mrc", tmp_path / "a.mrc")
    with pytest.raises(InputError, match="--diameter 90"):
        run(tmp_path / "a.mrc", tmp_path / "b.mrc", None, None, 90.0)


def test_more_random_phases_steady_the_corrected_curve_and_leave_its_mean():
    first, second = (torch.randn(24, 24, 24, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    mask = spherical_mask(24, 6, 2)
    curves = {draws: torch.stack([
        corrected_fsc(first, second, mask, torch.Generator().manual_seed(100 + s), draws=draws).randomised[4:]
        for s in range(12)]) for draws in (1, 8)}  # fmt: skip
    spread = {draws: float(c.std(dim=0).mean()) for draws, c in curves.items()}
    assert spread[8] == pytest.approx(spread[1] / 8**0.5, rel=0.35)
