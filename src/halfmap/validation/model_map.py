"""Map against atomic model: where the model fits the map, the map that the model implies, and how far the two agree.

The model's map is computed from its atoms at their final places, so that no map is interpolated and the correlation
holds no resampling error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, optimize
from torch import Tensor

from halfmap.fourier.transform import resize_map
from halfmap.geometry.rotations import rotation_vector_to_matrix
from halfmap.imaging.density import Cloud, density_map, oversampling_for
from halfmap.maps.filters import gaussian_lowpass
from halfmap.validation.fsc import crossing_shell, resolution

FIT_RESOLUTION = 10.0  # A
# Size of the first simplex in degrees and A: about the drift of a refinement that started in this frame.
STEP_DEGREES, STEP_SHIFT = 2.0, 2.0
# A. Coarser shells hold what surrounds the model (belt, flexible domain), so crossings are looked for from here on.
COARSEST = 12.0
# The mask of a model is the density above 0.15 of its 90th percentile in a map smoothed to 16 A, grown by 4 A in voxel
# steps, with a cosine edge of 6 A.
MASK_LOWPASS, MASK_LEVEL, MASK_GROWN, MASK_EDGE = 16.0, 0.15, 4.0, 6.0


@dataclass(frozen=True)
class _CoarsePair:
    """Two maps smoothed to 10 A and sampled at a third of it: float64 [z,y,x].

    near[z,y,x]: where the expected density and its surroundings are.
    """

    found: NDArray[np.float64]
    expected: NDArray[np.float64]
    near: NDArray[np.bool_]


def moved_map(cloud: Cloud, rotation: Tensor, shift: Tensor, box: int, pixel_size: float) -> Tensor:
    """The map [z,y,x] of a cloud moved to rotation[3,3] @ x + shift[3] (A), with the origin in the box's centre."""
    xyz = (cloud.xyz.double() @ rotation.double().T + shift.double()).float()
    return density_map([replace(cloud, xyz=xyz)], box, pixel_size, oversampling_for([cloud], pixel_size))


def density_mask(expected: Tensor, pixel_size: float) -> Tensor:
    """A soft mask [z,y,x] close around the density of a noise-free map [z,y,x]."""
    smooth = gaussian_lowpass(expected, pixel_size, MASK_LOWPASS).cpu()
    level = MASK_LEVEL * float(np.quantile(smooth[smooth > 0.05 * smooth.max()].numpy(), 0.9))
    core = ndimage.binary_dilation((smooth > level).numpy(), iterations=max(1, int(MASK_GROWN / pixel_size)))
    distance = torch.from_numpy(ndimage.distance_transform_edt(~core)).float() * pixel_size
    return (0.5 + 0.5 * torch.cos(torch.pi * (distance / MASK_EDGE).clamp(max=1.0))).to(expected.device)


def first_shell(box: int, pixel_size: float, coarsest: float = COARSEST) -> int:
    """The shell at `coarsest` (A), from which on crossings are looked for."""
    return max(1, int(box * pixel_size / coarsest))


def crossing(curve: Tensor, box: int, pixel_size: float, threshold: float, coarsest: float = COARSEST) -> float:
    """Resolution (A) where curve[s] first falls below the threshold, looked for from `coarsest` (A) on.

    It is that of the shell at `coarsest` where the curve is below the threshold there already.
    """
    start = first_shell(box, pixel_size, coarsest)
    if float(curve[start]) < threshold:
        return box * pixel_size / start
    return resolution(torch.cat([torch.ones(start, dtype=curve.dtype), curve[start:]]), box, pixel_size, threshold)


def model_resolution(curve: Tensor, box: int, pixel_size: float, threshold: float) -> float | None:
    """Resolution (A) to which a map agrees with a model; None where curve[s] never falls below the threshold.

    As `crossing`, so that what surrounds the model does not count. But where the curve is below the threshold at 12 A
    already, it is the first crossing of the whole curve.
    """
    start = first_shell(box, pixel_size)
    if start < len(curve) and float(curve[start]) >= threshold:
        curve = torch.cat([torch.ones(start, dtype=curve.dtype), curve[start:]])
    shell = crossing_shell(curve, threshold)
    return None if shell is None else box * pixel_size / shell


def fitted_pose(found: Tensor, expected: Tensor, pixel_size: float) -> tuple[Tensor, Tensor]:
    """Rotation [3,3] and shift [3] (A) that move the expected map [z,y,x] onto the map found: R x + t from the centre.

    Both maps are smoothed to 10 A and sampled at a third of it. The correlation over the density's surroundings is
    maximised by the simplex method (Nelder and Mead 1965, Comput. J. 7:308) from the identity. Only the expected map is
    interpolated, by cubic splines.
    """
    coarse = _coarse(found, expected, pixel_size)
    size, spacing = coarse.found.shape[0], FIT_RESOLUTION / 3
    zyx = np.argwhere(coarse.near) - size // 2
    spline = ndimage.spline_filter(coarse.expected, order=3)
    wanted = _standard(coarse.found[coarse.near])

    def misfit(parameters: NDArray[np.float64]) -> float:
        rotation, shift = _pose(parameters)
        # The density found at x is that expected at R^T (x - t). The axes of the arrays are z, y, x.
        source = (zyx[:, ::-1] - shift.numpy() / spacing) @ rotation.numpy()
        values = ndimage.map_coordinates(spline, source[:, ::-1].T + size // 2, order=3, prefilter=False)
        return -float(wanted @ _standard(values))

    simplex = np.vstack([np.zeros(6), np.diag([math.radians(STEP_DEGREES)] * 3 + [STEP_SHIFT] * 3)])
    best = optimize.minimize(misfit, np.zeros(6), method="Nelder-Mead",
                             options={"initial_simplex": simplex, "xatol": 1e-4, "fatol": 1e-8, "maxfev": 2000})
    rotation, shift = _pose(best.x)
    return rotation.to(found.device), shift.to(found.device)


def coarse_correlation(found: Tensor, expected: Tensor, pixel_size: float) -> float:
    """Correlation of two maps [z,y,x] smoothed to 10 A, over the expected density's surroundings: what a fit maximises.

    0 where the expected map is empty.
    """
    coarse = _coarse(found, expected, pixel_size)
    near = coarse.near
    return float(_standard(coarse.found[near]) @ _standard(coarse.expected[near])) if near.any() else 0.0


def _coarse(found: Tensor, expected: Tensor, pixel_size: float) -> _CoarsePair:
    """Both maps [z,y,x] smoothed and sampled coarsely."""
    spacing = FIT_RESOLUTION / 3
    size = 2 * math.ceil(0.5 * found.shape[-1] * pixel_size / spacing)
    smooth = (gaussian_lowpass(v, pixel_size, FIT_RESOLUTION) for v in (found, expected))
    data, model = (resize_map(v, pixel_size, spacing, size).double().cpu().numpy() for v in smooth)
    near = ndimage.binary_dilation(model > 0.1 * max(model.max(), 1e-30), iterations=2)
    return _CoarsePair(data, model, near)


def _pose(parameters: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Rotation [3,3] and shift [3] (A) of a rotation vector (radians) and a shift in six parameters."""
    vector = torch.from_numpy(np.ascontiguousarray(parameters))
    return rotation_vector_to_matrix(vector[None, :3])[0], vector[3:].clone()


def _standard(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values with mean 0 and norm 1."""
    centred = values - values.mean()
    return centred / max(float(np.linalg.norm(centred)), 1e-30)
