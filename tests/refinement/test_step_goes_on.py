"""An expectation step that was stopped after any batch goes on to the same bits."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.expectation.search import Sampling
from halfmap.imaging.ctf import Defocus
from halfmap.imaging.optics import OpticsGroup
from halfmap.particles.source import ImageBatch
from halfmap.reconstruction.statistics import Place, in_memory
from halfmap.refinement import em
from halfmap.refinement.imaging_model import ImagingModel
from halfmap.refinement.schedule import Plan
from halfmap.refinement.state import PoseTable, State

BOX, COUNT, LIMIT = 16, 24, 6


@dataclass(frozen=True)
class FewAtOnce:
    """Images of one optics group, three in a batch."""

    images: Tensor
    table: SimpleNamespace
    diameter: float = 20.0

    @property
    def pieces(self) -> Tensor:
        return torch.arange(len(self.images))

    def batches(self, index: Tensor) -> list[np.ndarray]:
        return [members.numpy() for members in index.split(3)]

    def stream(self, index: Tensor) -> Iterator[ImageBatch]:
        for members in index.split(3) if len(index) else ():
            images = self.images[members]
            zero = torch.zeros(len(members), dtype=torch.int64)
            yield ImageBatch(zero, members, images, torch.ones(len(members), dtype=torch.bool), images)


@pytest.mark.parametrize("place", [None, in_memory], ids=["together", "apart"])
def test_a_step_stopped_after_any_batch_ends_with_the_bits_of_one_that_was_not(place: Place | None, random_poses):
    generator = torch.Generator().manual_seed(0)
    zero = torch.zeros(COUNT, dtype=torch.float64)
    table = SimpleNamespace(optics=(OpticsGroup("o", 300.0, 2.7, 0.1, 2.0, BOX),),
                            defocus=Defocus(zero + 6e3, zero + 6e3, zero, zero, zero, zero + 1))
    source = FewAtOnce(torch.randn(COUNT, BOX, BOX, generator=generator), table)
    poses = PoseTable.empty(torch.arange(COUNT) % 2, 3)
    poses.rotations[:, 0] = random_poses(COUNT)[0].float()
    poses.weight[:, 0] = 1.0
    reference = torch.randn(BOX, BOX, BOX, generator=generator)
    state = State(0, (reference, reference), (torch.full((BOX // 2 + 1,), float(BOX**2)).double(),),
                  torch.ones(1).double(), 3.0, poses, torch.ones(()))
    model = ImagingModel(BOX, 2.0, torch.eye(3).double()[None], torch.zeros(COUNT, dtype=torch.int64), place=place)
    plan = Plan("local", Sampling("fixed", LIMIT), LIMIT, "sigma")

    kept: list[em.Expectation] = []
    whole = em.expectation_step(state, source, model, plan, 1, em.Following(
        keep=lambda so_far: kept.append(copy.deepcopy(so_far))))
    assert len(kept) == COUNT // 3
    for so_far in kept:
        again = em.expectation_step(state, source, model, plan, 1, em.Following(so_far))
        for h in (0, 1):
            for one, other in zip(whole.statistics[h], again.statistics[h], strict=True):
                assert one.core is None and torch.equal(one.sums, other.sums)
        assert torch.equal(whole.tally.cross, again.tally.cross)
