"""The eight grid points of a half volume around a position: where they lie, and how they are read and added to.

Half volumes are flat here. Two points that are neighbours along x hold four numbers side by side (real and imaginary
part of each), or six where a weight goes with them, so one vector instruction reads or adds to both. Numba makes none
of several reads, so these few functions are written in LLVM's own terms (`Vectors`); LLVM makes of them what the
processor has.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

BLOCK = 256  # positions whose cells stay in the first-level cache


@njit(nogil=True, cache=True)
def place(cell, fraction, sign, u, v, axes, centre, stride_y, stride_z, stride_x):
    """Where the positions u[k], v[k] of a slice lie in a half volume with x >= 0, z and y centred at ``centre``.

    axes[2, 3]: of u and v. Writes cell int64[k]: offset of the grid point (z, y, x) below the position; fraction[3, k]:
    how far beyond it along x, y, z, in grid points; sign[k]: -1 where the position's Friedel mate is taken, 1 else.
    """
    ax, ay, az = axes[0, 0], axes[0, 1], axes[0, 2]
    bx, by, bz = axes[1, 0], axes[1, 1], axes[1, 2]
    one = axes.dtype.type(1)
    for i in range(u.shape[0]):
        x = u[i] * ax + v[i] * bx
        s = one if x >= 0 else -one
        x *= s
        y = s * (u[i] * ay + v[i] * by) + centre
        z = s * (u[i] * az + v[i] * bz) + centre
        below_x, below_y, below_z = np.floor(x), np.floor(y), np.floor(z)
        cell[i] = np.int64(below_z) * stride_z + np.int64(below_y) * stride_y + np.int64(below_x) * stride_x
        fraction[0, i], fraction[1, i], fraction[2, i] = x - below_x, y - below_y, z - below_z
        sign[i] = s


@njit(nogil=True, cache=True)
def place_curved(cell, fraction, sign, u, v, curvature, axes, centre, stride_y, stride_z, stride_x):
    """The same for positions at the height ``curvature`` (u^2 + v^2) along a third axis, axes[2]: axes[3, 3]."""
    ax, ay, az = axes[0, 0], axes[0, 1], axes[0, 2]
    bx, by, bz = axes[1, 0], axes[1, 1], axes[1, 2]
    cx, cy, cz = curvature * axes[2, 0], curvature * axes[2, 1], curvature * axes[2, 2]
    one = axes.dtype.type(1)
    for i in range(u.shape[0]):
        square = u[i] * u[i] + v[i] * v[i]
        x = u[i] * ax + v[i] * bx + square * cx
        s = one if x >= 0 else -one
        x *= s
        y = s * (u[i] * ay + v[i] * by + square * cy) + centre
        z = s * (u[i] * az + v[i] * bz + square * cz) + centre
        below_x, below_y, below_z = np.floor(x), np.floor(y), np.floor(z)
        cell[i] = np.int64(below_z) * stride_z + np.int64(below_y) * stride_y + np.int64(below_x) * stride_x
        fraction[0, i], fraction[1, i], fraction[2, i] = x - below_x, y - below_y, z - below_z
        sign[i] = s


class Vectors:
    """Writes instructions on vectors of four numbers side by side in flat arrays."""

    def __init__(self, context, builder, number):
        self.context, self.builder = context, builder
        self.number = context.get_value_type(number)
        self.align = number.bitwidth // 8

    def array(self, kind, value):
        """The array's members (data, strides ...)."""
        return self.context.make_array(kind)(self.context, self.builder, value)

    def load(self, data, index, width):
        """``width`` numbers from data[index]."""
        kind = ir.VectorType(self.number, width)
        place = self.builder.bitcast(self.builder.gep(data, [index]), kind.as_pointer())
        found = self.builder.load(place)
        found.align = self.align
        return found

    def store(self, value, data, index):
        """Write a vector to data[index]."""
        place = self.builder.bitcast(self.builder.gep(data, [index]), value.type.as_pointer())
        self.builder.store(value, place).align = self.align

    def all(self, number, width):
        """A vector of the same number."""
        none = ir.Constant(ir.VectorType(self.number, width), ir.Undefined)
        first = self.builder.insert_element(none, number, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
        return self.builder.shuffle_vector(first, none, zeros)

    def made_of(self, *numbers):
        """A vector of these numbers."""
        made = ir.Constant(ir.VectorType(self.number, len(numbers)), ir.Undefined)
        for i, number in enumerate(numbers):
            made = self.builder.insert_element(made, number, ir.Constant(ir.IntType(32), i))
        return made

    def add(self, a, b):
        return self.builder.fadd(a, b, flags=("fast",))

    def less(self, a, b):
        return self.builder.fsub(a, b, flags=("fast",))

    def times(self, a, b):
        return self.builder.fmul(a, b, flags=("fast",))

    def between(self, a, b, share):
        """a + share (b - a)."""
        return self.add(a, self.times(share, self.less(b, a)))

    def rows(self, data, offset, stride_y, stride_z):
        """The four rows (x, x + 1) of a cell: at (z, y), (z, y + 1), (z + 1, y) and (z + 1, y + 1)."""
        beyond = self.builder.add(offset, stride_z)
        offsets = (offset, self.builder.add(offset, stride_y), beyond, self.builder.add(beyond, stride_y))
        return tuple(self.load(data, place, 4) for place in offsets)


def _reading(volume, out, made):
    """What an intrinsic consists of that reads the cell around a position: its signature and code.

    Its arguments are (volume, offset, stride_y, stride_z, along_y, along_z, out, i), with volume flat. It writes the
    vectors that made(v, a, b, c, d, along_y, along_z) makes of the cell's rows to out[part, i, :], one after the other.
    """
    number = volume.dtype
    signature = types.void(volume, types.intp, types.intp, types.intp, number, number, out, types.intp)

    def code(context, builder, signature, arguments):
        flat, offset, stride_y, stride_z, along_y, along_z, out, i = arguments
        v = Vectors(context, builder, number)
        rows = v.rows(v.array(signature.args[0], flat).data, offset, stride_y, stride_z)
        found = made(v, *rows, v.all(along_y, 4), v.all(along_z, 4))
        target = v.array(signature.args[6], out)
        numbers = builder.udiv(cgutils.unpack_tuple(builder, target.strides)[0], ir.Constant(i.type, v.align))
        first = builder.mul(i, ir.Constant(i.type, 4))
        for part, row in enumerate(found):
            v.store(row, target.data, builder.add(first, builder.mul(numbers, ir.Constant(i.type, part))))
        return context.get_dummy_value()

    return signature, code


@intrinsic
def _read_row(typingctx, volume, offset, stride_y, stride_z, along_y, along_z, out, i):
    """out[0, i, :] = the row (x, x + 1) at the position's y and z. out[1, k, 4]."""

    def made(v, a, b, c, d, along_y, along_z):
        return (v.between(v.between(a, b, along_y), v.between(c, d, along_y), along_z),)

    return _reading(volume, out, made)


@intrinsic
def _read_row_and_slopes(typingctx, volume, offset, stride_y, stride_z, along_y, along_z, out, i):
    """out[:, i, :] = the row (x, x + 1) at the position's y and z, and its derivatives to y and z. out[3, k, 4]."""

    def made(v, a, b, c, d, along_y, along_z):
        slope, slope_beyond = v.less(b, a), v.less(d, c)
        here, beyond = v.add(a, v.times(along_y, slope)), v.add(c, v.times(along_y, slope_beyond))
        to_z = v.less(beyond, here)
        return v.add(here, v.times(along_z, to_z)), v.between(slope, slope_beyond, along_z), to_z

    return _reading(volume, out, made)


@njit(nogil=True, cache=True)
def read_rows(out, volume, cell, fraction, count, stride_y, stride_z):
    """out[0, k, 4] = the rows (real and imaginary part at x, then at x + 1) at the y and z of ``count`` positions."""
    for i in range(count):
        _read_row(volume, cell[i], stride_y, stride_z, fraction[1, i], fraction[2, i], out, i)


@njit(nogil=True, cache=True)
def read_rows_and_slopes(out, volume, cell, fraction, count, stride_y, stride_z):
    """out[0, k, 4] as `read_rows`, and out[1, k, 4], out[2, k, 4] its derivatives to y and z."""
    for i in range(count):
        _read_row_and_slopes(volume, cell[i], stride_y, stride_z, fraction[1, i], fraction[2, i], out, i)
