"""A map that is turned and shifted is the map of the turned and shifted molecule."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from halfmap.maps.rigid import moved
from halfmap.validation.model_map import fitted_pose

PIXEL = 1.7
TURN, SHIFT = Rotation.from_rotvec([0.5, -0.9, 0.3]).as_matrix(), np.array([3.1, -4.4, 2.0])


def turned(specimen, turn, shift):
    """The specimen itself at turn @ x + shift (voxels): another closed form, nothing interpolated."""
    centre = specimen.centre.numpy() @ turn.T + shift
    return type(specimen)(specimen.box, torch.from_numpy(centre), specimen.width, specimen.weight)


@pytest.mark.parametrize("box", [40, 41])
@pytest.mark.parametrize(("order", "error"), [(3, 0.004), (1, 0.12)])
def test_a_moved_map_is_that_of_the_moved_molecule(blobs, box, order, error):
    specimen = blobs(box, spread=0.08, width=1.8)
    expected = turned(specimen, TURN, SHIFT / PIXEL).map()
    found = moved(specimen.map().float(), torch.from_numpy(TURN), torch.from_numpy(SHIFT), PIXEL, order)
    assert float((found - expected).norm() / expected.norm()) < error


def test_moving_there_and_back_again_changes_little(blobs):
    v = blobs(40, spread=0.08, width=1.8).map().float()
    turn, shift = torch.from_numpy(TURN), torch.from_numpy(SHIFT)
    back = moved(moved(v, turn, shift, PIXEL), turn.T, -turn.T @ shift, PIXEL)
    assert float((back - v).norm() / v.norm()) < 0.006


def test_nothing_comes_in_from_beyond_the_box():
    v = torch.ones(20, 20, 20)
    found = moved(v, torch.eye(3), torch.tensor([6 * PIXEL, 0.0, 0.0]), PIXEL, 1)
    assert torch.equal(found[:, :, :6], torch.zeros(20, 20, 6)) and torch.equal(found[:, :, 6:], v[:, :, 6:])


def test_a_fit_says_where_a_map_was_moved_to(blobs):
    """`fitted_pose` and `moved` agree on what rotation and shift mean."""
    turn = Rotation.from_rotvec(np.radians([1.5, -2.0, 1.0])).as_matrix()
    specimen = blobs(40, spread=0.12, width=1.8)
    found = turned(specimen, turn, np.array([0.5, -0.3, 0.2])).map().float()
    rotation, shift = fitted_pose(found, specimen.map().float(), 2.0)
    assert Rotation.from_matrix(rotation.numpy() @ turn.T).magnitude() < np.radians(0.2)
    np.testing.assert_allclose(shift.numpy(), [1.0, -0.6, 0.4], atol=0.1)
