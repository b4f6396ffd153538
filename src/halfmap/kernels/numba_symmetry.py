"""Sums over a point group on the CPU; kernels/symmetry.py says how.

Sums are float arrays [z, y, x, 3] (numerator re, im, weight) on the half volume: z and y are centred at m, x = 0..m.
The mate of a point (x, y, z) of the other half is at (-x, -y, -z), its numerator the complex conjugate.

Orbits are given by ``images`` [h, 6] (kernels.symmetry.orbit_images), one row for every element h that maps the grid
onto itself: the x of h q is the product of q with the first three numbers, its place in the array, counted from that of
the origin, the product with the last three. One point of an orbit is its first, and is worked on for all of them.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from halfmap.kernels.numba_cells import Vectors, place

ORBIT_BLOCK = 16  # side of the cubes whose orbits are worked on at a time
BLOCK = 32  # the same for points that are looked up
TINY = 1e-30  # for sums of two weights whose mean is one


@njit(nogil=True, cache=True)
def _last_x(y, z, radius, m):
    """The last x <= m of the row (y, z) within the radius; -1 where there is none."""
    left = radius * radius - y * y - z * z
    return min(m, int(np.sqrt(left))) if left >= 0.0 else -1


@njit(nogil=True, cache=True)
def _first_points(found, images, y, z, x0, x1, width):
    """Write those of x0 <= x < x1 to found whose point (x, y, z) is the first of its orbit; how many they are."""
    count = 0
    own = y * width + z * width * (2 * width - 1)
    for x in range(x0, x1):
        first = True
        for g in range(images.shape[0]):
            along = images[g, 0] * x + images[g, 1] * y + images[g, 2] * z
            at = images[g, 3] * x + images[g, 4] * y + images[g, 5] * z
            if along < 0 or (along == 0 and at > 0):  # on the plane x = 0 both mates are stored
                at = -at
            if at < own + x:
                first = False
                break
        if first:
            found[count] = x
            count += 1
    return count


@njit(nogil=True, cache=True)
def _write_orbit(flat, images, x, y, z, own, centre, re, im, weight):
    """Write a sum to all points of the orbit of (x, y, z). It is real where the point's mate is one of them."""
    for g in range(images.shape[0]):
        along = images[g, 0] * x + images[g, 1] * y + images[g, 2] * z
        at = images[g, 3] * x + images[g, 4] * y + images[g, 5] * z
        if along == -x and at == -own:
            im = 0.0
    for g in range(images.shape[0]):
        along = images[g, 0] * x + images[g, 1] * y + images[g, 2] * z
        at = images[g, 3] * x + images[g, 4] * y + images[g, 5] * z
        if along >= 0:
            there = flat[centre + at]
            there[0], there[1], there[2] = re, im, weight
        if along <= 0:
            there = flat[centre - at]
            there[0], there[1], there[2] = re, -im, weight


@njit(nogil=True, cache=True)
def _add_orbit(value, flat, images, x, y, z, centre):
    """Add the sums [3] at the images of a point, one for each element, to value [3]."""
    for g in range(images.shape[0]):
        at = images[g, 3] * x + images[g, 4] * y + images[g, 5] * z
        if images[g, 0] * x + images[g, 1] * y + images[g, 2] * z < 0:
            there = flat[centre - at]
            value[1] -= there[1]
        else:
            there = flat[centre + at]
            value[1] += there[1]
        value[0] += there[0]
        value[2] += there[2]


@njit(nogil=True, cache=True)
def even_orbits(sums, images, radius, add, z0, z1):
    """Make all points of an orbit alike, in place, and 0 where |q| > radius, for orbits whose first point is in the
    planes z0 <= z < z1.

    add: they become sums(q) = sum over elements h of sums(h q); sums [z, y, x, 3] must be folded (Hermitian on x = 0).
    Otherwise they become what the first point is.
    """
    side, width = sums.shape[0], sums.shape[2]
    m, flat = width - 1, sums.reshape(-1, 3)
    centre = (m * side + m) * width
    found, value = np.empty(ORBIT_BLOCK, np.int64), np.empty(3)
    across, along_x = -(-side // ORBIT_BLOCK), -(-width // ORBIT_BLOCK)
    # Block by block, so that what belongs to a block's orbits stays in the cache.
    for block in range(-(-(z1 - z0) // ORBIT_BLOCK) * across * along_x):
        zb = z0 + block // (across * along_x) * ORBIT_BLOCK
        yb, xb = block // along_x % across * ORBIT_BLOCK, block % along_x * ORBIT_BLOCK
        for zi in range(zb, min(zb + ORBIT_BLOCK, z1)):
            for yi in range(yb, min(yb + ORBIT_BLOCK, side)):
                y, z = yi - m, zi - m
                stop = _last_x(y, z, radius, m) + 1
                for x in range(max(xb, stop), min(xb + ORBIT_BLOCK, width)):
                    for c in range(3):
                        sums[zi, yi, x, c] = 0.0
                # The identity alone moves nothing but the mates of the plane x = 0.
                last = min(xb + ORBIT_BLOCK, stop) if images.shape[0] > 1 else min(1, stop)
                for i in range(_first_points(found, images, y, z, xb, last, width)):
                    x = found[i]
                    for c in range(3):  # an assignment of whole arrays takes Numba seconds to compile
                        value[c] = 0.0 if add else sums[zi, yi, x, c]
                    if add:
                        _add_orbit(value, flat, images, x, y, z, centre)
                    own = x + y * width + z * width * side
                    _write_orbit(flat, images, x, y, z, own, centre, value[0], value[1], value[2])


@njit(nogil=True, cache=True)
def _exchange(out, here, there, tap):
    """Add to the numerators out [x, 3] what sums [x, 3] gain from others: t h (r_there - r_here)."""
    twice, least = here.dtype.type(2.0) * tap, here.dtype.type(TINY)
    for x in range(out.shape[0]):
        w, v = here[x, 2], there[x, 2]
        share = twice / (w + v + least)
        out[x, 0] += share * (there[x, 0] * w - here[x, 0] * v)
        out[x, 1] += share * (there[x, 1] * w - here[x, 1] * v)


@njit(nogil=True, cache=True)
def flatten_planes(out, sums, shares, taps, radius, z0, z1):
    """out = sums times shares [q^2], sharpened along x, for planes z0 <= z < z1 and |q| <= radius.

    Sums beyond the radius count as 0; nothing is written there.
    """
    m, reach = sums.shape[2] - 1, taps.shape[0]
    row = np.zeros((m + 1 + 2 * reach, 3), sums.dtype)
    for z in range(z0, z1):
        for y in range(sums.shape[1]):
            plane = (z - m) * (z - m) + (y - m) * (y - m)
            count = _last_x(y - m, z - m, radius, m) + 1
            for x in range(count):
                share = shares[plane + x * x]
                for c in range(3):
                    row[reach + x, c] = sums[z, y, x, c] * share
                if 0 < x <= reach:
                    row[reach - x, 0] = sums[2 * m - z, 2 * m - y, x, 0] * share
                    row[reach - x, 1] = -sums[2 * m - z, 2 * m - y, x, 1] * share
                    row[reach - x, 2] = sums[2 * m - z, 2 * m - y, x, 2] * share
            here, found = row[reach : reach + count], out[z, y, :count]
            for c in range(3):
                for x in range(reach - count + 1):
                    row[x, c] = 0.0
                for x in range(reach + count, 2 * reach + count):
                    row[x, c] = 0.0
                for x in range(count):
                    found[x, c] = here[x, c]
            for k in range(1, reach + 1):
                _exchange(found, here, row[reach - k :], taps[k - 1])
                _exchange(found, here, row[reach + k :], taps[k - 1])


@njit(nogil=True, cache=True)
def _exchange_both(low, high, here, there, tap):
    """Add to the numerators low [x, 3] what sums here [x, 3] gain from those there, and take it from high [x, 3]."""
    twice, least = here.dtype.type(2.0) * tap, here.dtype.type(TINY)
    for x in range(here.shape[0]):
        w, v = here[x, 2], there[x, 2]
        share = twice / (w + v + least)
        re = share * (there[x, 0] * w - here[x, 0] * v)
        im = share * (there[x, 1] * w - here[x, 1] * v)
        low[x, 0] += re
        low[x, 1] += im
        high[x, 0] -= re
        high[x, 1] -= im


@njit(nogil=True, cache=True)
def _sharpen_lines(values, taps, across, radius):
    """Sharpen values [l, x, 3] along l, in place, within the radius of the origin, from which the lines' plane is
    ``across`` away."""
    m, reach = values.shape[1] - 1, taps.shape[0]
    kept = np.empty((reach + 1, m + 1, 3), values.dtype)  # lines as they were, at their index modulo its length
    first = m - _last_x(0, across, radius, m)
    if first > m:
        return
    stop = 2 * m + 1 - first
    for at in range(first - reach, stop):
        new = at + reach
        if new < stop:
            count = _last_x(new - m, across, radius, m) + 1
            for x in range(count):
                for c in range(3):
                    kept[new % (reach + 1), x, c] = values[new, x, c]
        if at < first:
            continue
        count = _last_x(at - m, across, radius, m) + 1
        here = kept[at % (reach + 1)]
        for k in range(1, min(reach, stop - 1 - at) + 1):
            both = min(count, _last_x(at + k - m, across, radius, m) + 1)
            _exchange_both(values[at], values[at + k], here[:both], kept[(at + k) % (reach + 1)], taps[k - 1])


@njit(nogil=True, cache=True)
def sharpen_along_y(values, taps, radius, z0, z1):
    """Sharpen values [z, y, x, 3] along y where |q| <= radius, in place, for planes z0 <= z < z1."""
    for z in range(z0, z1):
        _sharpen_lines(values[z], taps, z - values.shape[2] + 1, radius)


@njit(nogil=True, cache=True)
def sharpen_along_z(values, taps, radius, y0, y1):
    """Sharpen values [z, y, x, 3] along z where |q| <= radius, in place, for y0 <= y < y1."""
    for y in range(y0, y1):
        _sharpen_lines(values[:, y], taps, y - values.shape[2] + 1, radius)


@intrinsic
def _add_cell(typingctx, values, offset, stride_y, stride_z, fx, fy, fz, sign, share, out, i):
    """Add to out[i, :6] the two points (re, im, weight) along x of the cell at values[offset], interpolated to its
    fractions fy and fz and times their shares at fx. out [n, 8]: the last two numbers mean nothing.

    Both terms of an interpolation are multiplied and added, so that no small number is lost beside a large one; the
    numbers must not be told to reassociate, or LLVM makes a + f (b - a) of them.
    """
    number = values.dtype
    signature = types.void(values, types.intp, types.intp, types.intp, number, number, number, number, number, out,
                           types.intp)

    def code(context, builder, signature, arguments):
        flat, offset, stride_y, stride_z, fx, fy, fz, sign, share, out, i = arguments
        v = Vectors(context, builder, number)
        one = ir.Constant(v.number, 1.0)

        def chosen(first, second, lanes):
            mask = ir.Constant(ir.VectorType(ir.IntType(32), 8), [8 * lane for lane in lanes])
            return builder.shuffle_vector(v.all(first, 8), v.all(second, 8), mask)

        def between(a, b, fraction):
            low, high = v.all(builder.fsub(one, fraction), 8), v.all(fraction, 8)
            return builder.fadd(builder.fmul(low, a), builder.fmul(high, b, flags=("contract",)), flags=("contract",))

        data = v.array(signature.args[0], flat).data
        beyond = builder.add(offset, stride_z)
        places = (offset, builder.add(offset, stride_y), beyond, builder.add(beyond, stride_y))
        a, b, c, d = (v.load(data, at, 8) for at in places)
        row = between(between(a, b, fy), between(c, d, fy), fz)
        low = builder.fmul(builder.fsub(one, fx), share)
        along = chosen(low, builder.fmul(fx, share), (0, 0, 0, 1, 1, 1, 1, 1))
        factor = builder.fmul(along, chosen(one, sign, (0, 1, 0, 0, 1, 0, 0, 0)))
        target, first = v.array(signature.args[9], out).data, builder.mul(i, ir.Constant(i.type, 8))
        added = builder.fadd(v.load(target, first, 8), builder.fmul(factor, row, flags=("contract",)),
                             flags=("contract",))
        v.store(added, target, first)
        return context.get_dummy_value()

    return signature, code


@njit(nogil=True, cache=True)
def add_turned_planes(out, values, images, turns, offsets, shares, means, radius, z0, z1):
    """Add the values at g q + d, times their share and means [q^2], to out for every turn g and offset d.

    For the first points of orbits (images) with |q| <= radius in planes z0 <= z < z1. out and values [z, y, x, 3]; the
    latter as flatten_planes makes them, two points beyond the radius or more. See kernels.symmetry.Lookups.
    """
    side, width = out.shape[0], out.shape[2]
    m, flat, number = width - 1, values.reshape(-1), values.dtype.type
    stride_y, stride_z = 3 * width, 3 * width * side
    found, u, one = np.empty(BLOCK, np.int64), np.empty(BLOCK), np.ones(BLOCK)
    axes, cell = np.empty((2, 3)), np.empty(BLOCK, np.int64)
    fraction, sign = np.empty((3, BLOCK), values.dtype), np.empty(BLOCK, values.dtype)
    total = np.empty((BLOCK, 8), values.dtype)
    across, along = -(-side // BLOCK), -(-width // BLOCK)
    # Block by block, so that what a turned block needs stays in the cache.
    for block in range(-(-(z1 - z0) // BLOCK) * across * along):
        zb = z0 + block // (across * along) * BLOCK
        yb, xb = block // along % across * BLOCK, block % along * BLOCK
        for zi in range(zb, min(zb + BLOCK, z1)):
            for yi in range(yb, min(yb + BLOCK, side)):
                y, z = yi - m, zi - m
                stop = _last_x(y, z, radius, m) + 1
                count = _first_points(found, images, y, z, xb, min(xb + BLOCK, stop), width)
                for i in range(count):
                    u[i] = found[i]
                    total[i] = 0.0
                for g in range(turns.shape[0] if count else 0):
                    for axis in range(3):
                        axes[0, axis] = turns[g, axis, 0]
                        axes[1, axis] = turns[g, axis, 1] * y + turns[g, axis, 2] * z + offsets[g, axis]
                    place(cell, fraction, sign, u[:count], one, axes, m, stride_y, stride_z, 3)
                    for i in range(count):
                        _add_cell(flat, cell[i], stride_y, stride_z, fraction[0, i], fraction[1, i], fraction[2, i],
                                  sign[i], number(shares[g]), total, i)
                for i in range(count):
                    x = found[i]
                    mean, point = means[x * x + y * y + z * z], out[zi, yi, x]
                    for c in range(3):
                        point[c] += mean * (total[i, c] + total[i, c + 3])
