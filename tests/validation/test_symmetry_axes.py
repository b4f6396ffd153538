"""The axes of a map are found where a known rotation and shift have put them."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from halfmap.geometry.symmetry import symmetry_group
from halfmap.maps.rigid import moved
from halfmap.validation.symmetry_axes import SymmetryAxes, symmetry_axes

BOX, PIXEL, DIAMETER = 40, 5.0, 150.0


def symmetric(blobs, name, turn, shift):
    """Gaussians and all their mates, turned about the box centre and then moved by shift (voxels): a closed form."""
    one = blobs(BOX, 6, spread=0.12, width=1.6, seed=3)
    mates = np.einsum("oij,nj->oni", symmetry_group(name).numpy(), one.centre.numpy()).reshape(-1, 3)
    count = len(mates) // 6
    centre = torch.from_numpy(mates @ turn.T + shift)
    return type(one)(BOX, centre, one.width.repeat(count), one.weight.repeat(count))


def found_in(specimen, name, resolution=20.0) -> SymmetryAxes:
    return symmetry_axes(specimen.map().float(), PIXEL, resolution, DIAMETER, symmetry_group(name))


@pytest.mark.parametrize("name", ["C2", "C4", "D1", "D2", "O"])
def test_axes_that_were_turned_and_moved_are_found(name, blobs):
    turn, shift = Rotation.from_rotvec([0.5, 0.4, -0.3]).as_matrix(), np.array([1.3, -2.1, 0.8])
    found = found_in(symmetric(blobs, name, turn, shift), name)
    group = symmetry_group(name).numpy()
    back = found.rotation.numpy() @ turn  # must take the group to itself, whichever of its mates was found
    for g in back @ group @ back.T:
        apart = [Rotation.from_matrix(g @ h.T).magnitude() for h in group]
        assert min(apart) < np.radians(1)
    left = found.rotation.numpy() @ (shift * PIXEL) + found.shift.numpy()
    along = {"C": [1, 1, 0], "D1": [0, 1, 1]}.get(name if name == "D1" else name[0], [1, 1, 1])
    assert np.abs(left * along).max() < 0.3  # A; along a single axis any place is as good
    assert found.best > 0.999 and found.as_is < 0.93


def test_a_map_on_its_axes_stays_where_it_is(blobs):
    for name in ("C2", "O"):
        found = found_in(symmetric(blobs, name, np.eye(3), np.zeros(3)), name)
        assert found.as_is > 0.999 and found.angle < 0.5 and found.distance < 0.5


def test_the_smallest_of_equivalent_turns_is_given(blobs):
    """D2 turned by 80 degrees about one of its axes is D2 turned back by 10; C4 turned about z is not turned at all."""
    quarter = Rotation.from_euler("z", 80, degrees=True).as_matrix()
    assert found_in(symmetric(blobs, "D2", quarter, np.zeros(3)), "D2").angle == pytest.approx(10, abs=0.5)
    assert found_in(symmetric(blobs, "C4", quarter, np.zeros(3)), "C4").angle < 0.5
    down = Rotation.from_euler("x", 170, degrees=True).as_matrix()
    assert found_in(symmetric(blobs, "C4", down, np.zeros(3)), "C4").angle == pytest.approx(10, abs=0.5)


def test_the_correlation_is_that_of_the_map_with_its_symmetrised_self(blobs):
    """Against the map and its mates interpolated in real space."""
    specimen = symmetric(blobs, "C3", Rotation.from_euler("y", 30, degrees=True).as_matrix(), np.zeros(3))
    v = specimen.map().float()
    mates = [moved(v, g, torch.zeros(3), PIXEL) for g in symmetry_group("C3")]
    mean = torch.stack(mates).mean(dim=0)
    expected = float(torch.corrcoef(torch.stack([v.flatten(), mean.flatten()]))[0, 1])
    assert found_in(specimen, "C3", 12.0).as_is == pytest.approx(expected, abs=0.01)
