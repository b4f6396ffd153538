"""Claims about point groups and their asymmetric units."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from halfmap.errors import InputError
from halfmap.geometry.rotations import random_rotations, view_directions
from halfmap.geometry.symmetry import asymmetric_unit, canonical_name, normaliser, symmetry_group

ORDERS = {
    "C1": 1, "C2": 2, "C3": 3, "C4": 4, "C7": 7, "C24": 24, "D1": 2, "D2": 4, "D3": 6, "D7": 14, "D12": 24,
    "T": 12, "O": 24, "I1": 60, "I2": 60, "I3": 60, "I4": 60,
}  # fmt: skip

GOLDEN = (1 + 5**0.5) / 2


def contains(group: torch.Tensor, elements: torch.Tensor) -> bool:
    """Whether every one of elements[...,3,3] is in the group."""
    gaps = (elements.reshape(-1, 1, 3, 3) - group).abs().amax((-1, -2)).amin(1)
    return float(gaps.max()) < 1e-12


def turn(fold: int, axis: tuple[float, float, float]) -> torch.Tensor:
    unit = np.array(axis) / np.linalg.norm(axis)
    return torch.from_numpy(Rotation.from_rotvec(2 * np.pi / fold * unit).as_matrix())


def directions(count: int, seed: int = 0) -> torch.Tensor:
    return view_directions(random_rotations(count, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_a_point_group_is_a_group_of_proper_rotations_of_the_right_order(name, order):
    group = symmetry_group(name)
    assert group.shape == (order, 3, 3)
    assert torch.equal(group[0], torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(group @ group.mT, group[:1].expand_as(group), atol=1e-13, rtol=0)
    torch.testing.assert_close(torch.linalg.det(group), torch.ones(order, dtype=torch.float64))
    gaps = (group[:, None] - group).abs().amax((-1, -2)) + 9.0 * torch.eye(order)
    assert order == 1 or float(gaps.min()) > 0.01, "two elements are the same"
    assert contains(group, group[:, None] @ group)
    assert contains(group, group.mT)


@pytest.mark.parametrize(
    ("name", "elements"),
    [
        ("C5", [(5, (0, 0, 1))]),
        ("D5", [(5, (0, 0, 1)), (2, (1, 0, 0))]),
        ("T", [(3, (0, 0, 1))]),
        ("O", [(4, (1, 0, 0)), (4, (0, 1, 0)), (4, (0, 0, 1)), (3, (1, 1, 1))]),
        ("I1", [(2, (1, 0, 0)), (2, (0, 1, 0)), (2, (0, 0, 1)), (5, (GOLDEN, 0, 1)), (3, (1, 1, 1))]),
        ("I2", [(2, (1, 0, 0)), (2, (0, 1, 0)), (2, (0, 0, 1)), (5, (1, 0, GOLDEN)), (3, (1, 1, 1))]),
        ("I3", [(5, (0, 0, 1)), (2, (0, 1, 0))]),
        ("I4", [(5, (0, 0, 1)), (2, (0, 1, 0))]),
    ],
)
def test_the_axes_lie_where_the_conventions_put_them(name, elements):
    group = symmetry_group(name)
    assert all(contains(group, turn(fold, axis)) for fold, axis in elements)


def test_the_four_icosahedral_settings_are_different():
    settings = [symmetry_group(name) for name in ("I1", "I2", "I3", "I4")]
    assert not any(contains(a, b) for i, a in enumerate(settings) for b in settings[:i])


def test_names_are_read_as_people_write_them():
    assert [canonical_name(name) for name in ("c1", " D7 ", "o", "I", "i3")] == ["C1", "D7", "O", "I2", "I3"]
    assert torch.equal(symmetry_group("I"), symmetry_group("I2"))


@pytest.mark.parametrize("name", ["", "C", "C0", "D0", "C100", "E4", "CS", "OH", "I5", "C4V", "D-2"])
def test_names_that_are_no_group_of_rotations_are_refused(name):
    with pytest.raises(InputError, match=f"symmetry '{name}' is unknown; use C1"):
        symmetry_group(name)


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_the_asymmetric_unit_is_one_part_in_the_order_of_the_group(name, order):
    count = 30000
    kept = float(asymmetric_unit(directions(count), symmetry_group(name)).double().mean())
    spread = np.sqrt((1 / order) * (1 - 1 / order) / count)
    assert abs(kept - 1 / order) < 4 * spread + 1e-12


@pytest.mark.parametrize("name", ORDERS)
def test_every_direction_has_exactly_one_representative(name):
    group, views = symmetry_group(name), directions(2000, seed=1)
    equivalents = torch.einsum("oij,rj->roi", group, views)
    inside = asymmetric_unit(equivalents.reshape(-1, 3), group).view(len(views), len(group))
    assert bool((inside.sum(1) == 1).all())


@pytest.mark.parametrize("name", ["C4", "D3", "T", "O", "I2", "I3"])
def test_directions_on_a_symmetry_axis_keep_a_representative(name):
    group = symmetry_group(name)
    # The axis of an element is the eigenvector of eigenvalue 1.
    axes = torch.stack([torch.linalg.svd(g - torch.eye(3)).Vh[2] for g in group[1:]])
    equivalents = torch.einsum("oij,rj->roi", group, axes)
    inside = asymmetric_unit(equivalents.reshape(-1, 3), group).view(len(axes), len(group))
    assert bool(inside.any(1).all())


@pytest.mark.parametrize("name, count", [("D2", 24), ("D3", 12), ("D7", 28), ("T", 24), ("O", 24), ("I1", 60)])
def test_the_normaliser_is_the_known_group(name, count):
    """Of D2 and T it is octahedral, of Dn dihedral of twice the order; O and I are their own."""
    group, found = symmetry_group(name), normaliser(symmetry_group(name))
    assert len(found) == count and bool((torch.linalg.det(found) > 0.999).all())
    assert contains(group, found[:, None] @ group @ found.mT[:, None])
