"""Claims about the grids of orientations and shifts."""

import math

import numpy as np
import pytest
import torch

from halfmap.errors import InputError
from halfmap.geometry.orientation_grid import (
    angular_step,
    direction_grid,
    healpix_directions,
    orientation_grid,
)
from halfmap.geometry.rotations import (
    angular_distance,
    euler_to_matrix,
    matrix_to_euler,
    random_rotations,
    view_directions,
)
from halfmap.geometry.shift_grid import shift_grid
from halfmap.geometry.symmetry import asymmetric_unit, symmetry_group


def nearest(rotations: torch.Tensor, grid: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Angle in degrees from each rotation to the nearest of the grid modulo the group."""
    return torch.stack([angular_distance(grid, one, group).min() for one in rotations])


def pixel_radius(order: int) -> float:
    """Largest angle in radians from a HEALPix pixel centre to its pixel's corners, at the edge of a cap."""
    side = 2**order
    corner, centre, longitude = 1 - (1 - 1 / side) ** 2 / 3, 2 / 3, math.pi / (4 * side)
    return math.acos(
        corner * centre + math.sqrt((1 - corner**2) * (1 - centre**2)) * math.cos(longitude)
    )


@pytest.mark.parametrize("order", [0, 1, 2, 3, 4])
def test_healpix_centres_are_distinct_unit_vectors_on_rings_of_equal_latitude(order):
    side, views = 2**order, healpix_directions(order)
    assert views.shape == (12 * side**2, 3)
    torch.testing.assert_close(views.norm(dim=1), torch.ones(12 * side**2, dtype=torch.float64))
    # Gorski et al. 2005, equations 4 and 8: rings of 4i pixels in the caps, of 4 Nside in the belt.
    cap = [(1 - i * i / (3 * side**2), 4 * i) for i in range(1, side)]
    belt = [(4 / 3 - 2 * i / (3 * side), 4 * side) for i in range(side, 3 * side + 1)]
    heights = [z for z, count in cap + belt + [(-z, n) for z, n in cap] for _ in range(count)]
    np.testing.assert_allclose(np.sort(views[:, 2].numpy()), np.sort(heights), atol=1e-14)


@pytest.mark.parametrize("order", [1, 2])
def test_healpix_pixels_have_equal_areas(order):
    # A direction belongs to the pixel of a finer grid whose centre is nearest; children make up their parent.
    generator = torch.Generator().manual_seed(order)
    views = random_rotations(40000, generator)[:, 2]
    fine = torch.cat([(chunk @ healpix_directions(order + 2).T).argmax(1) for chunk in views.split(5000)])
    counts = torch.bincount(fine >> 4, minlength=12 * 4**order).double()
    expected = len(views) / (12 * 4**order)
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    freedom = 12 * 4**order - 1
    assert abs(chi_squared - freedom) < 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_nested_children_surround_their_parent(order):
    parents, children = healpix_directions(order), healpix_directions(order + 1).view(-1, 4, 3)
    cosine = torch.einsum("dci,di->dc", children, parents)
    assert float(cosine.min()) > math.cos(pixel_radius(order))
    means = torch.nn.functional.normalize(children.mean(1), dim=1)
    assert float((means * parents).sum(1).min()) > math.cos(0.35 * pixel_radius(order))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_healpix_centres_integrate_low_harmonics_exactly_enough(order):
    x, y, z = healpix_directions(order).unbind(1)
    for harmonic in (x, y, z, x * y, y * z, x * z, x * x - y * y):
        assert abs(float(harmonic.mean())) < 1e-14
    assert abs(float((3 * z * z - 1).mean())) < 0.3 / 4**order


@pytest.mark.parametrize("order", [1, 2])
def test_every_rotation_has_a_grid_point_within_a_pixel_and_half_a_step(order):
    group = symmetry_group("C1")
    grid = orientation_grid(order, group, half_turn=False)
    assert len(grid) == 12 * 4**order * 6 * 2**order
    gaps = nearest(random_rotations(400, torch.Generator().manual_seed(0)), grid, group)
    step = angular_step(order)
    assert float(gaps.max()) < math.degrees(pixel_radius(order)) + step / 2
    assert 0.35 * step < float(gaps.mean()) < 0.65 * step


@pytest.mark.parametrize("name", ["C3", "D2", "O", "I"])
def test_the_grid_of_an_asymmetric_unit_covers_all_rotations_modulo_the_group(name):
    group = symmetry_group(name)
    grid = orientation_grid(2, group, half_turn=False)
    full = 12 * 4**2 * 6 * 2**2
    assert full / len(group) * 0.9 <= len(grid) <= full / len(group) * 1.4
    gaps = nearest(random_rotations(150, torch.Generator().manual_seed(1)), grid, group)
    # A direction near the border may find its nearest centre's equivalent instead: the bound stays the same.
    assert float(gaps.max()) < math.degrees(pixel_radius(2)) + angular_step(2) / 2


def test_the_second_half_of_the_grid_is_the_first_turned_in_the_plane_by_180_degrees():
    group = symmetry_group("D3")
    half, full = orientation_grid(1, group), orientation_grid(1, group, half_turn=False)
    assert torch.equal(full[: len(half)], half)
    assert len(full) == 2 * len(half)
    rot, tilt, psi = matrix_to_euler(full).view(2, -1, 3).unbind(-1)
    torch.testing.assert_close(rot[0], rot[1])
    torch.testing.assert_close(tilt[0], tilt[1])
    torch.testing.assert_close((psi[1] - psi[0]) % 360.0, torch.full_like(psi[0], 180.0))


def test_the_in_plane_step_divides_the_circle_and_matches_the_directions():
    for order in range(5):
        assert (360 / angular_step(order)).is_integer()
        spacing = math.degrees(math.sqrt(4 * math.pi / (12 * 4**order)))
        assert angular_step(order) == pytest.approx(spacing, rel=0.03)


@pytest.mark.parametrize("name", ["C1", "D2"])
def test_a_perturbed_grid_covers_as_well_and_has_other_points(name):
    group, turn = symmetry_group(name), random_rotations(1, torch.Generator().manual_seed(2))[0]
    plain = orientation_grid(1, group, half_turn=False)
    turned = orientation_grid(1, group, half_turn=False, perturbation=turn)
    probes = random_rotations(100, torch.Generator().manual_seed(3))
    assert float(nearest(probes, turned, group).max()) < math.degrees(pixel_radius(1)) + angular_step(1) / 2
    assert float(nearest(turned[:50], plain, group).mean()) > 3.0
    rot, tilt = direction_grid(1, group, turn)
    views = view_directions(euler_to_matrix(torch.stack([rot, tilt, torch.zeros_like(rot)], 1)))
    assert bool(asymmetric_unit(views, group).all())
    back = (views @ turn.T)[:, None] - healpix_directions(1)
    assert float(back.norm(dim=-1).amin(1).max()) < 1e-12


@pytest.mark.parametrize(("extent", "step"), [(0.0, 1.0), (3.0, 1.0), (5.0, 2.0), (2.0, 0.5), (0.9, 0.3)])
def test_shifts_fill_a_disc_on_a_square_grid_from_the_centre_outwards(extent, step):
    shifts = shift_grid(extent, step)
    reach = round(extent / step) + 1
    line = [(i, j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)]
    truth = {(i, j) for i, j in line if (i * i + j * j) * step**2 <= extent**2 * (1 + 1e-9)}
    assert {tuple(p) for p in torch.round(shifts / step).int().tolist()} == truth
    assert len(shifts) == len(truth)
    assert shifts[0].tolist() == [0.0, 0.0]
    assert bool((shifts.norm(dim=1).diff() >= -1e-12).all())


@pytest.mark.parametrize(("extent", "step"), [(-1.0, 1.0), (3.0, 0.0)])
def test_a_shift_search_without_meaning_is_refused(extent, step):
    with pytest.raises(InputError, match="shift search"):
        shift_grid(extent, step)
