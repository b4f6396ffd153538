"""SIDESPLITTER against its formulas in plain numpy, and its purpose: where nothing rises above it, noise is removed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.maps.masks import spherical_mask
from halfmap.regularisation import sidesplitter
from halfmap.regularisation.half_maps import spectra
from halfmap.regularisation.protocol import MapPair, Solution
from halfmap.regularisation.sidesplitter import Sidesplitter
from halfmap.validation.fsc import crossing_shell, fsc

BOX, PIXEL = 24, 3.0
K = np.fft.fftfreq(BOX, 1 / BOX)
RADIUS = np.sqrt(K[:, None, None] ** 2 + K[:, None] ** 2 + K**2)
MASK = spherical_mask(BOX, 7.0, 3.0).double()


@pytest.fixture
def pair(blobs, make_pair) -> MapPair:
    """A molecule well inside the mask, half maps with noise of about a tenth of its peak."""
    return make_pair(blobs(BOX, spread=0.08, width=1.2).map(), 0.15)


@pytest.fixture
def make_pair():
    from halfmap.validation.fsc import corrected_fsc

    def make(molecule: Tensor, level: float) -> MapPair:
        generator = torch.Generator().manual_seed(0)
        half1, half2 = (molecule + level * torch.randn(molecule.shape, generator=generator, dtype=torch.float64)
                        for _ in range(2))
        return MapPair(half1, half2, corrected_fsc(half1, half2, MASK, generator), PIXEL)

    return make


def low_pass(cutoff: float) -> np.ndarray:
    return np.sqrt(1 / (1 + (RADIUS / cutoff) ** 16))


def apply(v: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return np.fft.ifftn(np.fft.fftn(v) * gain).real


def brute_force(pair: MapPair, least_step: float):
    """Cut-offs, band factors, thresholds and the two filtered maps with their levels, by the formulas."""
    a, b, inside = pair.half1.numpy(), pair.half2.numpy(), MASK.numpy() > 0.99
    limit = crossing_shell(pair.curves.masked, 0.1) or 0.475 * BOX
    cutoffs, factors, gain = [], [], np.zeros_like(RADIUS)
    low, step = 0.0, 0.025 * BOX
    while True:
        band = low_pass(low + step) - (low_pass(low) if low else 0)
        x, y = apply(a, band)[inside], apply(b, band)[inside]
        power, noise = np.mean((x + y) ** 2), np.mean((x - y) ** 2)
        low += step
        cutoffs.append(low)
        factors.append(step / np.sqrt(power))
        gain = gain + factors[-1] * band
        if low >= limit or abs(1 - noise / power) <= 0.05:
            break
        step = max(abs(1 - noise / power) * low / 64, least_step)
    thresholds, maps, levels = [], [np.zeros_like(a), np.zeros_like(a)], [np.zeros_like(a), np.zeros_like(a)]
    for cutoff in cutoffs[::-1]:
        x, y = (apply(v, gain * low_pass(cutoff)) for v in (a, b))
        d2 = ((x - y)[inside] / 2) ** 2
        thresholds.append(max(d2.max(), 2 * np.log(inside.sum()) * d2.mean()))
        for h, (v, original) in enumerate(((x, a), (y, b))):
            new = (levels[h] == 0) & (v**2 > thresholds[-1])
            levels[h][new] = cutoff
            maps[h][new] = apply(original, low_pass(cutoff))[new]
    return cutoffs, factors, thresholds[::-1], maps, levels


def solve(pair: MapPair, mode: str = "density") -> Solution:
    return Sidesplitter(mode).filter_pair(pair, MASK)


def test_levels_bands_thresholds_and_maps_are_those_of_the_formulas(pair):
    cutoffs, factors, thresholds, maps, levels = brute_force(pair, sidesplitter.LEAST_STEP)
    spectrum = spectra(torch.stack((pair.half1, pair.half2)))
    inside = MASK > 0.99
    limit = crossing_shell(pair.curves.masked, 0.1)
    found = sidesplitter.ladder(spectrum, inside, limit or 0.475 * BOX)
    assert [level.cutoff for level in found] == pytest.approx(cutoffs, rel=1e-9)
    assert [level.factor for level in found] == pytest.approx(factors, rel=1e-5)  # gains are float32
    assert len(cutoffs) >= 6
    gain = sum(f * (low_pass(c) - (low_pass(p) if p else 0))
               for c, p, f in zip(cutoffs, [0, *cutoffs], factors, strict=False))
    for cutoff, wanted in zip(cutoffs, thresholds, strict=True):
        low = [apply(v.numpy(), gain * low_pass(cutoff))[inside.numpy()] for v in (pair.half1, pair.half2)]
        assert sidesplitter.threshold(torch.from_numpy(np.stack(low))) == pytest.approx(wanted, rel=1e-9)
    solution = solve(pair)
    for h in range(2):
        assert np.abs(solution.maps[h].numpy() - maps[h]).max() < 1e-4 * np.abs(maps[h]).max()
    assert len(np.unique(levels[0])) >= 4 and (levels[0] != levels[1]).any()
    mean = np.mean([np.where(level > 0, level, cutoffs[0]) for level in levels], axis=0)
    assert solution.arrays["theta"].numpy() == pytest.approx(BOX * PIXEL / mean, rel=1e-6)
    torch.testing.assert_close(solution.joined, (solution.maps[0] + solution.maps[1]) / 2)


def test_steps_of_a_shell_in_place_of_far_narrower_ones_change_little(pair, monkeypatch):
    spectrum, inside = spectra(torch.stack((pair.half1, pair.half2))), MASK > 0.99
    length = torch.linspace(1, 6, 40, dtype=torch.float64)
    gains, maps = [], []
    for step in (1.0, 0.0):
        monkeypatch.setattr(sidesplitter, "LEAST_STEP", step)
        levels = sidesplitter.ladder(spectrum, inside, 7.0)
        gains.append(sidesplitter.bands_times(length, levels, [level.factor for level in levels]).numpy())
        maps.append(solve(pair).maps[0])
    assert len(levels) > 60
    ratio = gains[0] / gains[1]
    assert ratio.std() < 0.15 * ratio.mean() and ratio.mean() == pytest.approx(1, abs=0.15)
    assert float((maps[0] - maps[1]).norm()) < 0.15 * float(maps[1].norm())


@pytest.mark.parametrize("mode", ["density", "spectrum"])
def test_noise_outside_the_molecule_falls_and_the_molecule_stays(mode, blobs, make_pair):
    molecule = blobs(BOX, spread=0.08, width=1.2).map()
    pair = make_pair(molecule, 0.15)
    solution = solve(pair, mode)
    solvent = (molecule < 1e-3 * molecule.max()) & (MASK > 0)
    core = molecule > 0.3 * molecule.max()
    for found, given in zip(solution.maps, (pair.half1, pair.half2), strict=True):
        assert float(found[solvent].norm()) < 0.3 * float(given[solvent].norm())
        assert float((found - molecule)[MASK > 0].norm()) < 0.7 * float((given - molecule)[MASK > 0].norm())
        assert float((found * molecule)[core].sum() / molecule[core].square().sum()) > 0.85
    theta = solution.arrays["theta"]
    assert float(theta[core].median()) < 0.5 * float(theta[solvent].median())


def test_the_spectrum_mode_restores_the_power_of_the_masked_half_map_shrunk_by_the_fsc(pair):
    solution = solve(pair, "spectrum")
    shell = np.rint(RADIUS).astype(int)
    levels = sidesplitter.ladder(spectra(torch.stack((pair.half1, pair.half2))), MASK > 0.99,
                                 crossing_shell(pair.curves.masked, 0.1) or 0.475 * BOX)
    last = int(levels[-1].cutoff)
    f = fsc(pair.half1 * MASK, pair.half2 * MASK).numpy()
    for found, given in zip(solution.maps, (pair.half1, pair.half2), strict=True):
        have, was = (np.bincount(shell.ravel(), (np.abs(np.fft.fftn(v.numpy())) ** 2).ravel())
                     for v in (found, given * MASK))
        expected = was[: last + 1] * 2 * f[: last + 1] / (1 + f[: last + 1])
        assert have[: last + 1] == pytest.approx(expected, rel=1e-5)
        assert have[last + 1 :].max() < 1e-9 * have.max()


def test_from_noise_alone_next_to_nothing_is_kept(make_pair):
    pair = make_pair(torch.zeros(BOX, BOX, BOX, dtype=torch.float64), 1.0)
    for found, given in zip(solve(pair).maps, (pair.half1, pair.half2), strict=True):
        assert float(found.norm()) < 0.1 * float(given.norm())


@pytest.mark.parametrize("mode", ["density", "spectrum"])
def test_maps_of_nothing_stay_nothing(mode, pair):
    empty = solve(MapPair(0 * pair.half1, 0 * pair.half2, pair.curves, PIXEL), mode)
    assert float(empty.joined.abs().max()) == 0 and bool(torch.isfinite(empty.arrays["theta"]).all())


@pytest.mark.parametrize("mode", ["density", "spectrum"])
def test_maps_of_another_grey_scale_get_the_same_filter_and_half_maps_change_places(mode, pair):
    once = solve(pair, mode)
    scaled = solve(MapPair(300 * pair.half2, 300 * pair.half1, pair.curves, PIXEL), mode)
    for one, two in ((0, 1), (1, 0)):
        torch.testing.assert_close(300 * once.maps[one], scaled.maps[two], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(300 * once.joined, scaled.joined, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(once.arrays["theta"], scaled.arrays["theta"])


def test_either_half_map_chooses_its_own_levels_under_shared_thresholds(pair):
    """Density in a corner of one half map, where nothing is measured, is kept in that map and not in the other."""
    changed = pair.half2.clone()
    changed[1:5, 1:5, 1:5] += 2
    solution, other = solve(pair), solve(MapPair(pair.half1, changed, pair.curves, PIXEL))
    corners = [maps[2:4, 2:4, 2:4] for maps in (*solution.maps, *other.maps)]
    assert max(float(corner.abs().max()) for corner in corners[:3]) < 0.2
    assert float(corners[3].min()) > 1
    # noise in the mask of one half map raises the thresholds of both
    generator = torch.Generator().manual_seed(9)
    rougher = pair.half2 + 0.6 * (MASK > 0.9) * torch.randn(pair.half2.shape, generator=generator)
    inside, mean = MASK > 0.99, []
    for half2 in (pair.half2, rougher):
        spectrum = spectra(torch.stack((pair.half1, half2)))
        levels = sidesplitter.ladder(spectrum, inside, 7.0)
        mean.append(float(sidesplitter.selected(spectrum, levels, inside, True).cutoff[0][inside].mean()))
    assert mean[1] < 0.8 * mean[0]
    assert "threshold" in Sidesplitter().crosses
