"""The strict resolution limit cuts and does nothing else; its mask keeps two parts of a map apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.fourier.transform import half_volume
from halfmap.maps.masks import spherical_mask
from halfmap.reconstruction.statistics import Backprojection
from halfmap.regularisation.cutoff import Cutoff
from halfmap.regularisation.protocol import HalfSets, MapPair
from halfmap.validation.fsc import FscCurves

BOX, PIXEL = 24, 2.0
LENGTH = BOX * PIXEL
K = np.fft.fftfreq(BOX, 1 / BOX)
RADIUS = np.sqrt(K[:, None, None] ** 2 + K[:, None] ** 2 + K**2)
EVERYWHERE = torch.ones(BOX, BOX, BOX, dtype=torch.float64)


def noise(seed: int) -> Tensor:
    return torch.randn(BOX, BOX, BOX, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def curves(corrected: Tensor | None = None) -> FscCurves:
    ones = torch.ones(BOX // 2 + 1, dtype=torch.float64)
    return FscCurves(ones, ones, ones, ones, ones if corrected is None else corrected, 3)


def wave(frequency: float) -> Tensor:
    """A cosine along x with ``frequency`` cycles per box."""
    x = torch.arange(BOX, dtype=torch.float64) - BOX // 2
    return (2 * math.pi * frequency * x / BOX).cos().expand(BOX, BOX, BOX)


def half_space() -> Tensor:
    """1 for small z, 0 for large z, a cosine edge of six voxels between."""
    ramp = ((torch.arange(BOX, dtype=torch.float64) - 9) / 6).clamp(0, 1)
    return (0.5 + 0.5 * (math.pi * ramp).cos())[:, None, None].expand(BOX, BOX, BOX)


@pytest.mark.parametrize("edge", [0.0, 1.0, 2.0, 3.5])
def test_coefficients_before_the_edge_are_untouched_and_beyond_the_limit_there_are_none(edge):
    pair, limit = MapPair(noise(1), noise(2), curves(), PIXEL), 7.3
    solution = Cutoff(LENGTH / limit, edge=edge).filter_pair(pair, EVERYWHERE)
    for found, given in zip((*solution.maps, solution.joined),
                            (pair.half1, pair.half2, (pair.half1 + pair.half2) / 2), strict=True):
        F, G = (np.fft.fftn(v.numpy()) for v in (found, given))
        kept = RADIUS < limit - edge - 1e-6
        assert np.abs(F - G)[kept].max() < 1e-10 * np.abs(G).max()
        assert np.abs(F)[RADIUS > limit].max() < 1e-10 * np.abs(G).max()
        gain = (F / G).real[~kept]
        order = np.argsort(RADIUS[~kept], kind="stable")
        assert np.diff(gain[order]).max() < 1e-5 and gain.min() > -1e-6  # it falls, and never below zero


@pytest.mark.parametrize(("threshold", "shell"), [(0.143, 6 + (0.4 - 0.143) / 0.4), (0.5, 5 + 0.3 / 0.4)])
def test_the_limit_lies_where_the_corrected_fsc_falls_below_the_threshold(threshold, shell):
    fsc = torch.tensor([1, 1, 1, 1, 1, 0.8, 0.4, 0, 0.3, 0, 0, 0, 0], dtype=torch.float64)
    pair = MapPair(noise(1), noise(2), curves(fsc), PIXEL)
    solution = Cutoff(threshold=threshold, edge=0).filter_pair(pair, EVERYWHERE)
    power = np.abs(np.fft.fftn(solution.maps[0].numpy()))
    left = RADIUS[power > 1e-8 * power.max()]
    assert shell - 0.4 < left.max() <= shell
    assert len(left) == (RADIUS <= shell).sum()


def test_a_curve_that_never_falls_cuts_nothing():
    pair = MapPair(noise(1), noise(2), curves(), PIXEL)
    assert torch.equal(Cutoff().filter_pair(pair, EVERYWHERE).maps[1], pair.half2)


def test_what_crosses_is_the_limit_unless_it_is_given():
    assert "FSC" in Cutoff().crosses and "FSC" not in Cutoff(resolution=8.0).crosses


def test_outside_the_mask_the_map_is_low_passed_and_inside_unchanged():
    v = wave(2) + wave(9)
    inside = half_space()
    method = Cutoff(2 * PIXEL, mask=inside.float(), outside=LENGTH / 5)  # the limit itself is Nyquist
    found = method.filter_pair(MapPair(v, v, curves(), PIXEL), torch.zeros_like(v)).maps[0]
    within, beyond = inside[:, 0, 0] == 1, inside[:, 0, 0] == 0
    plain = Cutoff(2 * PIXEL).filter_pair(MapPair(v, v, curves(), PIXEL), EVERYWHERE).maps[0]
    torch.testing.assert_close(found[within], plain[within], rtol=0, atol=1e-12)
    # away from the edge and its periodic neighbour only the coarse wave is left
    far = slice(17, 21)
    spectrum = np.abs(np.fft.rfft(found[far].numpy(), axis=-1)) / (BOX / 2)
    assert beyond[far].all() and spectrum[..., 9].max() < 1e-9
    assert spectrum[..., 2] == pytest.approx(1.0, abs=0.06)


def test_nothing_of_the_inside_reaches_the_outside():
    inside, v = half_space(), noise(3)
    changed = torch.where(inside == 1, 5 * noise(4), v)
    method = Cutoff(2 * PIXEL * 0.5, mask=inside.float(), outside=LENGTH / 4)
    one, two = (method.filter_pair(MapPair(m, m, curves(), PIXEL), inside).maps[0] for m in (v, changed))
    assert float((one - two)[inside == 1].abs().max()) > 1
    assert float((one - two)[inside < 1].abs().max()) < 1e-6


def test_weight_fades_the_outside_to_the_level_of_the_solvent():
    inside, solvent = half_space(), torch.zeros(BOX, BOX, BOX, dtype=torch.float64)
    solvent[:20] = 1  # the last four planes are solvent; its level is measured there
    v = noise(5) + 3
    v[20:] = 0.25
    pair = MapPair(v, v, curves(), PIXEL)
    none, part, all_of_it = (
        Cutoff(PIXEL, mask=inside.float(), weight=w).filter_pair(pair, solvent).maps[0] for w in (0.0, 0.4, 1.0)
    )
    beyond = inside == 0
    assert none[beyond].numpy() == pytest.approx(0.25, abs=1e-6)
    torch.testing.assert_close(all_of_it, v, rtol=0, atol=1e-6)
    torch.testing.assert_close(part, none + 0.4 * (all_of_it - none), rtol=0, atol=1e-6)


def half_sets(shell: int | None) -> HalfSets:
    """Back-projected noise of even weight, two quarter sets in every half set; joined up to ``shell``."""
    limit, padding = 10, 2
    quarters = []
    for q in range(4):
        V = half_volume(noise(q) * spherical_mask(BOX, 7.0, 3.0), padding, limit)
        sums = torch.stack([2 * V.real, 2 * V.imag, torch.full_like(V.real, 2.0)], dim=-1)
        quarters.append(Backprojection(sums, BOX, padding, limit, folded=True))
    eye = torch.eye(3, dtype=torch.float64)[None]
    built = HalfSets.build((tuple(quarters[:2]), tuple(quarters[2:])), eye, PIXEL, lambda a, b: curves())
    return built if shell is None else built.joined_below(shell)


def test_in_refinement_the_raw_half_maps_are_cut_and_half_sets_joined_at_low_resolution_stay_so():
    method = Cutoff(LENGTH / 8, edge=0)
    apart = half_sets(None)
    solution = method.solve(apart, EVERYWHERE, {})
    expected = method.filter_pair(MapPair(*apart.raw, apart.curves, PIXEL), EVERYWHERE)
    assert torch.equal(solution.maps[0], expected.maps[0]) and torch.equal(solution.joined, expected.joined)
    one, two = (np.fft.fftn(m.numpy()) for m in method.solve(half_sets(6), EVERYWHERE, {}).maps)
    assert np.abs(one - two)[RADIUS < 4].max() < 0.1 * np.abs(one).max()
    assert np.abs(one - two)[(RADIUS > 6.5) & (RADIUS < 8)].max() > 0.3 * np.abs(one).max()
