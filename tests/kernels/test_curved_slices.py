"""Curved slices: coefficients are inserted above the plane of their slice, against a loop in numpy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap import kernels
from halfmap.fourier.band import Band
from halfmap.fourier.transform import half_volume_extent
from halfmap.kernels import reference
from halfmap.kernels.poses import Samples

BOX, PADDING, LIMIT = 16, 2, 6
BAND, M = Band.to_shell(BOX, LIMIT), half_volume_extent(PADDING, LIMIT)
CURVATURE = torch.tensor([0.02, -0.015, 0.0, 0.01], dtype=torch.float64)  # 2 points at the edge


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inserted(samples: Samples, dtype: torch.dtype, kernel: str = "trilinear") -> tuple[Tensor, Tensor, Tensor]:
    """Sums [z, y, x, 3] of four images, and what was inserted: values and weights."""
    values = torch.complex(noise(4, len(BAND), seed=1), noise(4, len(BAND), seed=2))
    weights = noise(4, len(BAND), seed=3).abs()
    sums = torch.zeros(2 * M + 1, 2 * M + 1, M + 1, 3, dtype=dtype)
    given = values.to(torch.complex64 if dtype == torch.float32 else torch.complex128)
    kernels.insert_slices_(sums, given, weights.to(dtype), BAND.kxy.double() * PADDING, BAND.kxy, BOX, samples, kernel,
                           CURVATURE)
    return sums, values, weights


def moved(values: Tensor, samples: Samples) -> Tensor:
    angle = 2 * math.pi / BOX * samples.shifts @ BAND.kxy.double().T
    return samples.mass[:, None] * values[samples.image] * torch.polar(torch.ones_like(angle), angle)


@pytest.fixture
def samples(random_poses) -> Samples:
    rotations, shifts = random_poses(9)
    image = torch.tensor([0, 1, 2, 3, 3, 1, 0, 0, 2])
    return Samples(image, rotations, shifts, torch.linspace(0.2, 1, 9, dtype=torch.float64))


def test_a_coefficient_is_spread_about_its_point_above_the_plane(samples):
    sums, values, weights = inserted(samples, torch.float64)
    cube, weight = np.zeros((2 * M + 1,) * 3, complex), np.zeros((2 * M + 1,) * 3)
    shifted = moved(values, samples).numpy()
    for j, (b, rotation) in enumerate(zip(samples.image.tolist(), samples.rotations.numpy(), strict=True)):
        for k, (kx, ky) in enumerate((PADDING * BAND.kxy).tolist()):
            q = kx * rotation[0] + ky * rotation[1] + float(CURVATURE[b]) * (kx**2 + ky**2) * rotation[2]
            value, mass = shifted[j, k], float(samples.mass[j] * weights[b, k])
            if q[0] < 0:
                q, value = -q, value.conj()
            low = np.floor(q).astype(int)
            for d in itertools.product((0, 1), repeat=3):
                share = np.prod(np.where(np.array(d) == 1, q - low, 1 - q + low))
                at = tuple((low + d + [0, M, M])[::-1])
                cube[at] += share * value
                weight[at] += share * mass
    assert np.allclose(sums[..., 2], weight[:, :, : M + 1], atol=1e-12)
    assert np.allclose(torch.view_as_complex(sums[..., :2].contiguous()), cube[:, :, : M + 1], atol=1e-12)


def test_values_are_read_at_their_points_above_the_plane(samples):
    # i b.q is Hermitian, and linear, so that interpolation is exact
    z, y, x = torch.meshgrid(*(torch.arange(low, M + 1, dtype=torch.float64) for low in (-M, -M, 0)), indexing="ij")
    slope = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
    volume = 1j * (slope[0] * x + slope[1] * y + slope[2] * z)
    coords, bent = BAND.kxy.double() * PADDING, CURVATURE[samples.image]
    q = torch.einsum("ka,rac->rkc", coords, samples.rotations[:, :2])
    q = q + (bent[:, None] * coords.square().sum(1))[..., None] * samples.rotations[:, None, 2]
    given = volume.to(torch.complex64)
    for values in (kernels.project_slices(given, coords, samples.rotations, bent),
                   reference.project_slices(given, coords, samples.rotations, bent)):
        assert float((values - 1j * (q @ slope)).abs().max()) < 2e-5
    with pytest.raises(ValueError, match="beyond the half volume"):
        kernels.project_slices(given, coords, samples.rotations, 20 * bent)


@pytest.mark.parametrize("kernel", ["trilinear", "gaussian"])
def test_the_compiled_insertion_of_curved_slices_is_the_plain_one(samples, kernel):
    sums, values, weights = inserted(samples, torch.float32, kernel)
    expected = torch.zeros_like(sums, dtype=torch.float64)
    insert = reference.insert_gaussians_ if kernel == "gaussian" else reference.insert_slices_
    insert(expected, moved(values, samples), samples.mass[:, None] * weights[samples.image],
           BAND.kxy.double() * PADDING, samples.rotations, CURVATURE[samples.image])
    assert float((sums - expected).norm() / expected.norm()) < 3e-5


def test_sums_of_curved_slices_have_the_same_bits_for_any_number_of_threads(samples):
    before = kernels.thread_count()
    found = []
    for count in (1, 2, 5, 8):  # slabs of two planes and of one
        kernels.set_threads(count)
        found.append([inserted(samples, torch.float32, kernel)[0] for kernel in ("trilinear", "gaussian")])
    kernels.set_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
