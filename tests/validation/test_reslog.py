"""Resolution against particles: a known B factor is recovered, and subsets are what they are said to be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from halfmap.validation.fsc import fsc, resolution
from halfmap.validation.reslog import drawn, extrapolated, fit_line, halvings, mean_inverse_square, needed

BOX, PIXEL, B = 64, 1.5, 250.0
COUNTS = (100, 200, 400, 800, 1600, 3200)


def half_maps(particles: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two half maps: white signal blurred by B, and independent white noise whose power falls with the particles."""
    k = np.fft.fftfreq(BOX, PIXEL)
    square = k[:, None, None] ** 2 + k[:, None] ** 2 + k**2
    signal = np.random.default_rng(7).standard_normal((BOX,) * 3)
    signal = np.fft.ifftn(np.fft.fftn(signal) * np.exp(-B / 4 * square)).real
    rng = np.random.default_rng(seed)
    noise = math.sqrt(2.0 / particles)  # in amplitude, over that of the signal at the origin
    first, second = (torch.from_numpy(signal + noise * rng.standard_normal(signal.shape)) for _ in range(2))
    return first, second


def test_half_maps_of_a_known_b_factor_give_it_back() -> None:
    curve = {}
    for n in COUNTS:
        pairs = [half_maps(n, 1000 * n + draw) for draw in range(3)]
        curve[n] = [resolution(fsc(*pair), BOX, PIXEL) for pair in pairs]
    line = fit_line(curve)
    assert line is not None and line.bfactor is not None and line.bfactor_error is not None
    assert line.bfactor == pytest.approx(B, rel=0.08)
    assert abs(line.bfactor - B) < 4 * line.bfactor_error
    assert not line.bent
    # where the line crosses: signal over noise of a half map is FSC / (1 - FSC)
    expected = 2 / B * math.log(1000 / 2 * (1 - 0.143) / 0.143)
    assert line.height(1000) == pytest.approx(expected, rel=0.04)


def test_the_line_and_its_error_are_those_of_scipy() -> None:
    rng = np.random.default_rng(3)
    curve = {n: (0.004 * math.log(n) + 0.01 + 0.002 * rng.standard_normal(4)) ** -0.5 for n in COUNTS}
    line = fit_line({n: draws.tolist() for n, draws in curve.items()})
    found = stats.linregress(np.log(COUNTS), [np.mean(curve[n] ** -2) for n in COUNTS])
    assert line is not None and line.bfactor is not None and line.bfactor_error is not None
    assert line.slope == pytest.approx(found.slope) and line.error == pytest.approx(found.stderr)
    assert line.intercept == pytest.approx(found.intercept)
    assert line.bfactor == pytest.approx(2 / found.slope)
    # the error of 2 / slope, from the difference between slopes a little to either side
    assert line.bfactor_error == pytest.approx((2 / (found.slope - 1e-6) - 2 / (found.slope + 1e-6)) / 2e-6
                                               * found.stderr, rel=1e-3)


def test_points_on_a_parabola_are_called_bent_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        noise = 0.001 * rng.standard_normal(len(COUNTS))
        x = np.log(COUNTS)
        straight = fit_line({n: [(0.01 + 0.004 * u + e) ** -0.5] for n, u, e in zip(COUNTS, x, noise, strict=True)})
        bent = fit_line({n: [(0.004 * u + 0.01 - 0.0025 * (u - 6) ** 2 + e / 3) ** -0.5]
                         for n, u, e in zip(COUNTS, x, noise, strict=True)})
        assert straight is not None and bent is not None
        wrong += straight.bent
        assert bent.bent and bent.bend is not None and bent.bend < 0
    assert wrong < 0.15 * 200  # three standard errors with three degrees of freedom: 6 % by chance


def test_no_b_factor_is_read_off_a_line_that_does_not_rise_or_has_two_points() -> None:
    assert fit_line({100: [8.0], 200: [7.0]}) is None
    flat = fit_line({100: [8.0], 200: [7.9], 400: [8.1], 800: [8.0]})
    assert flat is not None and flat.bfactor is None and extrapolated(flat, 800, 8.0) is None
    falling = fit_line({100: [7.0], 200: [7.5], 400: [8.0], 800: [8.6]})
    assert falling is not None and falling.bfactor is None
    kept = fit_line({50: [30.0], 100: [8.0], 200: [7.5], 400: [7.1]}, fewest=100)
    assert kept is not None and (kept.fewest, kept.most, kept.points) == (100, 400, 3)


def test_the_extrapolation_is_where_the_line_reaches_the_finer_resolution() -> None:
    line = fit_line({n: [(0.02 + 0.004 * math.log(n / 100) + wobble) ** -0.5]
                     for n, wobble in zip(COUNTS, (2e-4, -2e-4, 0, 1e-4, -2e-4, 1e-4), strict=True)})
    assert line is not None
    here = line.height(3200) ** -0.5
    more = extrapolated(line, 3200, here, gain=1.0)
    assert more is not None and more.resolution == pytest.approx(here - 1)
    assert line.height(more.particles) ** -0.5 == pytest.approx(here - 1)
    assert more.low < more.times < more.high and more.times == pytest.approx(more.particles / 3200)
    assert extrapolated(line, 3200, 0.8, gain=1.0) is None


def test_particles_needed_are_interpolated_and_never_extrapolated() -> None:
    curve = {100: [10.0], 1000: [5.0, 5.0]}
    between = needed(mean_inverse_square([math.sqrt(1 / 0.025)]), curve)
    assert between.bound == "" and between.particles == pytest.approx(100 * 10**0.5)
    assert (needed(0.05, curve).particles, needed(0.05, curve).bound) == (1000, ">")
    assert (needed(0.005, curve).particles, needed(0.005, curve).bound) == (100, "<")
    assert needed(0.01, curve).bound == ""


@given(length=st.integers(8, 500), levels=st.integers(0, 6), power=st.integers(0, 3))
def test_subsets_halve_share_no_particle_and_lie_in_those_above(length: int, levels: int, power: int) -> None:
    draws = 2 ** min(power, levels)
    for level in range(levels + 1):
        parts = [set(range(length)[drawn(length, level, d, draws)]) for d in range(min(draws, 2**level))]
        assert sum(map(len, parts)) == len(set().union(*parts))
        assert all(abs(len(part) - length / 2**level) <= 1 for part in parts)
        if level:
            fewer = min(draws, 2 ** (level - 1))
            for d, part in enumerate(parts):
                above = d if fewer == len(parts) else d // 2
                assert part <= set(range(length)[drawn(length, level - 1, above, draws)])
        if 2**level <= draws:
            assert set().union(*parts) == set(range(length))


def test_particles_are_halved_as_long_as_enough_are_left() -> None:
    assert [halvings(n, 100) for n in (99, 100, 199, 200, 800, 2000)] == [0, 0, 0, 1, 3, 4]
