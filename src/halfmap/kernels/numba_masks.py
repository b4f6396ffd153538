"""Masks of images on the CPU."""

from __future__ import annotations

import math

from numba import njit


@njit(nogil=True, cache=True)
def soft_circles_range(out, radii, edge, centres, start, stop):
    """Fill out[b, y, x] for images b in [start, stop); see kernels.soft_circles. edge > 0."""
    for b in range(start, stop):
        radius, last = radii[b], radii[b] + edge
        for y in range(out.shape[1]):
            dy = (y - centres[b, 1]) ** 2
            for x in range(out.shape[2]):
                square = dy + (x - centres[b, 0]) ** 2
                if square <= radius * radius:
                    out[b, y, x] = 1.0
                elif square >= last * last:
                    out[b, y, x] = 0.0
                else:
                    out[b, y, x] = 0.5 + 0.5 * math.cos(math.pi * (math.sqrt(square) - radius) / edge)
