"""The global search on NVIDIA's GPUs: products on tensor cores whose best shift is taken in registers.

Images [b], each at all shifts [t], times references [r] are two matrix products, of real and of imaginary parts. A
program takes 64 images, two of their shifts at a time, and 128 references: four tiles of 64 x 128 float32. Their sums
and differences are the scores of a reference and of its mate turned by half a turn. The best of each, and both shifts
in one number, stay in registers as the tiles do, while the program goes from shift to shift; so nothing has to be
moved to find the best, the number of shifts is only made even, and the products [b, t, r], ten to eighty times as
many as scores, never exist.

All loads are 16 bytes and asynchronous, without masks: images and references are copied first to rows of whole tiles,
in which what a step of 16 coefficients takes lies side by side: four parts of an image (256 bytes), two of a
reference. One address serves all of them; with an address for each the tiles did not fit into 255 registers. Counted,
not measured: a coefficient costs a program 8 (128 + 128) bytes for 65,536 operations, so that of the 495 TFLOP/s in
TF32 of an H200's data sheet a second level cache of 5.5 TB/s feeds 36 %. Copies of images are 16 bytes of traffic for
16,384 operations with 4,096 references.

TF32 keeps 10 bits of the factors' mantissas; products are added in float32. Factors are rounded to the nearest here,
because tensor cores cut the rest off, which makes all products less. Emulated against float64 with 60 simulated
images of a receptor in a micelle at all poses within 20 nats of the best (log-likelihoods of 30 to 210 nats), at 15 A
and at 6 A: rounded, scores are off by 0.009 nats (root mean square) and 0.04 at most, cut off by 0.12; the best pose
was the same for all images and the posterior moved by 0.001 in total variation. bfloat16 factors: 0.07, 0.4 at most,
one image in 60 lost 0.1 nats. So TF32 needs no rescoring: the poses found are polished in float32 anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from halfmap.kernels import reference_search
from halfmap.kernels.products import rows_times
from halfmap.kernels.reference_search import Slices
from halfmap.kernels.triton_cells import load_pair
from halfmap.kernels.triton_kernel import Kernel, as_pairs, programs_for

_STEP = 16  # coefficients that a tile takes at a time
_IMAGES, _REFERENCES = 64, 128  # of a program's tiles
SHIFTED_BYTES = 1 << 28  # of shifted images that are held at once


@triton.jit
def _to_tf32(x):
    """The nearest number with 10 bits of mantissa."""
    return ((x.to(tl.int32, bitcast=True) + 4096) & -8192).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["count", "steps"])
def _take_slices(out, real, imaginary, count, steps, STEP: tl.constexpr):
    """out[r, step, 2, STEP] = real[r, k] and imaginary[r, k] in TF32, zero from ``count`` on."""
    program = tl.program_id(0).to(tl.int64)
    row, step = program // steps, program % steps
    k = tl.arange(0, STEP)
    at, inside = row * count + step * STEP + k, step * STEP + k < count
    place = out + program * (2 * STEP) + k
    tl.store(place, _to_tf32(tl.load(real + at, mask=inside, other=0.0)))
    tl.store(place + STEP, _to_tf32(tl.load(imaginary + at, mask=inside, other=0.0)))


@triton.jit(do_not_specialize=["shifts", "count", "steps"])
def _shift_images(out, y, c, phases, shifts, count, steps, STEP: tl.constexpr):
    """out[b, t, step, 4, STEP] = 2 c[b, k] y[b, k] phases[t, k] in TF32, zero from ``count`` on: real and imaginary
    part for the shift 2 t, and both for the next one, or for the same where it is the last. y, phases: pairs."""
    program = tl.program_id(0).to(tl.int64)
    step, pairs = program % steps, (shifts + 1) // 2
    b, t = program // steps // pairs, program // steps % pairs
    k = tl.arange(0, STEP)
    inside = step * STEP + k < count
    at = b * count + step * STEP + k
    yr, yi = load_pair(y, at, inside)
    twice = 2.0 * tl.load(c + at, mask=inside, other=0.0)
    yr, yi = yr * twice, yi * twice
    place = out + program * (4 * STEP) + k
    for one in tl.static_range(2):
        shift = tl.minimum(2 * t + one, shifts - 1)
        pr, pi = load_pair(phases, shift * count + step * STEP + k, inside)
        tl.store(place + 2 * one * STEP, _to_tf32(yr * pr - yi * pi))
        tl.store(place + (2 * one + 1) * STEP, _to_tf32(yr * pi + yi * pr))


@triton.jit
def _better(best, best_mate, at, product, product_im, prior, t):
    """Scores at the shift t in place of worse ones; at: both shifts, that of the mate 16 bits up."""
    own = product + product_im + prior
    at = tl.where(own > best, (at & -65536) | t, at)
    best = tl.maximum(best, own)
    own = product - product_im + prior
    at = tl.where(own > best_mate, (at & 65535) | (t << 16), at)
    return best, tl.maximum(best_mate, own), at


@triton.jit(do_not_specialize=["images", "shifts", "references", "steps", "blocks"])
def _score(
    score, shift, shifted, slices, norm, log_prior, images, shifts, references, steps, blocks,
    IMAGES: tl.constexpr, REFERENCES: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """score, shift [b, 2, r]: the best over shifts of twice the products of real and of imaginary parts, their sum and
    their difference, plus log_prior [t], less norm [b, r].

    shifted, slices: of _shift_images and _take_slices, with rows for whole tiles, whose last may hold anything. blocks:
    of REFERENCES references.
    """
    program = tl.program_id(0)
    tile_b, tile_r = program // blocks, program % blocks
    b, r, k = tl.arange(0, IMAGES), tl.arange(0, REFERENCES), tl.arange(0, STEP)
    # One address serves all four tiles of images, and one both of slices; those within a tile have 32 bits.
    pairs = (shifts + 1) // 2
    slices += tile_r.to(tl.int64) * REFERENCES * steps * (2 * STEP)
    slices = tl.multiple_of(slices, 16)
    shifted += tile_b.to(tl.int64) * IMAGES * pairs * steps * (4 * STEP)
    shifted = tl.multiple_of(shifted, 16)
    column = slices + r[None, :] * steps * (2 * STEP) + k[:, None]
    row = shifted + b[:, None] * (pairs * steps) * (4 * STEP) + k[None, :]
    best = tl.full([IMAGES, REFERENCES], float("-inf"), tl.float32)
    best_mate = tl.full([IMAGES, REFERENCES], float("-inf"), tl.float32)
    at = tl.zeros([IMAGES, REFERENCES], tl.int32)
    for pair in range(pairs):
        real = tl.zeros([IMAGES, REFERENCES], tl.float32)
        imaginary = tl.zeros([IMAGES, REFERENCES], tl.float32)
        next_real = tl.zeros([IMAGES, REFERENCES], tl.float32)
        next_imaginary = tl.zeros([IMAGES, REFERENCES], tl.float32)
        for step in range(steps):
            images_at, slices_at = row + (pair * steps + step) * (4 * STEP), column + step * (2 * STEP)
            part = tl.load(slices_at)
            real = tl.dot(tl.load(images_at), part, real, input_precision="tf32")
            next_real = tl.dot(tl.load(images_at + 2 * STEP), part, next_real, input_precision="tf32")
            part = tl.load(slices_at + STEP)
            imaginary = tl.dot(tl.load(images_at + STEP), part, imaginary, input_precision="tf32")
            next_imaginary = tl.dot(tl.load(images_at + 3 * STEP), part, next_imaginary, input_precision="tf32")
        prior = tl.load(log_prior + 2 * pair)
        best, best_mate, at = _better(best, best_mate, at, real, imaginary, prior, 2 * pair)
        last = tl.minimum(2 * pair + 1, shifts - 1)
        prior = tl.load(log_prior + last)
        best, best_mate, at = _better(best, best_mate, at, next_real, next_imaginary, prior, last)
    kept = (tile_b * IMAGES + b < images)[:, None] & (tile_r * REFERENCES + r < references)[None, :]
    place = b[:, None] * references + r[None, :]
    corner = tile_b.to(tl.int64) * IMAGES * references + tile_r * REFERENCES
    power = tl.load(norm + corner + place, mask=kept, other=0.0)
    corner += tile_b.to(tl.int64) * IMAGES * references
    place += b[:, None] * references
    tl.store(score + corner + place, best - power, mask=kept)
    tl.store(score + corner + references + place, best_mate - power, mask=kept)
    tl.store(shift + corner + place, (at & 65535).to(tl.int16), mask=kept)
    tl.store(shift + corner + references + place, (at >> 16).to(tl.int16), mask=kept)


@dataclass(frozen=True)
class _Staged(Kernel):
    """A kernel whose loads run ahead of its products.

    stages: tiles that are under way at a time, all of them in shared memory.
    """

    stages: int = 3

    @property
    def options(self) -> dict[str, int | bool]:
        """Of the compiler."""
        return super().options | {"num_stages": self.stages}


def _score_kernel(stages: int) -> _Staged:
    types = ("*fp32", "*i16", *("*fp32",) * 4, *("i32",) * 5)
    tile = {"IMAGES": _IMAGES, "REFERENCES": _REFERENCES, "STEP": _STEP}
    return _Staged(_score, types, tile, warps=8, stages=stages)


_LARGE, _SMALL = _score_kernel(6), _score_kernel(3)  # 192 and 96 KB of shared memory at most
_TAKE_SLICES = Kernel(_take_slices, ("*fp32", "*fp32", "*fp32", "i32", "i32"), {"STEP": _STEP}, warps=1)
_SHIFT_IMAGES = Kernel(_shift_images, ("*fp32", "*i64", "*fp32", "*i64", "i32", "i32", "i32"), {"STEP": _STEP}, warps=1)


KERNELS = (_LARGE, _SMALL, _TAKE_SLICES, _SHIFT_IMAGES)


def score_block(y: Tensor, c: Tensor, slices: Slices, phases: Tensor, log_prior: Tensor) -> tuple[Tensor, Tensor]:
    """As reference_search.score_block, which takes double precision."""
    if y.dtype != torch.complex64:
        return reference_search.score_block(y, c, slices, phases, log_prior)
    images, shifts, references, count = len(y), len(phases), len(slices.real), y.shape[1]
    score = torch.empty((images, 2, references), device=y.device)
    shift = torch.empty(score.shape, dtype=torch.int16, device=y.device)
    if not images or not references:
        return score, shift
    steps, blocks, pairs = programs_for(count, _STEP), programs_for(references, _REFERENCES), programs_for(shifts, 2)
    taken = torch.empty((blocks * _REFERENCES, steps, 2, _STEP), device=y.device)
    _TAKE_SLICES.launch(references * steps, taken, slices.real.float().contiguous(), slices.imag.float().contiguous(),
                        count, steps)
    taken[references:] = 0
    kernel, waves, prior = _kernel_for(y.device), as_pairs(phases), log_prior.float().contiguous()
    # The products of powers are few beside those of all shifts: they are done in float32.
    norm = rows_times(c.float().square(), slices.power.float().T)
    tiles = max(1, SHIFTED_BYTES // max(1, _IMAGES * pairs * steps * 16 * _STEP))
    rows = min(tiles, programs_for(images, _IMAGES)) * _IMAGES
    shifted = torch.empty((rows, pairs, steps, 4, _STEP), device=y.device)
    for b in range(0, images, rows):
        some = slice(b, min(images, b + rows))
        size = some.stop - b
        _SHIFT_IMAGES.launch(size * pairs * steps, shifted, as_pairs(y[some].contiguous()),
                             c[some].float().contiguous(), waves, shifts, count, steps)
        shifted[size:] = 0
        kernel.launch(programs_for(size, _IMAGES) * blocks, score[some], shift[some], shifted, taken, norm[some], prior,
                      size, shifts, references, steps, blocks)
    return score, shift


def _kernel_for(device: torch.device) -> _Staged:
    """The variant whose tiles fit into the shared memory of this device."""
    if device.type != "cuda":
        return _LARGE
    room = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)
    return _LARGE if room >= 200_000 else _SMALL
