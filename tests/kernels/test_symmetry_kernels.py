"""Sums over a point group: against brute force on the grid, scipy's interpolation off it, and plain torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from halfmap import kernels
from halfmap.geometry.symmetry import symmetry_group
from halfmap.kernels import reference_symmetry
from halfmap.kernels.symmetry import group_parts, kept_axes, lookups_free, sharpening

M, RADIUS = 14, 12.0
SINGLE, DOUBLE = (torch.float32, 2e-6), (torch.float64, 1e-13)
# How often sums are interpolated, for as many copies as the group has elements less one.
INTERPOLATED = {
    "C2": 0, "C3": 2, "C4": 0, "C5": 4, "C6": 2, "C7": 6, "C8": 1, "C12": 2, "D2": 0, "D3": 2, "D4": 0, "D5": 4,
    "D7": 6, "T": 11, "O": 0, "I1": 4, "I2": 4, "I3": 29, "I4": 29,
}  # fmt: skip


def folded_sums(dtype: torch.dtype, filled: float = 1.0, seed: int = 0) -> Tensor:
    """Noise with weights above zero, at a part of the grid points; Hermitian on the plane x = 0."""
    random = torch.Generator().manual_seed(seed)
    sums = torch.rand(2 * M + 1, 2 * M + 1, M + 1, 3, generator=random, dtype=torch.float64)
    sums[..., :2] -= 0.5
    sums *= (torch.rand(sums.shape[:3], generator=random) < filled)[..., None]
    plane = sums[:, :, 0].clone()
    sums[:, :, 0] = plane + plane.flip(0, 1) * plane.new_tensor([1.0, -1.0, 1.0])
    return sums.to(dtype)


def distance() -> np.ndarray:
    """|q| [z, y, x] on the half volume."""
    q = np.arange(-M, M + 1)
    return np.sqrt(q[:, None, None] ** 2 + q[:, None] ** 2 + q[M:] ** 2)


def whole(sums: Tensor) -> np.ndarray:
    """Both halves [z, y, x, 3], float64."""
    half = sums.double().numpy()
    return np.concatenate([(half[::-1, ::-1, :0:-1]) * [1, -1, 1], half], axis=2)


@pytest.mark.parametrize("name", INTERPOLATED)
def test_a_group_is_its_part_on_the_grid_and_one_element_of_every_other_coset(name):
    group, parts = symmetry_group(name), group_parts(symmetry_group(name))
    assert parts.interpolated == INTERPOLATED[name]
    chosen = torch.cat([torch.eye(3, dtype=torch.float64)[None], parts.about_z, parts.free])
    products = (parts.on_grid.double() @ chosen[:, None]).flatten(0, 1)
    gaps = (products[:, None] - group).abs().amax((2, 3))
    assert len(products) == len(group)
    assert float(gaps.amin(1).max()) < 1e-12 and float(gaps.amin(0).max()) < 1e-12
    assert bool((parts.about_z[:, 2, 2].abs() > 1 - 1e-9).all()) and bool((parts.free[:, 2, 2].abs() < 1 - 1e-9).all())


@pytest.mark.parametrize("name", ["C1", *(name for name, count in INTERPOLATED.items() if not count)])
def test_where_a_group_maps_the_grid_onto_itself_voxels_are_added_to_voxels_to_the_bit(name):
    sums = folded_sums(torch.float32)
    cube, q = whole(sums), np.indices((2 * M + 1, 2 * M + 1, M + 1)) - np.array([M, M, 0])[:, None, None, None]
    total = np.zeros((*sums.shape[:3], 3))
    for g in symmetry_group(name).numpy():
        x, y, z = np.rint(np.tensordot(g, q[::-1], 1)).astype(int)
        total += cube[z + M, y + M, x + M]
    expected = torch.from_numpy(total * (distance() <= RADIUS)[..., None]).float()
    assert torch.equal(kernels.symmetrise_(sums.clone(), symmetry_group(name), RADIUS, 2), expected)
    parts = group_parts(symmetry_group(name))
    assert torch.equal(reference_symmetry.symmetrise(sums, parts, RADIUS, 2), expected)


@pytest.mark.parametrize("padding", [1, 2])
@pytest.mark.parametrize("filled", [1.0, 0.05])
@pytest.mark.parametrize("symmetry", ["C3", "C8", "D5", "T", "I1", "I3"])
@pytest.mark.parametrize(("dtype", "tolerance"), [SINGLE, DOUBLE])
def test_the_compiled_sum_over_a_point_group_is_the_plain_one(symmetry, dtype, tolerance, filled, padding):
    sums, operators = folded_sums(dtype, filled), symmetry_group(symmetry)
    found = kernels.symmetrise_(sums.clone(), operators, RADIUS, padding)
    plain = reference_symmetry.symmetrise(sums.clone(), group_parts(operators), RADIUS, padding)
    assert float((found - plain).norm() / plain.norm()) < tolerance
    assert not bool(found[torch.from_numpy(distance()) > RADIUS].any())


@pytest.mark.parametrize("symmetry", ["C3", "D3", "I1"])
def test_a_sum_has_the_symmetry_of_the_grid_to_the_bit_whatever_the_number_of_threads(symmetry):
    sums, operators, threads = folded_sums(torch.float32), symmetry_group(symmetry), kernels.thread_count()
    found = kernels.symmetrise_(sums.clone(), operators, RADIUS, 2)
    cube, q = whole(found), np.indices((2 * M + 1,) * 3)[::-1] - M
    assert np.array_equal(cube, cube[::-1, ::-1, ::-1] * [1, -1, 1])
    for g in group_parts(operators).on_grid.numpy():
        x, y, z = np.tensordot(g, q, 1) + M
        assert np.array_equal(cube[z, y, x], cube)
    try:
        kernels.set_threads(1 if threads > 1 else 3)
        assert torch.equal(kernels.symmetrise_(sums.clone(), operators, RADIUS, 2), found)
    finally:
        kernels.set_threads(threads)


@pytest.mark.parametrize("padding", [2, 3])
@pytest.mark.parametrize("symmetry", ["C5", "T", "I1"])
def test_sums_of_equal_weights_are_scipys_linear_interpolation_of_filtered_values(symmetry, padding):
    sums = folded_sums(torch.float64)
    sums[..., 2] = 1.0
    operators = symmetry_group(symmetry)
    parts = group_parts(operators)
    found = kernels.symmetrise_(sums.clone(), operators, RADIUS, padding).numpy()
    taps = sharpening(padding).numpy()
    kernel = np.concatenate([taps[::-1], [1 - 2 * taps.sum()], taps])
    on_grid = whole(kernels.symmetrise_(sums.clone(), parts.on_grid.double(), 2.0 * M, padding))
    q = np.stack(np.meshgrid(*3 * (np.arange(-M, M + 1),), indexing="ij")[::-1])[..., M:]
    inside = distance() <= M - 7  # neither corners nor three filters of three points reach beyond M
    expected = on_grid[:, :, M:, :2].copy()
    lookups = lookups_free(parts.free, padding)
    for part in range(2):
        in_plane = on_grid[..., part]
        for axis in (1, 2):
            in_plane = np.apply_along_axis(np.convolve, axis, in_plane, kernel, "same")
        in_space = np.apply_along_axis(np.convolve, 0, in_plane, kernel, "same")
        free = zip(lookups.turns.numpy(), lookups.offsets.numpy(), lookups.shares.tolist(), strict=True)
        for values, (g, d, share) in [(in_plane, (g, np.zeros(3), 1.0)) for g in parts.about_z.numpy()] + [
            (in_space, lookup) for lookup in free
        ]:
            at = (np.tensordot(g, q[:, inside], 1) + d[:, None] + M)[::-1]
            expected[inside, part] += share * map_coordinates(values, at, order=1, prefilter=False)
    assert np.abs(found[..., :2] - expected)[inside].max() < 1e-10


@pytest.mark.parametrize(("padding", "reach"), [(1, 0.4), (2, 0.5), (3, 0.5)])
def test_sharpening_and_linear_interpolation_leave_what_the_box_holds_as_it_is(padding, reach):
    """Interpolated anywhere between points, the wave of a point x comes back with its amplitude, on average: linear
    interpolation multiplies it by sinc^2, whose place between points is uniform."""
    points, offsets = np.arange(60), (np.arange(2000) + 0.5) / 2000
    taps = sharpening(padding).numpy()
    kernel = np.concatenate([taps[::-1], [1 - 2 * taps.sum()], taps])
    for x in np.linspace(0, reach, 9):  # box lengths from the centre
        wave = np.exp(2j * np.pi * x / padding * points)
        values = np.convolve(wave, kernel, "same")
        looked = (1 - offsets) * values[30] + offsets * values[31]
        passed = np.mean(looked * np.exp(-2j * np.pi * x / padding * (30 + offsets)))
        assert abs(passed - 1) < (2e-3 if padding == 1 else 1e-3)


def test_an_element_that_keeps_an_axis_blurs_along_it_what_was_sharpened():
    turns = group_parts(symmetry_group("T")).free
    lookups = lookups_free(turns, 2)
    kept = lookups.offsets.abs().amax(1) > 0
    assert int(kept.sum()) == 2 * int(kept_axes(turns).any(1).sum()) > 0
    assert float(lookups.offsets.sum()) == 0 and float(lookups.shares.sum()) == len(turns)
    taps, d = sharpening(2), float(lookups.offsets.max())
    for x in np.linspace(0, 0.2, 9):  # padded boxes from the centre
        k = torch.arange(1, len(taps) + 1)
        sharpened = 1 + float((taps * 2 * ((2 * torch.pi * k * x).cos() - 1)).sum())
        assert sharpened * (1 - d + d * np.cos(2 * np.pi * x)) == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("symmetry", ["C3", "T", "I1", "I3"])
def test_a_ratio_is_not_drawn_beyond_its_neighbours_by_weights_next_to_nothing(symmetry):
    """Numerators are the weight times numbers of size 1, and weights differ by ten orders of magnitude."""
    random = torch.Generator().manual_seed(1)
    sums = folded_sums(torch.float64)
    weight = 10.0 ** (-10 * torch.rand(sums.shape[:3], generator=random, dtype=torch.float64))
    phase = 2 * torch.pi * torch.rand(sums.shape[:3], generator=random, dtype=torch.float64)
    sums = torch.stack([weight * phase.cos(), weight * phase.sin(), weight], dim=-1)
    sums[:, :, 0] += sums[:, :, 0].flip(0, 1) * torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    found = kernels.symmetrise_(sums, symmetry_group(symmetry), RADIUS, 1)
    inside = torch.from_numpy(distance() <= RADIUS)
    ratio = found[..., :2].norm(dim=-1)[inside] / found[..., 2][inside]
    # No exchange is more than twice the weight that is there, along three axes.
    most = float((1 + 8 * sharpening(1).abs().sum()) ** 3)
    assert float(found[..., 2][inside].min()) > 0 and float(ratio.max()) < most
    assert float(ratio.mean()) < 1.2


def test_sums_must_reach_beyond_the_radius_to_be_interpolated_there():
    sums = folded_sums(torch.float32)
    assert kernels.symmetrise_(sums.clone(), symmetry_group("C2"), M, 2).shape == sums.shape
    with pytest.raises(ValueError, match="cannot be interpolated up to 13"):
        kernels.symmetrise_(sums, symmetry_group("C3"), 13.0, 2)
