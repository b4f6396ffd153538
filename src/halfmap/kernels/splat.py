"""Atoms onto pixels: sums of isotropic Gaussians, evaluated exactly at the points of a grid.

A cloud of atoms is xyz[a, 3] (A), weight[a, t] and exponent[a, t] (1/A^2). In three dimensions term t of atom
a is weight * (exponent / pi)^(3/2) * exp(-exponent r^2), which integrates to its weight. Its projection along z
is the two-dimensional Gaussian of the same weight and exponent. A Gaussian is a product of one-dimensional ones,
so an atom costs a few exponentials for the edges of its window, and one multiplication per point and term. Along
a row the exponentials follow by recurrence: exp(-e (d + h)^2) = exp(-e d^2) * q, where q shrinks by
exp(-2 e h^2) each step.

The window of an atom ends where its widest term has fallen to exp(-CUT) of its peak. At most that fraction of
the atom's weight is lost in projection.
"""

from __future__ import annotations

import numpy as np
from numba import njit

CUT = 10.0  # exp(-10) = 4.5e-5


@njit(nogil=True, cache=True, fastmath=True)
def _window(position, exponents, spacing, profile):
    """Fill profile[t, j] = exp(-exponents[t] d_j^2) at the grid points around `position`.

    position: in steps of the grid. spacing: of the grid, in A. Returns the first grid index and the number of
    points.
    """
    narrowest = exponents[0]
    for t in range(1, exponents.shape[0]):
        narrowest = min(narrowest, exponents[t])
    reach = np.sqrt(CUT / narrowest) / spacing
    first = int(np.ceil(position - reach))
    count = min(int(np.floor(position + reach)) - first + 1, profile.shape[1])
    d = (first - position) * spacing
    for t in range(exponents.shape[0]):
        e = exponents[t]
        value = np.exp(-e * d * d)
        ratio = np.exp(-e * spacing * (2.0 * d + spacing))
        step = np.exp(-2.0 * e * spacing * spacing)
        for j in range(count):
            profile[t, j] = value
            value *= ratio
            ratio *= step
    return first, count


@njit(nogil=True, cache=True)
def _profile_length(exponent, spacing):
    return int(2.0 * np.sqrt(CUT / exponent.min()) / spacing) + 3


@njit(nogil=True, cache=True, fastmath=True)
def splat_image(image, centre, xyz, weight, exponent, rotation, shift, spacing):
    """Add the projection of a cloud to image[y, x]; the origin is at [centre, centre], points are `spacing` A
    apart.

    Atoms move to rotation[3, 3] @ xyz + shift[2] (A) and are projected along z. Values are in weight per square A.
    """
    height, width = image.shape
    terms = weight.shape[1]
    length = _profile_length(exponent, spacing)
    px = np.zeros((terms, length), np.float32)
    py = np.zeros((terms, length), np.float32)
    row = np.zeros(length, np.float32)
    for a in range(xyz.shape[0]):
        x, y, z = xyz[a, 0], xyz[a, 1], xyz[a, 2]
        u = rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2] * z + shift[0]
        v = rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2] * z + shift[1]
        x0, nx = _window(u / spacing + centre, exponent[a], spacing, px)
        y0, ny = _window(v / spacing + centre, exponent[a], spacing, py)
        left, right = max(0, -x0), min(nx, width - x0)
        for j in range(max(0, -y0), min(ny, height - y0)):
            row[left:right] = 0.0
            for t in range(terms):
                factor = np.float32(weight[a, t] * exponent[a, t] / np.pi) * py[t, j]
                for i in range(left, right):
                    row[i] += factor * px[t, i]
            for i in range(left, right):
                image[y0 + j, x0 + i] += row[i]


@njit(nogil=True, cache=True, fastmath=True)
def splat_planes(planes, first_plane, centre, xyz, weight, exponent, spacing):
    """Add the density of a cloud to planes[z, y, x]: the planes from `first_plane` on of a cube.

    The cube's voxel [centre, centre, centre] is the origin, its points are `spacing` A apart. Values are in weight
    per cubic A.
    """
    depth, height, width = planes.shape
    terms = weight.shape[1]
    length = _profile_length(exponent, spacing)
    px = np.zeros((terms, length), np.float32)
    py = np.zeros((terms, length), np.float32)
    pz = np.zeros((terms, length), np.float32)
    for a in range(xyz.shape[0]):
        z0, nz = _window(xyz[a, 2] / spacing + centre - first_plane, exponent[a], spacing, pz)
        if z0 >= depth or z0 + nz <= 0:
            continue
        x0, nx = _window(xyz[a, 0] / spacing + centre, exponent[a], spacing, px)
        y0, ny = _window(xyz[a, 1] / spacing + centre, exponent[a], spacing, py)
        for k in range(max(0, -z0), min(nz, depth - z0)):
            for j in range(max(0, -y0), min(ny, height - y0)):
                for t in range(terms):
                    factor = np.float32(weight[a, t] * (exponent[a, t] / np.pi) ** 1.5) * pz[t, k] * py[t, j]
                    for i in range(max(0, -x0), min(nx, width - x0)):
                        planes[z0 + k, y0 + j, x0 + i] += factor * px[t, i]
