"""The specimen of many claims: a few Gaussian blobs, whose map and projections are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation
from torch import Tensor


@dataclass(frozen=True)
class Blobs:
    """Gaussians weight[a] exp(-|x - centre[a]|^2 / (2 width[a]^2)), centres (x, y, z) in voxels off the box centre."""

    box: int
    centre: Tensor
    width: Tensor
    weight: Tensor

    def map(self) -> Tensor:
        """Sampled density [z, y, x], float64."""
        axis = torch.arange(self.box, dtype=torch.float64) - self.box // 2
        one = [torch.exp(-((axis - self.centre[:, i, None]) ** 2) / (2 * self.width[:, None] ** 2)) for i in range(3)]
        return torch.einsum("a,az,ay,ax->zyx", self.weight, one[2], one[1], one[0])

    def transform(self, q: Tensor) -> Tensor:
        """V [..] = sum_x v(x) exp(-2 pi i q.x / n) at q [.., 3] = (qx, qy, qz) in cycles per box, complex128."""
        turn = 2 * math.pi / self.box
        size = self.weight * (2 * math.pi * self.width**2) ** 1.5
        decay = -0.5 * turn**2 * (q**2).sum(-1, keepdim=True) * self.width**2
        angle = -turn * q @ self.centre.T
        return (torch.polar(size * decay.exp(), angle)).sum(-1)

    def slices(self, coords: Tensor, rotations: Tensor) -> Tensor:
        """V(R^T (kx, ky, 0)) [r, k] for coords [k, 2] in cycles per box."""
        flat = torch.cat([coords.double(), torch.zeros(len(coords), 1, dtype=torch.float64)], dim=1)
        return self.transform(torch.einsum("rji,kj->rki", rotations.double(), flat))

    def images(self, kxy: Tensor, rotations: Tensor, shifts: Tensor) -> Tensor:
        """exp(-2 pi i k.t / n) V(R^T k) [b, k] for poses (rotations [b, 3, 3], shifts [b, 2] in pixels)."""
        angle = -2 * math.pi / self.box * shifts.double() @ kxy.double().T
        return torch.polar(torch.ones_like(angle), angle) * self.slices(kxy, rotations)


@pytest.fixture
def blobs() -> Callable[..., Blobs]:
    def make(box: int, count: int = 12, spread: float = 0.12, width: float = 1.6, seed: int = 0) -> Blobs:
        random = np.random.default_rng(seed)
        centre = torch.from_numpy(random.normal(0, spread * box, (count, 3))).clamp(-0.25 * box, 0.25 * box)
        widths = torch.from_numpy(random.uniform(width, 1.3 * width, count))
        return Blobs(box, centre, widths, torch.from_numpy(random.uniform(0.5, 1.5, count)))

    return make


@pytest.fixture
def random_poses() -> Callable[..., tuple[Tensor, Tensor]]:
    """count -> rotations [b, 3, 3] from scipy and shifts [b, 2] in pixels of standard deviation ``spread``."""

    def make(count: int, spread: float = 1.5, seed: int = 1) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng(seed)
        rotations = np.atleast_3d(Rotation.random(count, rng=random).as_matrix())
        return torch.from_numpy(rotations), torch.from_numpy(random.normal(0, spread, (count, 2)))

    return make


@pytest.fixture
def scipy_slices() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Trilinear slices [r, k] by scipy on the whole Hermitian volume, float64: the oracle of the kernels."""

    def slices(half: Tensor, coords: Tensor, rotations: Tensor) -> Tensor:
        mate = half[:, :, 1:].flip(0, 1, 2).conj()
        full = torch.cat([mate, half], dim=2).resolve_conj().to(torch.complex128).numpy()
        m = half.shape[-1] - 1
        q = torch.einsum("ka,rac->rkc", coords.double(), rotations[:, :2].double())
        at = (q.flip(-1) + m).permute(2, 0, 1).numpy()
        parts = [map_coordinates(part, at, order=1, mode="constant") for part in (full.real, full.imag)]
        return torch.from_numpy(parts[0] + 1j * parts[1])

    return slices
