"""Levenberg-Marquardt of poses on a GPU, in which no step waits for the host.

One evaluation of all starts, then one small kernel that accepts or rejects and one that proposes, as often as there are
steps: the same launches whatever the images hold, so they queue up behind one another, and could be captured as a graph
(three launches a step are not worth the fixed shapes that a graph asks for). A start that is done has a mark in the
GPU's memory; its programs read it and return.

Evaluation: a program takes one start and a stretch of coefficients, 128 at a time, one a thread. A coefficient costs
eight points of eight bytes of the volume, 12 bytes of the image, 16 of the band (shared by all starts) and 266
floating-point operations in 243 instructions; a thread needs 80 registers (counted in what is compiled for sm_90). So
reading the volume, four or five sectors of 32 bytes in places of their own, is likely to be what takes the time. The
21 sums (upper triangle of J J^T, J r, gain) stay in registers, float32, and each stretch writes its own; stretches are
added in float64 in their order (`triton_steps`). So the same bits come out every time, and for an image whatever images
are beside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from halfmap.kernels import reference_poses
from halfmap.kernels.poses import Polished, PolishOptions, PosePrior, Starts
from halfmap.kernels.triton_cells import load_pair, unit_circle, value_and_slopes
from halfmap.kernels.triton_kernel import Kernel, as_pairs, programs_for, rows_of
from halfmap.kernels.triton_pose_prior import POSES, PULL_BACK
from halfmap.kernels.triton_steps import ACCEPT, DROP, PROPOSE, TRY

_BLOCK = 128
_STRETCH = 2048  # coefficients of a program: sixteen blocks, so that adding up threads costs little beside them
_MOST_STRETCHES = 64  # more coefficients make stretches longer, so that their sums stay small beside the images


@triton.jit(do_not_specialize=["m", "box", "count", "stride_y", "stride_c", "starts", "stretch", "stretches"])
def _evaluate(
    sums, volume, coords, kxy, y, c, image, rotation, shift, state, m, box, count, stride_y, stride_c, starts, stretch,
    stretches, BLOCK: tl.constexpr,
):  # fmt: skip
    """sums[stretch, 21, j] of the starts j that are to be tried, at rotation[j, 3, 3] and shift[j, 2].

    Rotations are left perturbations in the image frame, so with g = R grad V, dV = g_x v w_z - g_y u w_z
    + g_z (u w_y - v w_x) at the coefficient (u, v); shifts act through the data, y exp(+2 pi i k.t / n). volume,
    coords, kxy and y are pairs; count: of the coefficients.
    """
    program = tl.program_id(0)
    j = program // stretches
    part = program % stretches
    if tl.load(state + j) != TRY:
        return
    a, t = rotation + j * 9, shift + j * 2
    a00, a01, a02 = tl.load(a).to(tl.float32), tl.load(a + 1).to(tl.float32), tl.load(a + 2).to(tl.float32)
    a10, a11, a12 = tl.load(a + 3).to(tl.float32), tl.load(a + 4).to(tl.float32), tl.load(a + 5).to(tl.float32)
    a20, a21, a22 = tl.load(a + 6).to(tl.float32), tl.load(a + 7).to(tl.float32), tl.load(a + 8).to(tl.float32)
    move_x, move_y = (tl.load(t) / box).to(tl.float32), (tl.load(t + 1) / box).to(tl.float32)
    turn = 6.283185307179586 / box
    b = tl.load(image + j).to(tl.int64)
    h00 = tl.zeros([BLOCK], tl.float32)
    h01, h02, h03, h04, h11, h12, h13, h14 = h00, h00, h00, h00, h00, h00, h00, h00
    h22, h23, h24, h33, h34, h44 = h00, h00, h00, h00, h00, h00
    g0, g1, g2, g3, g4, gain = h00, h00, h00, h00, h00, h00
    stop = tl.minimum((part + 1) * stretch, count)
    for begin in range(part * stretch, stop, BLOCK):
        k = begin + tl.arange(0, BLOCK)
        mine = k < stop
        u, v = load_pair(coords, k, mine)
        kx, ky = load_pair(kxy, k, mine)
        dr, di = load_pair(y, b * stride_y + k, mine)
        ck = tl.load(c + b * stride_c + k, mask=mine, other=0.0)
        pr, pi = unit_circle(kx * move_x + ky * move_y)
        vr, vi, xr, xi, yr, yi, zr, zi = value_and_slopes(
            volume, u * a00 + v * a10, u * a01 + v * a11, u * a02 + v * a12, m
        )
        mr, mi = ck * vr, ck * vi
        gxr, gxi = ck * (a00 * xr + a01 * yr + a02 * zr), ck * (a00 * xi + a01 * yi + a02 * zi)
        gyr, gyi = ck * (a10 * xr + a11 * yr + a12 * zr), ck * (a10 * xi + a11 * yi + a12 * zi)
        gzr, gzi = ck * (a20 * xr + a21 * yr + a22 * zr), ck * (a20 * xi + a21 * yi + a22 * zi)
        dr, di = dr * pr - di * pi, dr * pi + di * pr
        left_r, left_i = dr - mr, di - mi
        gain += (dr + left_r) * mr + (di + left_i) * mi
        j0r, j0i, j1r, j1i = -v * gzr, -v * gzi, u * gzr, u * gzi
        j2r, j2i = v * gxr - u * gyr, v * gxi - u * gyi
        fx, fy = turn * kx, turn * ky
        j3r, j3i, j4r, j4i = fx * mi, -fx * mr, fy * mi, -fy * mr
        h00 = h00 + j0r * j0r + j0i * j0i
        h01 = h01 + j0r * j1r + j0i * j1i
        h02 = h02 + j0r * j2r + j0i * j2i
        h03 = h03 + j0r * j3r + j0i * j3i
        h04 = h04 + j0r * j4r + j0i * j4i
        h11 = h11 + j1r * j1r + j1i * j1i
        h12 = h12 + j1r * j2r + j1i * j2i
        h13 = h13 + j1r * j3r + j1i * j3i
        h14 = h14 + j1r * j4r + j1i * j4i
        h22 = h22 + j2r * j2r + j2i * j2i
        h23 = h23 + j2r * j3r + j2i * j3i
        h24 = h24 + j2r * j4r + j2i * j4i
        h33 = h33 + j3r * j3r + j3i * j3i
        h34 = h34 + j3r * j4r + j3i * j4i
        h44 = h44 + j4r * j4r + j4i * j4i
        g0 = g0 + j0r * left_r + j0i * left_i
        g1 = g1 + j1r * left_r + j1i * left_i
        g2 = g2 + j2r * left_r + j2i * left_i
        g3 = g3 + j3r * left_r + j3i * left_i
        g4 = g4 + j4r * left_r + j4i * left_i
    o = sums + part * 21 * starts.to(tl.int64) + j
    tl.store(o, tl.sum(h00, 0))
    tl.store(o + starts, tl.sum(h01, 0))
    tl.store(o + 2 * starts, tl.sum(h02, 0))
    tl.store(o + 3 * starts, tl.sum(h03, 0))
    tl.store(o + 4 * starts, tl.sum(h04, 0))
    tl.store(o + 5 * starts, tl.sum(h11, 0))
    tl.store(o + 6 * starts, tl.sum(h12, 0))
    tl.store(o + 7 * starts, tl.sum(h13, 0))
    tl.store(o + 8 * starts, tl.sum(h14, 0))
    tl.store(o + 9 * starts, tl.sum(h22, 0))
    tl.store(o + 10 * starts, tl.sum(h23, 0))
    tl.store(o + 11 * starts, tl.sum(h24, 0))
    tl.store(o + 12 * starts, tl.sum(h33, 0))
    tl.store(o + 13 * starts, tl.sum(h34, 0))
    tl.store(o + 14 * starts, tl.sum(h44, 0))
    tl.store(o + 15 * starts, tl.sum(g0, 0))
    tl.store(o + 16 * starts, tl.sum(g1, 0))
    tl.store(o + 17 * starts, tl.sum(g2, 0))
    tl.store(o + 18 * starts, tl.sum(g3, 0))
    tl.store(o + 19 * starts, tl.sum(g4, 0))
    tl.store(o + 20 * starts, tl.sum(gain, 0))


_TYPES = ("*fp32", *("*i64",) * 4, "*fp32", "*i32", "*fp64", "*fp64", "*i32", *("i32",) * 8)
_EVALUATE = Kernel(_evaluate, _TYPES, {"BLOCK": _BLOCK})
KERNELS = (_EVALUATE,)


@dataclass(frozen=True)
class _Poses:
    """rotation float64 [j, 3, 3]; shift float64 [j, 2] in pixels; each contiguous."""

    rotation: Tensor
    shift: Tensor


class _Polish:
    """What a polish holds on the GPU: the poses of its starts, those that are tried, and the launches about them."""

    def __init__(self, starts: Starts, options: PolishOptions, prior: PosePrior | None, stretches: int) -> None:
        count, device = len(starts), starts.rotations.device
        self.image, self.stretches = starts.image.to(torch.int32), stretches
        given = starts.rotations.double(), starts.shifts.double()
        self.at = _Poses(*(torch.empty_like(t, memory_format=torch.contiguous_format) for t in given))
        self.tried = _Poses(*(t.clone(memory_format=torch.contiguous_format) for t in given))
        self.gain = torch.empty(count, dtype=torch.float64, device=device)
        self.precision, self.gradient = self.gain.new_empty(count, 5, 5), self.gain.new_empty(count, 5)
        self.damping = torch.full_like(self.gain, 1e-2)
        self.state = torch.ones(count, dtype=torch.int32, device=device)
        self.sums = torch.empty((stretches, 21, count), dtype=torch.float32, device=device)
        numbers = [options.prior, options.tolerance, options.max_step, options.drop]
        self.informed = int(prior is not None)
        if prior is None:
            about = [self.gain] * 3  # not read
        else:
            numbers += [prior.turn, prior.shift, prior.turn_limit, prior.shift_limit]
            about = [t.double().contiguous() for t in (prior.rotations, prior.places(), prior.fulcrum)]
        # The copy of a few numbers is made at once, and the host does not wait for it.
        self.settings = torch.tensor(numbers, dtype=torch.float64).to(device, non_blocking=True)
        self.about = (self.image, *about, self.settings)
        if prior is not None:
            PULL_BACK.launch(self.programs, self.tried.rotation, self.tried.shift, *self.about, count)

    @property
    def programs(self) -> int:
        return programs_for(len(self.image), POSES)

    @property
    def _all(self) -> tuple[Tensor, ...]:
        return (
            self.at.rotation, self.at.shift, self.gain, self.precision, self.gradient, self.damping, self.state,
            self.tried.rotation, self.tried.shift,
        )  # fmt: skip

    def accept(self, first: bool = False) -> None:
        """Keep the poses that gain, of those whose ``sums`` are there."""
        ACCEPT[self.informed].launch(
            self.programs, *self._all, self.sums, *self.about, int(first), len(self.image), self.stretches
        )

    def propose(self) -> None:
        """Make the next poses to try."""
        PROPOSE[self.informed].launch(self.programs, *self._all, *self.about, len(self.image))

    def drop(self, images: int) -> None:
        """Leave the starts that are out of the running, of so many images."""
        numbers = torch.arange(images + 1, dtype=torch.int32, device=self.image.device)
        edges = torch.searchsorted(self.image, numbers, out_int32=True)
        DROP.launch(images, self.gain, self.state, edges, self.settings)


def refine_poses(
    volume: Tensor, coords: Tensor, kxy: Tensor, y: Tensor, c: Tensor, starts: Starts, options: PolishOptions,
    prior: PosePrior | None = None,
) -> Polished:  # fmt: skip
    """As reference_poses.refine_poses, with the same steps and acceptance rule; double precision is left to that."""
    if volume.dtype != torch.complex64:
        return reference_poses.refine_poses(volume, coords, kxy, y, c, starts, options, prior)
    stretch = _BLOCK * programs_for(max(_STRETCH, programs_for(len(coords), _MOST_STRETCHES)), _BLOCK)
    stretches = max(1, programs_for(len(coords), stretch))
    pairs, c = as_pairs(y.to(volume.dtype)), rows_of(c)
    polish = _Polish(starts, options, prior, stretches)
    arguments = (
        polish.sums, as_pairs(volume.contiguous()), as_pairs(coords.float()), as_pairs(kxy.float()), pairs, c,
        polish.image, polish.tried.rotation, polish.tried.shift, polish.state, volume.shape[2] - 1, options.box,
        len(coords), pairs.stride(0), c.stride(0), len(starts), stretch, stretches,
    )  # fmt: skip

    def evaluate() -> None:
        _EVALUATE.launch(len(starts) * stretches, *arguments)

    evaluate()
    polish.accept(first=True)
    for number in range(options.steps):
        if number == options.look and not math.isinf(options.drop):
            polish.drop(len(y))
        polish.propose()
        evaluate()
        polish.accept()
    return Polished(polish.at.rotation, polish.at.shift, polish.gain, polish.precision)
