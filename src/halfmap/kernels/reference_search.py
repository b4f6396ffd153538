"""The kernels of the global search in plain torch: the oracle of the tests, and the path of any device without compiled
kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

REFERENCES_AT_ONCE = 1024
SCORES_AT_ONCE = 1 << 20
LAST = (1 << 32) - 1  # numbers of grid points lie below


class Slices(Protocol):
    """Slices of a reference taken apart: real and imaginary part and power, each [r, k]."""

    @property
    def real(self) -> Tensor: ...

    @property
    def imag(self) -> Tensor: ...

    @property
    def power(self) -> Tensor: ...


@dataclass(frozen=True)
class Products:
    """Some images against some references: twice the products of real and of imaginary parts [b, t, r], and the power
    [b, r] that the CTF leaves of the references."""

    images: slice
    references: slice
    real: Tensor
    imag: Tensor
    norm: Tensor


def products(y: Tensor, c: Tensor, slices: Slices, phases: Tensor) -> Iterator[Products]:
    """The products of all images y[b, k] under contrast c[b, k], shifted by phases[t, k], with all references.

    They come in parts whose size does not depend on how many there are: a product of another size may be rounded
    otherwise. A part is good until the next one is taken.
    """
    shifts, count = len(phases), len(slices.real)
    step = max(1, SCORES_AT_ONCE // (shifts * REFERENCES_AT_ONCE))
    size = min(step, len(y)) * shifts * min(REFERENCES_AT_ONCE, count)
    rooms = [c.new_empty(size) for _ in range(2)]  # fresh memory for every product costs more than half of it
    for b in range(0, len(y), step):
        some = slice(b, b + step)
        shifted = (2 * c[some] * y[some])[:, None] * phases
        rows = shifted.reshape(-1, shifted.shape[-1])
        real, imag = rows.real.contiguous(), rows.imag.contiguous()
        squared = c[some] ** 2
        for r in range(0, count, REFERENCES_AT_ONCE):
            part = slice(r, min(count, r + REFERENCES_AT_ONCE))
            width = part.stop - r
            cross_re, cross_im = (room[: len(rows) * width].view(len(rows), width) for room in rooms)
            torch.mm(real, slices.real[part].T, out=cross_re)
            torch.mm(imag, slices.imag[part].T, out=cross_im)
            yield Products(some, part, cross_re.view(-1, shifts, width), cross_im.view(-1, shifts, width),
                           squared @ slices.power[part].T)


def best_shift(cross_re: Tensor, cross_im: Tensor, norm: Tensor, log_prior: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [b, 2, r] maximised over shifts, and the shift chosen; see numba_search.best_shift_range."""
    prior = log_prior[None, :, None]
    both = torch.stack([cross_re + cross_im + prior, cross_re - cross_im + prior], dim=1)
    score, shift = both.max(dim=2)
    return score - norm[:, None], shift.to(torch.int16)


def score_block(
    y: Tensor, c: Tensor, slices: Slices, phases: Tensor, log_prior: Tensor,
    choose: Callable[..., Any] = best_shift,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See kernels.score_block. choose: what reduces products over shifts, `best_shift` or a compiled one."""
    shape = (len(y), 2, len(slices.real))
    score, chosen = y.real.new_empty(shape), torch.empty(shape, dtype=torch.int16, device=y.device)
    for found in products(y, c, slices, phases):
        best = choose(found.real, found.imag, found.norm, log_prior)
        score[found.images, :, found.references], chosen[found.images, :, found.references] = best
    return score, chosen


def best_points(score: Tensor, shift: Tensor, index: Tensor, most: int) -> list[Tensor]:
    """The ``most`` best of points with scores [b, r], shifts [b, r] and numbers int64 [b, r] below 2^32, best first."""
    bits = score.contiguous().view(torch.int32)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # the larger a negative number's bits, the less it is
    # Whole numbers in the order of the scores, equal ones in that of their numbers from the last to the first.
    kept = ((ordered.long() << 32) + (LAST - index)).topk(most, dim=1).indices
    return [values.gather(1, kept) for values in (score, shift, index)]


def keep_best_(
    kept_score: Tensor, kept_shift: Tensor, kept_index: Tensor, score: Tensor, shift: Tensor, index: Tensor
) -> None:
    """Put points score [b, r], shift [b, r] of the numbers index [r] in place of those kept [b, n] that are worse."""
    numbers = torch.cat([kept_index, index.expand(len(score), -1)], dim=1)
    found = best_points(torch.cat([kept_score, score], dim=1), torch.cat([kept_shift, shift], dim=1), numbers,
                        kept_score.shape[1])
    for kept, best in zip((kept_score, kept_shift, kept_index), found, strict=True):
        kept.copy_(best)


def distinct_peaks(
    score: Tensor, order: Tensor, rotations: Tensor, operators: Tensor, angle: float, most: int, drop: float
) -> Tensor:
    """See kernels.distinct_peaks."""
    held, group = rotations.float()[order], operators.float()
    left = score >= score[:, :1] - drop
    chosen = []
    for _ in range(most):
        first = left.int().argmax(dim=1, keepdim=True)  # the first of those that are left
        chosen.append(torch.where(left.any(dim=1), first[:, 0], -1))
        copies = held.gather(1, first[..., None, None].expand(-1, 1, 3, 3)) @ group  # [b, g, 3, 3]
        trace = torch.einsum("bnij,bgij->bng", held, copies).amax(dim=2)
        left = (left & (trace <= 1 + 2 * math.cos(angle))).scatter(1, first, False)
    return torch.stack(chosen, dim=1)
