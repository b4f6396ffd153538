"""Pose errors do not depend on the frame a refinement happened to choose, nor on which equivalent pose it
reports."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from halfmap.errors import InputError
from halfmap.geometry.symmetry import symmetry_group
from halfmap.imaging.ctf import Defocus
from halfmap.particles.table import ParticleTable, with_poses
from halfmap.validation.poses import common_rows, pose_differences, pose_error

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


@pytest.mark.parametrize("symmetry", ["C1", "C4", "O"])
def test_every_particle_is_told_how_far_its_pose_has_moved(symmetry):
    found, truth, _, shift, lose = planted(symmetry, 3.0, lost=0.1)
    left = pose_differences(found, truth, symmetry_group(symmetry))
    # the frame is an average over errors of 3 degrees
    kept = left.angles.numpy()[~lose]
    assert np.abs(kept - 3.0).max() < 0.7 and abs(np.median(kept) - 3.0) < 0.05
    assert left.above(3.8) == pytest.approx((left.angles.numpy() > 3.8).mean()) and left.above(180.0) == 0
    np.testing.assert_allclose(left.shift, shift, atol=0.1)
    assert float(left.shifts[torch.from_numpy(~lose)].median()) < 0.1


def test_of_equivalent_frames_the_one_that_turns_least_is_told():
    found, truth, *_ = planted("C4", 0.0)
    quarter = Rotation.from_rotvec([0, 0, np.pi / 2])
    left = pose_differences(with_poses(truth, truth.rotations @ torch.from_numpy(quarter.as_matrix()), truth.origins),
                            truth, symmetry_group("C4"))
    assert left.frame_angle < 1e-4 and float(left.angles.max()) < 1e-4
    assert pose_differences(found, truth, symmetry_group("C1")).frame_angle > 1


def test_images_that_two_tables_share_are_found_by_stack_and_number():
    first, order = table(), np.random.default_rng(1).permutation(COUNT)
    other = first.select(order[:300])
    here, there = common_rows(first, other)
    assert len(here) == 300 and np.array_equal(here, np.sort(order[:300]))
    assert np.array_equal(first.image_index[here], other.image_index[there])
    copied = replace(other, stacks=(Path("elsewhere/particles.mrcs"),))
    assert np.array_equal(common_rows(first, copied)[1], there)
    assert len(common_rows(first, replace(other, stacks=(Path("others.mrcs"),)))[0]) == 0


def test_stacks_of_one_name_in_two_folders_are_two_stacks():
    half = np.repeat([0, 1], COUNT // 2)
    number = np.tile(np.arange(COUNT // 2), 2)
    first = replace(table(), stacks=(Path("a/p.mrcs"), Path("b/p.mrcs")), stack_index=half, image_index=number)
    here, there = common_rows(first, first.select(np.arange(COUNT)[::-1]))
    assert np.array_equal(here, np.arange(COUNT)) and np.array_equal(there, np.arange(COUNT)[::-1])
    twice = table().select([0, 0, 1])
    assert len(common_rows(table(), twice)[0]) == 2
