"""Kernels: the only place that knows a device.

On the CPU they are compiled by Numba, on a GPU by Triton where it can and has the kernel, else they are plain torch
(`paths`); every function takes and returns tensors and works where its tensors are. ``coords`` are band coordinates
already multiplied by the padding factor; half volumes are complex [z, y, x] with z and y centred and x >= 0
(fourier.transform.half_volume); rotations are RELION's A matrices.
"""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import torch
from torch import Tensor

from halfmap.kernels import reference, reference_poses, reference_symmetry, reference_volume
from halfmap.kernels.evening import Evening
from halfmap.kernels.insertion import check_reach, insert_slices_
from halfmap.kernels.paths import compiled_by_triton, elsewhere
from halfmap.kernels.poses import Polished, PolishOptions, PosePrior, Starts, band_arrays, prior_arrays
from halfmap.kernels.residuals import residual_sums
from halfmap.kernels.search import BestPoints, best_shift, distinct_peaks, score_block
from halfmap.kernels.slopes import slope_sums
from halfmap.kernels.symmetry import (
    GroupParts,
    Lookups,
    group_parts,
    lookups_about_z,
    lookups_free,
    orbit_images,
    profile_at,
    sharpening,
)
from halfmap.kernels.threads import for_ranges, set_threads, thread_count

SMALL_TRANSFORM = 32  # points along an axis

__all__ = [
    "BestPoints",
    "add_kept_bands_",
    "best_shift",
    "compiled_by_triton",
    "distinct_peaks",
    "divided",
    "filtered_pair",
    "insert_slices_",
    "inverse_weight_by_shell",
    "power_difference",
    "project_slices",
    "ratio_difference",
    "refine_poses",
    "residual_sums",
    "score_block",
    "set_threads",
    "shell_products",
    "slope_sums",
    "soft_circles",
    "sums_at",
    "symmetrise_",
    "thread_count",
    "weight_by_shell",
]


def _real_array(t: Tensor) -> np.ndarray:
    """A complex tensor as a numpy array with a trailing axis (real, imaginary); no copy if contiguous."""
    return torch.view_as_real(t.resolve_conj().contiguous()).numpy()


def project_slices(volume: Tensor, coords: Tensor, rotations: Tensor, curvature: Tensor | None = None) -> Tensor:
    """Trilinear slices [r, k] of a half volume [z, y, x] at q = coords[k] . (first two rows of rotations[r]).

    curvature [r]: values lie curvature[r] |coords[k]|^2 above that plane, along the third row; None: on it.
    """
    axes = rotations[:, : 2 if curvature is None else 3].to(volume.real.dtype).contiguous()
    coords = coords.to(volume.real.dtype).contiguous()
    bent = None if curvature is None else curvature.to(volume.real.dtype).contiguous()
    check_reach(coords, bent, volume.shape[2])
    if volume.device.type != "cpu":
        return elsewhere("project_slices", volume.device)(volume, coords, axes, bent)
    from halfmap.kernels.numba_slices import project_range

    out = torch.empty((len(axes), len(coords)), dtype=volume.dtype)
    flat, m, a = _real_array(volume).reshape(-1), volume.shape[2] - 1, axes.numpy()
    o, u, v = torch.view_as_real(out).numpy(), *(part.contiguous().numpy() for part in coords.unbind(1))
    h = None if bent is None else bent.numpy()
    for_ranges(lambda i, j: project_range(o, flat, m, u, v, a, h, i, j), len(axes))
    return out


def refine_poses(
    volume: Tensor, coords: Tensor, kxy: Tensor, y: Tensor, c: Tensor, starts: Starts, options: PolishOptions,
    prior: PosePrior | None = None,
) -> Polished:  # fmt: skip
    """Levenberg-Marquardt on three rotations and two shifts from given starts.

    y[b, k]: whitened data; c[b, k]: whitened CTF, scale included; both at coords[k, 2] of the reference and
    kxy[k, 2] of the image. prior: of the poses of the images b, beside the shift prior of the options. Poses beyond its
    limits are moved back to them.
    """
    if volume.device.type != "cpu":
        polish = elsewhere("refine_poses", volume.device, reference_poses)
        return polish(volume, coords, kxy, y, c, starts, options, prior)
    from halfmap.kernels.numba_poses import refine_range

    real = volume.real.dtype
    rot = starts.rotations.double().clone().contiguous()
    shift = starts.shifts.double().clone().contiguous()
    objective, precision = torch.zeros(len(rot), dtype=torch.float64), torch.zeros((len(rot), 5, 5)).double()
    fixed = (
        _real_array(volume).reshape(-1), volume.shape[2] - 1, band_arrays(coords.to(real), kxy),
        _real_array(y.to(volume.dtype)), c.to(real).contiguous().numpy(),
    )  # fmt: skip
    image = starts.image.numpy()
    groups = np.flatnonzero(np.diff(image, prepend=-1, append=-1))
    results = (rot.numpy(), shift.numpy(), objective.numpy(), precision.numpy())
    settings = tuple(float(value) for value in astuple(options))
    informed = prior_arrays(prior)
    for_ranges(lambda i, j: refine_range(*fixed, groups, image, *results, settings, informed, i, j), len(groups) - 1)
    return Polished(rot, shift, objective, precision)


def symmetrise_(accumulator: Tensor, operators: Tensor, radius: float, padding: int) -> Tensor:
    """Sum accumulator(g q) over the operators g [o, 3, 3] of a point group: sums [z, y, x, 3], zero where |q| > radius.

    The accumulator must be folded. It is used up: the result may lie in it, or it is left with other values. radius: in
    padded units, two points or more within the half volume where the group needs interpolation; ValueError otherwise.
    padding: how many times larger than the map the grid is (kernels.symmetry).
    """
    parts = group_parts(operators)
    if parts.interpolated and int(radius) > accumulator.shape[2] - 3:
        raise ValueError(f"sums up to {accumulator.shape[2] - 1} cannot be interpolated up to {radius:g}")
    if accumulator.device.type != "cpu":
        return reference_symmetry.symmetrise(accumulator, parts, radius, padding)
    from halfmap.kernels.numba_symmetry import even_orbits

    own = accumulator.contiguous()
    images = orbit_images(parts.on_grid, len(own)).numpy()
    # What lies beyond the radius helps to interpolate within it.
    reach = float(radius) + (len(sharpening(padding)) + 2 if parts.interpolated else 0)
    if len(images) > 1 or not parts.interpolated:
        for_ranges(lambda i, j: even_orbits(own.numpy(), images, reach, True, i, j), len(own))
    if parts.interpolated:
        _add_interpolated_(own, images, parts, radius, reach, padding)
    return own


def _add_interpolated_(
    sums: Tensor, images: np.ndarray, parts: GroupParts, radius: float, reach: float, padding: int
) -> None:
    """Add to sums [z, y, x, 3] of the elements on the grid what is interpolated; reach: how far sums are read."""
    from halfmap.kernels.numba_symmetry import (
        add_turned_planes,
        even_orbits,
        flatten_planes,
        sharpen_along_y,
        sharpen_along_z,
    )

    total, count = weight_by_shell(sums, 1, sums.shape[2])
    mean = profile_at(total / count.clamp_min(1), torch.arange(int(reach * reach) + 2))
    means, shares = mean.numpy(), torch.where(mean > 0, 1 / mean, 0).numpy()
    taps = sharpening(padding).to(sums.dtype).numpy()
    o, r = sums.numpy(), torch.empty_like(sums).numpy()

    def add(lookups: Lookups) -> None:
        where = (lookups.turns.numpy(), lookups.offsets.numpy(), lookups.shares.numpy(), means, float(radius))
        for_ranges(lambda i, j: add_turned_planes(o, r, images, *where, i, j), len(o))

    for_ranges(lambda i, j: flatten_planes(r, o, shares, taps, reach, i, j), len(o))
    for_ranges(lambda i, j: sharpen_along_y(r, taps, reach, i, j), len(o))
    add(lookups_about_z(parts.about_z))
    if len(parts.free):
        for_ranges(lambda i, j: sharpen_along_z(r, taps, reach, i, j), len(o))
        add(lookups_free(parts.free, padding))
    for_ranges(lambda i, j: even_orbits(o, images, float(radius), False, i, j), len(o))


def soft_circles(box: int, radii: Tensor, edge: float, centres: Tensor) -> Tensor:
    """Circles float32 [b, y, x] about the pixels centres[b, 2] (x, y): 1 up to radii[b], 0 beyond radii[b] + edge, a
    cosine between. edge > 0; all lengths are in pixels."""
    if radii.device.type != "cpu":
        return reference.soft_circles(box, radii, edge, centres)
    from halfmap.kernels.numba_masks import soft_circles_range

    out = torch.empty((len(radii), box, box))
    o, r, c = out.numpy(), radii.double().numpy(), centres.double().numpy()
    for_ranges(lambda i, j: soft_circles_range(o, r, float(edge), c, i, j), len(radii))
    return out


def filtered_pair(first: Tensor, second: Tensor, size: int, gain1: Tensor, gain2: Tensor) -> Tensor:
    """Filter two real maps and return them as one complex map [z, y, x]: gain1 * first + i gain2 * second.

    first, second: transforms (torch.fft.rfftn) of the maps, each on a grid over the same extent that is as fine as
    ``size`` or finer. gain1, gain2 [k^2]: indexed by the squared frequency (cycles per box), which is an integer. size:
    side of the result's grid.
    """
    gains = [(gain * (size / part.shape[0]) ** 3).to(first.real).contiguous()
             for part, gain in ((first, gain1), (second, gain2))]
    if first.device.type != "cpu":
        return torch.fft.ifftn(reference.combined_transforms(first, second, size, *gains))
    from halfmap.kernels.numba_filters import combine_planes

    out = torch.empty((size, size, size), dtype=first.dtype)
    o, a, b = torch.view_as_real(out).numpy(), _real_array(first), _real_array(second)
    g1, g2 = (gain.numpy() for gain in gains)
    for_ranges(lambda i, j: combine_planes(o, a, b, g1, g2, i, j), size)
    # Small ones in one piece get other last bits from MKL with another number of threads (seen from 9 to 16 points); by
    # planes they do not, but large ones take 1.6 times as long.
    return torch.fft.ifft(torch.fft.ifft2(out), dim=0) if size <= SMALL_TRANSFORM else torch.fft.ifftn(out)


def power_difference(pair: Tensor) -> Tensor:
    """imaginary^2 - real^2 of a complex map [z, y, x]."""
    if pair.device.type != "cpu":
        return pair.imag.square() - pair.real.square()
    from halfmap.kernels.numba_filters import power_difference_planes

    out = torch.empty(pair.shape, dtype=pair.real.dtype)
    o, p = out.numpy(), _real_array(pair)
    for_ranges(lambda i, j: power_difference_planes(o, p, i, j), len(out))
    return out


def add_kept_bands_(out: Tensor, place: Tensor, pair: Tensor, node: int) -> None:
    """Add what is kept of the bands ``node`` and ``node`` + 1 to out [z, y, x], in place.

    pair [z, y, x]: the two bands, as real and imaginary part. place [z, y, x]: position of the local cut-off among the
    nodes, a real number; between nodes cubic convolution interpolates (reference.band_kept).
    """
    if out.device.type != "cpu":
        reference.add_kept_bands_(out, place, pair, node)
        return
    from halfmap.kernels.numba_filters import keep_planes

    o, t, p = out.numpy(), place.contiguous().numpy(), _real_array(pair)
    for_ranges(lambda i, j: keep_planes(o, t, p, node, i, j), len(out))


def shell_products(first: Tensor, second: Tensor, columns: Tensor) -> Tensor:
    """Sums float64 [s, 3] over shells, round(|k|) = s up to Nyquist, of Re a conj(b), |a|^2 and |b|^2.

    first, second: torch.fft.rfftn of two maps, complex [z, y, x // 2 + 1]; columns [x]: how many coefficients of the
    full transform each of a column stands for.
    """
    if first.device.type != "cpu":
        return reference_volume.shell_products(first, second, columns)
    from halfmap.kernels.numba_volume import correlate_planes

    box = len(first)
    out = torch.zeros((box, box // 2 + 1, 3), dtype=torch.float64)
    o, a, b, c = out.numpy(), _real_array(first), _real_array(second), columns.double().numpy()
    shell_of = _shell_of(box)
    for_ranges(lambda i, j: correlate_planes(o, a, b, shell_of, c, i, j), box)
    return out.sum(dim=0)


def sums_at(index: Tensor, values: Tensor, count: int) -> Tensor:
    """Sums float64 [count] of values [..] by their index [..], int64 and below ``count``.

    Beside torch.bincount it waits for no GPU, and repeats to the bit there where torch.use_deterministic_algorithms
    asks for it.
    """
    if values.device.type != "cpu":
        return reference_volume.sums_at(index, values, count)
    return torch.bincount(index.flatten(), values.double().flatten(), count)


def weight_by_shell(sums: Tensor, padding: int, shells: int) -> tuple[Tensor, Tensor]:
    """Sum [s] of the weight over each of the first ``shells`` shells of the half volume, and number [s] of its points.

    sums: [z, y, x, 3] on the half volume. Both results are float64.
    """
    if sums.device.type != "cpu":
        return reference_volume.weight_by_shell(sums, padding, shells)
    from halfmap.kernels.numba_volume import weight_by_shell_planes

    total, count = (torch.zeros((len(sums), shells), dtype=torch.float64) for _ in range(2))
    t, c, s, shell_of = total.numpy(), count.numpy(), sums.contiguous().numpy(), _shell_of(len(sums), padding)
    for_ranges(lambda i, j: weight_by_shell_planes(t, c, s, shell_of, i, j), len(sums))
    return total.sum(dim=0), count.sum(dim=0)


def _shell_of(side: int, padding: int = 1) -> np.ndarray:
    """The shell of a point of a grid of this side, by its squared distance from the centre, in padded units."""
    return np.rint(np.sqrt(np.arange(3 * side**2 // 4 + 4)) / padding).astype(np.int32)


def inverse_weight_by_shell(sums: Tensor, floor: Tensor, padding: int) -> Tensor:
    """Sum [s] of 1 / max(weight, floor[s]) over each shell of the half volume, for all shells in ``floor``; float64."""
    if sums.device.type != "cpu":
        return reference_volume.inverse_weight_by_shell(sums, floor, padding)
    from halfmap.kernels.numba_volume import inverse_weight_by_shell_planes

    total = torch.zeros((len(sums), len(floor)), dtype=torch.float64)
    t, s, shell_of = total.numpy(), sums.contiguous().numpy(), _shell_of(len(sums), padding)
    f = floor.double().cpu().numpy()
    for_ranges(lambda i, j: inverse_weight_by_shell_planes(t, s, f, shell_of, i, j), len(sums))
    return total.sum(dim=0)


def divided(sums: Tensor, ridge: Tensor, floor: Tensor, padding: int, share: Tensor | None = None) -> Tensor:
    """Divide sums [z, y, x, 3] on the half volume: numerator / max(weight + ridge, share weight + floor), complex
    [z, y, x].

    ridge [s], floor [s], share [s] (None: 0): between shells they are linear in the frequency, beyond the last one
    constant.
    """
    if sums.device.type != "cpu":
        return reference_volume.divided(sums, ridge, floor, padding, share)
    from halfmap.kernels.numba_volume import divide_planes

    share = torch.zeros_like(floor) if share is None else share
    out = torch.empty((*sums.shape[:3], 2), dtype=sums.dtype)
    o, s = out.numpy(), sums.contiguous().numpy()
    r, f, part = (profile.double().cpu().numpy() for profile in (ridge, floor, share))
    for_ranges(lambda i, j: divide_planes(o, s, r, f, part, float(padding), i, j), len(sums))
    return torch.view_as_complex(out)


def ratio_difference(
    first: Tensor, second: Tensor, floor: Tensor, padding: int, extent: int, fold: bool, evening: Evening | None = None
) -> Tensor:
    """Difference of numerator / max(weight, floor) between two sums [z, y, x, 3] on half volumes: complex [z, y, x].

    evening: if given, the difference is multiplied by w / max(w, share w + added), where w is the sum of both weights.
    All profiles [s] are linear in the frequency between shells. extent: padded coordinate to which the result reaches;
    it is zero more than one shell beyond the last floor. fold: whether the Friedel mates of the sums' plane x = 0 have
    still to be added.
    """
    if first.device.type != "cpu":
        return reference_volume.ratio_difference(first, second, floor, padding, extent, fold, evening)
    from halfmap.kernels.numba_volume import difference_planes

    side = 2 * extent + 1
    out = torch.empty((side, side, extent + 1, 2), dtype=first.dtype)
    o, a, b = out.numpy(), first.contiguous().numpy(), second.contiguous().numpy()
    evening = evening or Evening(torch.zeros_like(floor), torch.zeros_like(floor))
    f, share, added = (profile.double().cpu().numpy() for profile in (floor, evening.share, evening.added))
    for_ranges(lambda i, j: difference_planes(o, a, b, f, share, added, float(padding), fold, i, j), side)
    return torch.view_as_complex(out)
