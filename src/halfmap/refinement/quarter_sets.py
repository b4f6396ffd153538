"""The images of an expectation step: which are used, their quarter sets, and in which order they are taken."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.particles.source import ParticleSource


@dataclass(frozen=True)
class QuarterSets:
    """The division of one half set. members int64 [m]: its particles; quarter_of [b]: the quarter set, 0 or 1, of every
    particle (of no meaning outside the half set)."""

    members: Tensor
    quarter_of: Tensor


@dataclass(frozen=True)
class Turn:
    """Quarter sets that are made together, and the particles (indices) that are still to be inserted into them."""

    quarters: tuple[int, ...]
    particles: Tensor


def random_part(members: Tensor, share: float, pieces: Tensor, seed: int) -> Tensor:
    """A random share of the particles ``members`` [m], in their order. A larger share holds a smaller one.

    pieces [b]: as in `drawn`; one of them is divided at most.
    """
    if share == 1:
        return members
    _, piece, count = pieces[members].unique(return_inverse=True, return_counts=True)
    rank = torch.randperm(len(count), generator=torch.Generator().manual_seed(seed))[piece]
    first = torch.sort(rank, stable=True).indices[: math.ceil(share * len(members))]
    return members[first.sort().values]


def searched_everywhere(known: Tensor, share: float, seed: int) -> Tensor:
    """Which particles [b] a global search looks for on its whole grid: all that have no pose (``known`` is False), and
    a random ``share`` of those that have one. What is drawn for a particle depends on the seed alone."""
    generator = torch.Generator().manual_seed(~seed)  # not the numbers that divide quarter sets
    return ~known | (torch.rand(len(known), generator=generator) < share)


def drawn(members: Tensor, half: int, seed: int, pieces: Tensor) -> QuarterSets:
    """Divide particles ``members`` [m] of a half set at random into two quarter sets of equal size.

    Pieces are kept whole as far as that is possible. pieces [b]: equal numbers for particles that share noise, as
    copies of an image do. Quarter sets are compared with one another, as half sets are.
    """
    generator = torch.Generator().manual_seed(seed * 2 + half)
    quarter_of = torch.zeros(len(pieces), dtype=torch.int64)
    _, piece, count = pieces[members].unique(return_inverse=True, return_counts=True)
    order = torch.randperm(len(count), generator=generator)
    if len(count) == len(members):
        quarter_of[members[order[::2]]] = 1
    else:  # pieces of one size alternate, the largest first
        order = order[torch.sort(count[order], descending=True, stable=True).indices]
        side = torch.zeros(len(count), dtype=torch.int64)
        side[order[::2]] = 1
        quarter_of[members] = side[piece]
    return QuarterSets(members, quarter_of)


def turns(source: ParticleSource, sets: QuarterSets, apart: bool, done: int) -> Iterator[Turn]:
    """The order in which quarter sets are made: both together, or one after the other (``apart``).

    done: batches of this order that were inserted before and are left out. The rest is cut into batches as it was.
    """
    members, quarter_of = sets.members, sets.quarter_of
    both = [Turn((q,), members[quarter_of[members] == q]) for q in (0, 1)] if apart else [Turn((0, 1), members)]
    for turn in both:
        if not done:  # cutting into batches sorts all images
            yield turn
            continue
        batches = source.batches(turn.particles)
        rest = [torch.from_numpy(rows) for rows in batches[done:]]
        done = max(0, done - len(batches))
        yield Turn(turn.quarters, torch.cat(rest) if rest else turn.particles[:0])
