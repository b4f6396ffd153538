"""Sampling of Fourier space by views, and agreement of half maps by direction, against quadrature and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from halfmap.geometry.orientation_grid import healpix_directions
from halfmap.geometry.rotations import random_rotations, rotation_vector_to_matrix
from halfmap.geometry.symmetry import symmetry_group
from halfmap.validation.fsc import corrected_fsc
from halfmap.validation.orientations import (
    conical_fsc,
    corrected_cones,
    fourier_sampling,
    healpix_pixel,
    verdict,
)

C1 = symmetry_group("C1")
TURN = rotation_vector_to_matrix(torch.tensor([[0.3, -1.1, 0.7]]))[0]


def spiral(count: int) -> np.ndarray:
    """Even views: a Fibonacci spiral [b,3]."""
    i = np.arange(count) + 0.5
    z, turn = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    return np.stack([np.sqrt(1 - z * z) * np.cos(turn), np.sqrt(1 - z * z) * np.sin(turn), z], 1)


def within_tilt(count: int, degrees: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z, turn = rng.uniform(math.cos(math.radians(degrees)), 1, count), rng.uniform(0, 2 * np.pi, count)
    return np.stack([np.sqrt(1 - z * z) * np.cos(turn), np.sqrt(1 - z * z) * np.sin(turn), z], 1)


def sampled_by(views: np.ndarray) -> tuple[float, float]:
    """Fraction sampled and SCF* from slices counted at other directions, in float64."""
    directions = spiral(5000)
    slices = np.concatenate([(np.abs(part @ views.T) < 0.01).sum(1) for part in np.array_split(directions, 20)])
    some = slices > 0
    scf = 1 / (np.mean(1 / slices[some]) * slices.mean())
    return some.mean(), scf / (1 + (1 - some.mean()) / some.mean() * slices.mean() * scf / 2)


def test_even_views_sample_fourier_space_evenly() -> None:
    seen = fourier_sampling(torch.from_numpy(spiral(9000)), C1)
    assert seen.scf_star == pytest.approx(1, abs=0.01) and seen.sampled == 1
    assert float(seen.relative.mean()) == pytest.approx(1, abs=0.005)


def test_side_views_reach_the_value_of_the_papers_integral() -> None:
    # A direction at angle t from the axis meets 2 / (pi sin t) times the mean of even views.
    inverse, _ = quad(lambda t: math.sin(t) / 2 * math.pi * math.sin(t) / 2, 0, math.pi)
    turn = np.linspace(0, 2 * np.pi, 9000, endpoint=False)
    side = torch.from_numpy(np.stack([np.cos(turn), np.sin(turn), 0 * turn], 1))
    assert 1 / inverse == pytest.approx(0.8106, abs=1e-4)
    assert fourier_sampling(side, C1).scf_star == pytest.approx(1 / inverse, abs=0.01)
    assert fourier_sampling(side @ TURN, C1).scf_star == pytest.approx(1 / inverse, abs=0.01)


def test_views_about_one_axis_leave_a_cone_empty() -> None:
    views = within_tilt(6000, 30)
    seen = fourier_sampling(torch.from_numpy(views), C1)
    # Directions nearer than 60 degrees to the axis lie in no slice: half of the sphere.
    assert seen.sampled == pytest.approx(math.cos(math.radians(60)), abs=0.025)
    part, star = sampled_by(views)
    assert seen.sampled == pytest.approx(part, abs=0.015) and seen.scf_star == pytest.approx(star, rel=0.06)
    assert seen.scf_star < 0.1


def test_one_view_samples_next_to_nothing() -> None:
    seen = fourier_sampling(torch.tensor([[0.2, 0.3, 1.0]]).expand(5000, 3), C1)
    assert seen.sampled < 0.02 and seen.scf_star < 0.001


@pytest.mark.parametrize("name", ["C4", "D2", "O"])
def test_symmetry_counts_every_equivalent_view(name: str) -> None:
    group, views = symmetry_group(name), within_tilt(400, 25, seed=3)
    everywhere = np.concatenate([views @ operation for operation in group.numpy()])
    part, star = sampled_by(everywhere)
    seen = fourier_sampling(torch.from_numpy(views), group)
    assert seen.copies == len(group) and seen.sampled == pytest.approx(part, abs=0.015)
    # The gaps of O are small, and its unit holds 510 directions: two fewer or more in a gap are 5 %.
    assert seen.scf_star == pytest.approx(star, rel=0.15)


@pytest.mark.parametrize("count", [100, 1000])
def test_the_value_expected_by_chance_is_that_of_random_views(count: int) -> None:
    generator = torch.Generator().manual_seed(5)
    found = [fourier_sampling(random_rotations(count, generator)[:, 2], C1) for _ in range(5)]
    assert np.mean([seen.scf_star for seen in found]) == pytest.approx(found[0].by_chance, rel=0.03)


def test_a_large_set_is_judged_by_ten_thousand_of_its_views() -> None:
    views = np.concatenate([within_tilt(60000, 90), within_tilt(60000, 20)])  # in the order of the file
    seen, few = (fourier_sampling(torch.from_numpy(some), C1) for some in (views, views[::12]))
    assert seen.views == 10_000 and seen.scf_star == pytest.approx(few.scf_star, abs=0.02)


@pytest.mark.parametrize("order", [0, 2, 4])
def test_a_direction_falls_in_the_pixel_around_it(order: int) -> None:
    centres = healpix_directions(order)
    for pixels in (centres, centres.float()):
        assert torch.equal(healpix_pixel(pixels, order), torch.arange(len(centres)))
    views = random_rotations(40_000, torch.Generator().manual_seed(1))[:, 2]
    line = torch.arange(-6.0, 7)  # coefficients of a transform lie on poles, seams and corners
    lattice = torch.cartesian_prod(line, line, line).double()
    lattice = torch.nn.functional.normalize(lattice[lattice.norm(dim=1) > 0], dim=1)
    # Pixels are nearly square: their corners lie less than one spacing from the centre.
    spacing = math.sqrt(4 * math.pi / len(centres))
    for points in (views, lattice, lattice.float().double()):
        pixel, nearest = healpix_pixel(points, order), (points @ centres.T).max(1).values
        away = (points * centres[pixel]).sum(1).clamp(max=1).arccos() - nearest.clamp(max=1).arccos()
        assert float(away.max()) < 0.5 * spacing
    counts = torch.bincount(healpix_pixel(views, order), minlength=len(centres)).double()
    assert float(((counts - counts.mean()).square() / counts.mean()).mean()) < 1.35  # equal areas


def halves(noisy: np.ndarray | None, box: int = 64, seed: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Half maps with a falling signal and white noise, ten times stronger in the `noisy` part of Fourier space."""
    rng = np.random.default_rng(seed)
    k = np.fft.fftfreq(box, 1 / box)
    radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    signal = np.fft.fftn(rng.normal(size=(box,) * 3)) * 4 * np.exp(-((radius / (0.28 * box)) ** 2))
    maps = []
    for _ in range(2):
        noise = np.fft.fftn(rng.normal(size=(box,) * 3))
        if noisy is not None:
            noise = noise * np.where(noisy, 10.0, 1.0)
        maps.append(torch.from_numpy(np.fft.fftshift(np.fft.ifftn(signal + noise).real).astype(np.float32)))
    return maps[0], maps[1]


def cone_about(axis: np.ndarray, degrees: float, box: int = 64) -> np.ndarray:
    """Whether coefficients [z,y,x] lie in the double cone about an axis (x, y, z)."""
    k = np.fft.fftfreq(box, 1 / box)
    z, y, x = np.meshgrid(k, k, k, indexing="ij")
    along = np.abs(x * axis[0] + y * axis[1] + z * axis[2])
    return along >= math.cos(math.radians(degrees)) * np.maximum(np.sqrt(x * x + y * y + z * z), 1e-9)


def test_curves_in_cones_are_those_of_the_coefficients_in_the_cone() -> None:
    box = 64
    half1, half2 = halves(cone_about(np.array([0.0, 0.6, 0.8]), 35))
    first, second = (np.fft.fftn(np.fft.ifftshift(half.double().numpy())) for half in (half1, half2))
    k = np.fft.fftfreq(box, 1 / box)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int)
    found = conical_fsc(half1, half2)
    assert found.curves.shape == (len(found.directions), box // 2 + 1) and bool((found.curves[:, 0] == 1).all())
    for i in (0, 400, 900, 1500):
        inside = cone_about(found.directions[i].numpy(), 20)
        for s in (10, 16, 24, 31):
            some = inside & (shell == s)
            a, b = first[some], second[some]
            wanted = (a * b.conj()).real.sum() / math.sqrt((abs(a) ** 2).sum() * (abs(b) ** 2).sum())
            # Whole pixels of 3.7 degrees make the cone's edge ragged: a tenth of its coefficients may differ.
            assert float(found.curves[i, s]) == pytest.approx(wanted, abs=0.12)


def test_isotropic_maps_have_a_ratio_near_one() -> None:
    found = conical_fsc(*halves(None))
    assert 0.9 < found.cfar <= 1 and not verdict(None, found)
    assert float((found.crossing - found.crossing.median()).abs().median()) < 1.5


@pytest.mark.parametrize("axis", [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.48, -0.6, 0.64)])
def test_a_noisy_cone_is_found_wherever_it_points(axis: tuple[float, float, float]) -> None:
    found = conical_fsc(*halves(cone_about(np.array(axis), 35)))
    assert 0.1 < found.cfar < 0.45
    worst = found.directions[int(found.area.argmin())]
    assert abs(float(worst @ torch.tensor(axis, dtype=torch.float64))) > math.cos(math.radians(22))
    (said,) = verdict(None, found)
    assert said.startswith("anisotropic map: cFAR is 0.")


def test_the_direction_of_noise_does_not_change_the_ratio() -> None:
    ratios = [conical_fsc(*halves(cone_about(np.array(axis), 35))).cfar for axis in ((0, 0, 1), (0.48, -0.6, 0.64))]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.25)  # what chance leaves of so small a box


def test_what_a_mask_adds_is_taken_away_in_every_cone() -> None:
    box, rng = 48, np.random.default_rng(4)
    k = np.arange(box) - box // 2
    square = k[:, None, None] ** 2 + k[:, None] ** 2 + k**2
    mask = torch.from_numpy((square < 9**2).astype(np.float32))
    maps = [torch.from_numpy((rng.normal(size=(box,) * 3) + 1.5).astype(np.float32)) for _ in range(2)]
    curves = corrected_fsc(maps[0], maps[1], mask, torch.Generator().manual_seed(0), draws=4)
    masked = conical_fsc(maps[0] * mask, maps[1] * mask)
    found = corrected_cones(masked, curves.randomised, curves.from_shell)
    beyond = slice(curves.from_shell + 3, None)
    torch.testing.assert_close(found.whole[beyond], curves.corrected[beyond], atol=1e-6, rtol=0)
    assert abs(float(found.curves[:, beyond].mean())) < 0.5 * abs(float(masked.curves[:, beyond].mean())) + 0.02


def test_the_verdict_names_the_cause() -> None:
    top, even = (fourier_sampling(torch.from_numpy(views), C1) for views in (within_tilt(9000, 30), spiral(9000)))
    few = fourier_sampling(torch.from_numpy(within_tilt(40, 90)), C1)
    few_top = fourier_sampling(torch.from_numpy(within_tilt(500, 30)), C1)
    noisy = conical_fsc(*halves(cone_about(np.array([0.0, 0.0, 1.0]), 35)))
    assert verdict(even, None) == []
    assert "preferred orientation: SCF*" in verdict(top, None)[0] and "% of Fourier space" in verdict(top, None)[0]
    assert "too few views" in verdict(few, None)[0] and "preferred orientation" in verdict(few_top, None)[0]
    assert [said.split(":")[0] for said in verdict(top, noisy)] == ["preferred orientation", "anisotropic map"]
    assert "junk, misaligned" in verdict(even, noisy)[0]
