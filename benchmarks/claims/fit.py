"""Where in a map an atomic model fits, close to where it is: six parameters, by low-resolution correlation."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, optimize
from torch import Tensor

from halfmap.fourier.transform import resize_map
from halfmap.geometry.rotations import rotation_vector_to_matrix
from halfmap.maps.filters import gaussian_lowpass

FIT_RESOLUTION = 10.0  # A
STEP_DEGREES, STEP_SHIFT = 2.0, 2.0  # of the first simplex: about the drift of a refinement that started in this frame


def fitted_pose(found: Tensor, expected: Tensor, pixel_size: float) -> tuple[Tensor, Tensor]:
    """Rotation [3,3] and shift [3] (A) that carry the expected map [z,y,x] onto the map found, R x + t.

    Both maps are smoothed to 10 A and sampled at a third of it; the correlation over the density's surroundings is
    maximised by the simplex method (Nelder and Mead 1965, Comput. J. 7:308) from the identity. Only the expected map is
    interpolated, by cubic splines.
    """
    spacing = FIT_RESOLUTION / 3
    box = found.shape[-1]
    size = 2 * math.ceil(0.5 * box * pixel_size / spacing)
    smooth = (gaussian_lowpass(v, pixel_size, FIT_RESOLUTION) for v in (found, expected))
    data, model = (resize_map(v, pixel_size, spacing, size).double().numpy() for v in smooth)
    near = ndimage.binary_dilation(model > 0.1 * model.max(), iterations=2)
    zyx = np.argwhere(near) - size // 2
    spline = ndimage.spline_filter(model, order=3)
    wanted = _standard(data[near])

    def misfit(parameters: NDArray[np.float64]) -> float:
        rotation, shift = _pose(parameters)
        # the density found at x is that expected at R^T (x - t); axes are stored z, y, x
        source = (zyx[:, ::-1] - shift.numpy() / spacing) @ rotation.numpy()
        values = ndimage.map_coordinates(spline, source[:, ::-1].T + size // 2, order=3, prefilter=False)
        return -float(wanted @ _standard(values))

    simplex = np.vstack([np.zeros(6), np.diag([math.radians(STEP_DEGREES)] * 3 + [STEP_SHIFT] * 3)])
    best = optimize.minimize(misfit, np.zeros(6), method="Nelder-Mead",
                             options={"initial_simplex": simplex, "xatol": 1e-4, "fatol": 1e-8, "maxfev": 2000})
    return _pose(best.x)


def _pose(parameters: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    vector = torch.from_numpy(np.ascontiguousarray(parameters))
    return rotation_vector_to_matrix(vector[None, :3])[0], vector[3:].clone()


def _standard(values: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = values - values.mean()
    return centred / max(float(np.linalg.norm(centred)), 1e-30)
