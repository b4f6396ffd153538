"""Insertion of slices into sums, as compiled kernels want it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from halfmap.kernels.paths import elsewhere
from halfmap.kernels.poses import Samples, band_arrays
from halfmap.kernels.threads import for_ranges, run_all, thread_count


def insert_slices_(
    accumulator: Tensor,
    values: Tensor,
    weights: Tensor,
    coords: Tensor,
    kxy: Tensor,
    box: int,
    samples: Samples,
    kernel: str = "trilinear",
    curvature: Tensor | None = None,
) -> None:
    """Back-project into accumulator[z, y, x, 3] (numerator re, im, weight), in place.

    values[b, k] complex and weights[b, k] are those of the images. Sample j moves its image by ``-shifts[j]`` and
    counts it ``mass[j]`` times. coords[k, 2] must be a linear function of kxy[k, 2]. box: side of the image in pixels.
    kernel: ``trilinear`` spreads a coefficient over the eight grid points around it, ``gaussian`` over the 27 about the
    nearest one. curvature [b]: coefficients of image b are inserted curvature[b] |coords|^2 above the plane of its
    slice, along the third row of the rotation; None: on it. The sum is bitwise the same for any number of threads.

    Raises ValueError where curved slices leave the half volume.
    """
    check_reach(coords, curvature, accumulator.shape[2])
    if accumulator.device.type != "cpu":
        insert = elsewhere("insert_samples_", accumulator.device)
        insert(accumulator, values, weights, coords, kxy, box, samples, kernel, curvature)
        return
    real, turn = accumulator.dtype, 2 * math.pi / box
    rows = 2 if curvature is None else 3
    axes, coords, mass = samples.rotations[:, :rows].to(real).contiguous(), coords.to(real), samples.mass.to(real)
    bent = None if curvature is None else curvature[samples.image].to(real)
    order = torch.from_numpy(np.lexsort(kxy.T.numpy()))  # rows of constant ky
    used, image = samples.image.unique(return_inverse=True)  # often half of a batch, the other half's quarter set
    kxy = kxy[order]
    starts = np.flatnonzero(np.diff(kxy[:, 1].numpy(), prepend=np.inf, append=np.inf))
    band = band_arrays(coords[order], kxy)
    index = torch.arange(-band.limit, band.limit + 1, dtype=torch.float64) * turn
    tables = [torch.polar(torch.ones((), dtype=torch.float64), samples.shifts[:, axis, None].double() * index)
              for axis in (0, 1)]
    phases = [torch.view_as_real(table.to(values.dtype).contiguous()).numpy()
              for table in (tables[0][:, band.limit :], tables[1])]
    arguments = (
        band, starts, *_taken(values, weights.to(real), used, order), image.numpy(), axes.numpy(),
        None if bent is None else bent.numpy(), *phases, mass.contiguous().numpy(),
    )  # fmt: skip
    slab = _slab_kernel(kernel)
    run_all([partial(slab, accumulator.numpy(), *arguments, first, last)
             for first, last in pairwise(_slab_edges(accumulator.shape[0], accumulator.numel()))])


def check_reach(coords: Tensor, curvature: Tensor | None, points: int) -> None:
    """Raise ValueError where curved slices leave a half volume of so many points along x."""
    if curvature is None or not len(curvature):
        return
    square = float(coords.double().square().sum(dim=1).max())
    reach = math.hypot(math.sqrt(square), float(curvature.abs().max()) * square)
    if reach > points - 2:
        raise ValueError(f"curved slices reach {reach:.1f} points from the origin, beyond the half volume")


def _taken(values: Tensor, weights: Tensor, used: Tensor, order: Tensor) -> list[np.ndarray]:
    """Values [u, k, 2] and weights [u, k] of the images ``used`` [u], with their coefficients in this order [k]."""
    from halfmap.kernels.numba_insertion import take_range

    given = [torch.view_as_real(values.resolve_conj().contiguous()).numpy(), weights.contiguous().numpy()]
    found = [np.empty((len(used), *part.shape[1:]), part.dtype) for part in given]
    where = used.numpy(), order.numpy().astype(np.uint32)
    for_ranges(lambda i, j: take_range(*found, *given, *where, i, j), len(used))
    return found


def _slab_kernel(kernel: str) -> Callable[..., None]:
    """The compiled kernel of this name."""
    if kernel == "gaussian":
        from halfmap.kernels.numba_gaussian import insert_gaussian_slab

        return insert_gaussian_slab
    from halfmap.kernels.numba_insertion import insert_slab

    return insert_slab


def _slab_edges(planes: int, size: int) -> list[int]:
    """Slabs of equal load: central planes receive more samples (their density falls as 1/r over the ball)."""
    count = max(thread_count() * 2, min(16, size >> 22))
    if thread_count() == 1 and size < 1 << 22:
        count = 1
    m = (planes - 1) / 2
    # samples of a uniformly oriented slice have a uniform direction, so |z| / radius is uniform: load ~ log of radius
    z = np.arange(planes) - m
    load = np.cumsum(1.0 - np.minimum(np.abs(z) / (m + 1), 1.0) + 0.05)
    inner = np.searchsorted(load, load[-1] * np.arange(1, count) / count)
    return sorted({0, *inner.tolist(), planes})
