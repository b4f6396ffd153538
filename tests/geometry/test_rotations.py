"""Claims about rotations, compared with scipy's Rotation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.transform import Rotation

from halfmap.geometry.rotations import (
    angular_distance,
    euler_to_matrix,
    matrix_to_euler,
    matrix_to_quaternion,
    matrix_to_rotation_vector,
    quaternion_to_matrix,
    random_rotations,
    rotation_vector_to_matrix,
    view_directions,
)

degrees = st.floats(-720.0, 720.0)


def witnesses(count: int, seed: int = 0) -> Rotation:
    return Rotation.random(count, random_state=seed)


def test_euler_angles_give_the_transpose_of_the_active_intrinsic_zyz_rotation():
    angles = np.random.default_rng(1).uniform(-360, 360, (200, 3))
    truth = Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(euler_to_matrix(torch.from_numpy(angles)).numpy(), truth, atol=1e-13)


@given(degrees, st.one_of(st.sampled_from([0.0, 180.0, -180.0, 1e-9, 179.9999999]), degrees), degrees)
def test_a_matrix_survives_the_way_to_euler_angles_and_back(rot, tilt, psi):
    matrix = euler_to_matrix(torch.tensor([[rot, tilt, psi]]))
    angles = matrix_to_euler(matrix)
    torch.testing.assert_close(euler_to_matrix(angles), matrix, atol=1e-13, rtol=0)
    assert 0.0 <= float(angles[0, 1]) <= 180.0


def test_angles_in_the_usual_range_survive_the_way_to_a_matrix_and_back():
    angles = torch.tensor([[10.0, 20.0, 30.0], [-170.0, 95.0, 179.0], [0.0, 1.0, -90.0]], dtype=torch.float64)
    torch.testing.assert_close(matrix_to_euler(euler_to_matrix(angles)), angles, atol=1e-11, rtol=0)


def test_the_view_direction_has_the_azimuth_rot_and_the_polar_angle_tilt():
    rot, tilt = math.radians(25.0), math.radians(70.0)
    view = view_directions(euler_to_matrix(torch.tensor([[25.0, 70.0, -40.0]])))[0]
    truth = [math.sin(tilt) * math.cos(rot), math.sin(tilt) * math.sin(rot), math.cos(tilt)]
    np.testing.assert_allclose(view.numpy(), truth, atol=1e-6)


def test_rotation_vectors_are_axis_times_angle():
    vectors = np.random.default_rng(2).normal(size=(100, 3)) * np.logspace(-12, 0.5, 100)[:, None]
    matrices = rotation_vector_to_matrix(torch.from_numpy(vectors))
    np.testing.assert_allclose(matrices.numpy(), Rotation.from_rotvec(vectors).as_matrix(), atol=1e-14)
    assert torch.equal(rotation_vector_to_matrix(torch.zeros(1, 3))[0], torch.eye(3, dtype=torch.float64))


def test_rotation_vectors_come_back_from_matrices_at_all_angles():
    axis = np.array([0.48, -0.6, 0.64])
    vectors = axis * np.array([0.0, 1e-10, 1e-3, 1.0, 3.0, math.pi - 1e-7])[:, None]
    matrices = torch.from_numpy(Rotation.from_rotvec(vectors).as_matrix())
    np.testing.assert_allclose(matrix_to_rotation_vector(matrices).numpy(), vectors, atol=1e-9)


def test_quaternions_agree_with_scipy_and_need_not_be_normalised():
    truth = witnesses(100)
    quaternions = torch.from_numpy(truth.as_quat(canonical=True)[:, [3, 0, 1, 2]])
    matrices = torch.from_numpy(truth.as_matrix())
    torch.testing.assert_close(matrix_to_quaternion(matrices), quaternions, atol=1e-14, rtol=0)
    torch.testing.assert_close(quaternion_to_matrix(3.7 * quaternions), matrices, atol=1e-14, rtol=0)


@pytest.mark.parametrize("axis", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_half_turns_have_a_quaternion_too(axis):
    half_turn = torch.from_numpy(Rotation.from_rotvec(math.pi * np.array(axis)).as_matrix())[None]
    torch.testing.assert_close(quaternion_to_matrix(matrix_to_quaternion(half_turn)), half_turn)


def test_random_rotations_are_uniform_on_the_rotation_group():
    rotations = random_rotations(20000, torch.Generator().manual_seed(5))
    torch.testing.assert_close(
        rotations @ rotations.mT, torch.eye(3, dtype=torch.float64).expand_as(rotations), atol=1e-13, rtol=0
    )
    assert bool((torch.linalg.det(rotations) > 0.99).all())
    # Haar measure: the rotation angle has density (1 - cos w)/pi, each column is uniform on the sphere.
    angles = np.radians(angular_distance(rotations, torch.eye(3)).numpy())
    assert stats.kstest(angles, lambda w: (w - np.sin(w)) / np.pi).pvalue > 1e-3
    assert stats.kstest(rotations[:, 2, 2].numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert rotations.mean(0).abs().max() < 0.02


def test_random_rotations_repeat_for_a_seed():
    first, second = (random_rotations(3, torch.Generator().manual_seed(9)) for _ in range(2))
    assert torch.equal(first, second)


def test_the_distance_of_two_rotations_is_the_angle_between_them():
    one, other = witnesses(200, 3), witnesses(200, 4)
    truth = np.degrees((one * other.inv()).magnitude())
    got = angular_distance(torch.from_numpy(one.as_matrix()), torch.from_numpy(other.as_matrix()))
    np.testing.assert_allclose(got.numpy(), truth, atol=1e-6)


@pytest.mark.parametrize("angle", [1e-7, 1e-4, 1.0, 179.0])
def test_small_distances_are_not_lost_in_rounding(angle):
    turn = torch.from_numpy(Rotation.from_rotvec([0.0, math.radians(angle), 0.0]).as_matrix())
    start = random_rotations(1, torch.Generator().manual_seed(0))[0]
    assert float(angular_distance(turn @ start, start)) == pytest.approx(angle, rel=1e-6)


def test_the_distance_modulo_a_group_is_the_smallest_over_its_members():
    members = Rotation.create_group("O")
    one, other = witnesses(50, 6), witnesses(50, 7)
    truth = np.min([np.degrees((one * g * other.inv()).magnitude()) for g in members], axis=0)
    got = angular_distance(
        torch.from_numpy(one.as_matrix()),
        torch.from_numpy(other.as_matrix()),
        torch.from_numpy(members.as_matrix()),
    )
    np.testing.assert_allclose(got.numpy(), truth, atol=1e-6)
    assert truth.max() < 63.0
