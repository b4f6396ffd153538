"""Pose errors do not depend on the frame a refinement happened to choose, nor on which equivalent pose it
reports."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from halfmap.errors import InputError
from halfmap.geometry.symmetry import symmetry_group
from halfmap.imaging.ctf import Defocus
from halfmap.particles.table import ParticleTable, with_poses
from halfmap.validation.poses import pose_error

COUNT = 400


def table(count: int = COUNT) -> ParticleTable:
    zero = np.zeros(count, np.int64)
    nothing = torch.zeros(count, dtype=torch.float64)
    defocus = Defocus(*[nothing] * 6)
    return ParticleTable({}, (), zero, (Path("particles.mrcs"),), zero, np.arange(count), defocus,
                         None, torch.stack([nothing, nothing], 1), None, zero, Path("refined.star"))


def planted(symmetry: str, degrees: float, lost: float = 0.0):
    """True poses, and the same seen in another frame with errors of exactly `degrees`, a fraction of them
    lost."""
    random = np.random.default_rng(3)
    true = Rotation.random(COUNT, rng=random)
    frame, shift = Rotation.from_rotvec([0.7, -1.9, 0.4]), np.array([3.0, -5.0, 2.0])
    axes = random.normal(size=(COUNT, 3))
    error = Rotation.from_rotvec(np.radians(degrees) * axes / np.linalg.norm(axes, axis=1)[:, None])
    group = symmetry_group(symmetry).numpy()
    equivalent = Rotation.from_matrix(group[random.integers(len(group), size=COUNT)])
    refined = error * true * equivalent * frame.inv()
    lose = random.random(COUNT) < lost
    anything = Rotation.random(COUNT, rng=random).as_matrix()
    refined = Rotation.from_matrix(np.where(lose[:, None, None], anything, refined.as_matrix()))
    origins = random.normal(0, 4, (COUNT, 2))
    moved = origins + (refined.as_matrix() @ shift)[:, :2]
    truth = with_poses(table(), torch.from_numpy(true.as_matrix()), torch.from_numpy(origins))
    found = with_poses(table(), torch.from_numpy(refined.as_matrix()), torch.from_numpy(moved))
    return found, truth, frame, shift, lose


@pytest.mark.parametrize("symmetry", ["C1", "C4", "D2", "O"])
def test_a_change_of_frame_is_no_error_whatever_the_symmetry(symmetry):
    found, truth, _, shift, _ = planted(symmetry, 0.0)
    error = pose_error(found, truth, symmetry_group(symmetry))
    assert error["p80"] < 1e-5 and error["above10"] == 0.0
    assert np.allclose(error["shift"], shift, atol=1e-6) and error["shift_median"] < 1e-6


def test_the_planted_frame_and_the_planted_errors_come_back():
    found, truth, frame, shift, _ = planted("C1", 2.0)
    error = pose_error(found, truth, symmetry_group("C1"))
    assert abs(error["median"] - 2.0) < 0.05
    assert (Rotation.from_matrix(error["frame"]) * frame.inv()).magnitude() < np.radians(0.3)
    assert np.allclose(error["shift"], shift, atol=0.05)
    assert abs(error["frame_angle"] - np.degrees(frame.magnitude())) < 0.3


def test_a_frame_is_found_when_six_of_ten_particles_are_lost():
    found, truth, frame, _, lose = planted("C1", 1.0, lost=0.6)
    error = pose_error(found, truth, symmetry_group("C1"))
    assert (Rotation.from_matrix(error["frame"]) * frame.inv()).magnitude() < np.radians(0.3)
    assert abs(error["above10"] - lose.mean()) < 0.01


def test_particles_are_matched_by_image_not_by_row():
    found, truth, *_ = planted("C1", 1.0)
    order = np.random.default_rng(0).permutation(COUNT)[:300]
    error = pose_error(found.select(order), truth, symmetry_group("C1"))
    assert error["particles"] == 300 and abs(error["median"] - 1.0) < 0.05


def test_tables_that_cannot_be_compared_are_named():
    found, truth, *_ = planted("C1", 1.0)
    with pytest.raises(InputError, match="no angles"):
        pose_error(table(), truth, symmetry_group("C1"))
    with pytest.raises(InputError, match="not in"):
        pose_error(found, truth.select(np.arange(10)), symmetry_group("C1"))
