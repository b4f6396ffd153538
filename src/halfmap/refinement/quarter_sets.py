"""The quarter sets of an expectation step: who is in them, and in which order their images are taken."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from halfmap.particles.source import ParticleSource
from halfmap.refinement.state import PoseTable


def drawn(poses: PoseTable, half: int, seed: int) -> tuple[Tensor, Tensor]:
    """The members of a half set, and the quarter set [b] of every particle."""
    members = torch.nonzero(poses.half == half)[:, 0]
    generator = torch.Generator().manual_seed(seed * 2 + half)
    quarter_of = torch.zeros(len(poses), dtype=torch.int64)
    quarter_of[members[torch.randperm(len(members), generator=generator)[::2]]] = 1
    return members, quarter_of


def turns(
    source: ParticleSource, members: Tensor, quarter_of: Tensor, apart: bool, done: int
) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """The quarter sets (0, 1) that are made together, and their particles but those of the first ``done`` batches."""
    both = [((0, 1), members)] if not apart else [((q,), members[quarter_of[members] == q]) for q in (0, 1)]
    for quarters, chosen in both:
        if not done:  # cutting into batches sorts all images
            yield quarters, chosen
            continue
        batches = source.batches(chosen)
        rest = [torch.from_numpy(rows) for _, rows in batches[done:]]  # cut as they were
        done = max(0, done - len(batches))
        yield quarters, torch.cat(rest) if rest else chosen[:0]
