"""Soft assignment: every image's posterior over a whole grid of slices and shifts, and the sums that it leaves there.

Both steps of an EM iteration are matrix products here. The scores of score.py become weights

    w[b, t, r] proportional to exp(tempering . loglik[b, t, r]) prior[t],      sum over t and r: the mass of the image,

and the sums of the M-step, on the slices themselves, are the transpose of these weights times the data:

    numerator[r, k] = sum over b, t of w c y, shifted back by t;      weight[r, k] = sum over b, t of w c^2.

A map is then made of slices that know their place (halfmap.reconstruction), a class mean of turned images; neither
sees an image again. A slice turned by 180 degrees in plane is the complex conjugate of its mate, so one product serves
both: the real part of the data takes the sum of their weights, the imaginary part the difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap.expectation.posterior import particle_probability
from halfmap.expectation.score import ReferenceSlices, score_grid
from halfmap.kernels.products import in_tiles, rows_times

WEIGHTS_AT_ONCE = 1 << 23  # posterior weights of some images on the whole grid
BLOCK = 1024  # slices whose scores are one product
SPARSE_IMAGES = 32  # images whose sharp posteriors are made together
UNHEARD, NOTHING = 25.0, 50.0  # nats below the best: a slice is left out, a weight is as good as 0
MANY_ACTIVE = 0.5  # of the slices; with more there is nothing to gain


@dataclass(frozen=True)
class GridSums:
    """Sums of the M-step on slices [r, k], float32: real and imaginary part of the numerator, and weight. mass
    float64 [r]: of images, the mates turned by 180 degrees included."""

    real: Tensor
    imag: Tensor
    weight: Tensor
    mass: Tensor

    @staticmethod
    def zeros(slices: int, coefficients: int, device: torch.device | None = None) -> GridSums:
        """Nothing assigned yet."""
        real, imag, weight = torch.zeros((3, slices, coefficients), device=device)
        return GridSums(real, imag, weight, torch.zeros(slices, dtype=torch.float64, device=device))


@dataclass(frozen=True)
class SoftPoses:
    """What a soft assignment says of images [b].

    log_evidence: of a particle relative to noise alone, the mean of the likelihood ratio over grid and prior (under the
    tempering). present: probability that there is a particle. index: best point of the grid, those from r on being
    slices r less turned by 180 degrees in plane; shift: its shift, a place in the grid of shifts; score: its
    log-likelihood with prior, in nats, not tempered; weight: its posterior weight.
    """

    log_evidence: Tensor
    present: Tensor
    index: Tensor
    shift: Tensor
    score: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Softness:
    """How a posterior is made of log-likelihoods.

    tempering: they are multiplied by it. share: of the images that hold a particle; None: all do. sharp: whether most
    of the grid holds nothing of an image's posterior, which is then quicker; what is left out is below exp(-UNHEARD)
    of the best.
    """

    tempering: float = 1.0
    share: float | None = None
    sharp: bool = False


def assign_(
    y: Tensor, c: Tensor, slices: ReferenceSlices, phases: Tensor, log_prior: Tensor, sums: GridSums,
    softness: Softness | None = None, log_share: Tensor | None = None,
) -> SoftPoses:  # fmt: skip
    """The posterior of whitened images y [b, k] under contrast c [b, k] over slices [r] and shifts, added to ``sums``.

    phases [t, k] undo the shifts (`score.shift_phases`); log_prior [t]: of the shifts, up to a constant. log_share [r]:
    log prior of each slice, up to a constant; None: all alike.
    """
    softness = softness or Softness()
    count, shifts = len(slices), len(phases)
    each = y.real.new_zeros(count) if log_share is None else log_share.to(y.real)
    prior = torch.log_softmax(log_prior.to(y.real), dim=0)[:, None] + torch.log_softmax(each, dim=0) - math.log(2)
    parts = []
    step = max(1, min(SPARSE_IMAGES if softness.sharp else len(y), WEIGHTS_AT_ONCE // (2 * shifts * count)))
    for b in range(0, len(y), step):
        some = slice(b, b + step)
        if softness.sharp:
            parts.append(_assign_sparsely_(y[some], c[some], slices, phases, prior, sums, softness))
        else:
            parts.append(_assign_part_(y[some], c[some], slices, phases, prior, sums, softness))
    return SoftPoses(*(torch.cat(columns) for columns in zip(*(vars(part).values() for part in parts), strict=True)))


def _assign_sparsely_(
    y: Tensor, c: Tensor, slices: ReferenceSlices, phases: Tensor, prior: Tensor, sums: GridSums, softness: Softness
) -> SoftPoses:
    """As `_assign_part_`, for posteriors of which most slices hold nothing: those are found by their best shift alone,
    and only the others are given weights."""
    count, tempering = len(slices), softness.tempering
    score, _ = score_grid(y, c, slices, phases, (prior[:, 0] - prior[0, 0]) / tempering)
    score = score.view(len(y), 2, count).mul_(tempering).add_(prior[0])
    heard = score > score.amax(dim=(1, 2), keepdim=True) - UNHEARD
    active = torch.nonzero(heard.any(dim=1).any(dim=0))[:, 0]
    if len(active) > MANY_ACTIVE * count:
        return _assign_part_(y, c, slices, phases, prior, sums, softness)
    few = ReferenceSlices(slices.rotations[active], slices.real[active], slices.imag[active], slices.power[active])
    part = GridSums.zeros(len(active), y.shape[1], y.device)
    found = _assign_part_(y, c, few, phases, prior[:, active], part, softness)
    for name in ("real", "imag", "weight", "mass"):
        getattr(sums, name).index_add_(0, active, getattr(part, name))
    turned = found.index >= len(active)
    index = active[found.index % len(active)] + torch.where(turned, count, 0)
    return replace(found, index=index)


def _assign_part_(
    y: Tensor, c: Tensor, slices: ReferenceSlices, phases: Tensor, prior: Tensor, sums: GridSums, softness: Softness
) -> SoftPoses:
    """As `assign_`, for images whose posterior is held at once. prior: log [t, r], a sum of one of t and one of r."""
    images, shifts, count = len(y), len(phases), len(slices)
    real, imag = _shifted(c * y.real, c * y.imag, phases)
    squared = c.square()
    tempering = softness.tempering
    real_rows, imag_rows = in_tiles(2 * tempering * real), in_tiles(2 * tempering * imag)
    plus, minus = (y.real.new_empty((images * shifts, count)) for _ in range(2))
    for r in range(0, count, BLOCK):  # a product of this width stays in the cache until it is used
        part = slice(r, min(count, r + BLOCK))
        first = (real_rows @ slices.real[part].T)[: len(real)]
        second = (imag_rows @ slices.imag[part].T)[: len(imag)]
        base = (-tempering * rows_times(squared, slices.power[part].T))[:, None] + prior[:, part]
        first += base.flatten(0, 1)
        torch.add(first, second, out=plus[:, part])
        torch.sub(first, second, out=minus[:, part])
    plus, minus = plus.view(images, -1), minus.view(images, -1)
    (best, at), (other, there) = plus.max(dim=1), minus.max(dim=1)
    top = torch.maximum(best, other)
    for weights in (plus, minus):
        weights.sub_(top[:, None]).clamp_(min=-NOTHING).exp_()  # no denormal numbers: they are slow to multiply
    total = _row_sums(plus) + _row_sums(minus)
    log_evidence = top.double() + total.log()
    present = torch.ones_like(log_evidence)
    if softness.share is not None:
        present = particle_probability(log_evidence, softness.share)
    mass = (present / total).to(plus.dtype)[:, None]
    place = torch.where(other > best, there, at)
    index, shift = place % count, place // count
    log_prior = prior[shift, index]
    found = SoftPoses(log_evidence, present, torch.where(other > best, index + count, index), shift,
                      (top - log_prior) / tempering + log_prior, (1 / total))
    plus.mul_(mass), minus.mul_(mass)
    together = plus.add_(minus).view(images, shifts, count)
    difference = torch.sub(together, minus.mul_(2).view_as(together), out=minus.view_as(together))
    sums.real.addmm_(together.flatten(0, 1).T, real)
    sums.imag.addmm_(difference.flatten(0, 1).T, imag)
    each = together.sum(dim=1)
    sums.weight.addmm_(each.T, squared)
    sums.mass.add_(each.sum(dim=0, dtype=torch.float64))
    return found


def _shifted(real: Tensor, imag: Tensor, phases: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part [b t, k] of images, whose parts are real and imag [b, k], times phases [t, k].

    Of real products: where the part of an array that a thread has ends, complex ones may be rounded otherwise.
    """
    cos, sin = phases.real.contiguous(), phases.imag.contiguous()
    real, imag = real[:, None], imag[:, None]
    return (real * cos - imag * sin).flatten(0, 1), (real * sin + imag * cos).flatten(0, 1)


def _row_sums(values: Tensor) -> Tensor:
    """Sums float64 [b] of rows. A row alone would be divided among threads, whose number its last bits would tell."""
    rows = values if len(values) > 1 else values.expand(2, -1)
    return rows.sum(dim=1, dtype=torch.float64)[: len(values)]
