"""The plain half maps of a set of images, their FSC, and the solvent mask that is drawn around them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap.reconstruction.statistics import Backprojection
from halfmap.refinement.problem import Problem
from halfmap.regularisation.protocol import HalfSets
from halfmap.validation.fsc import FscCurves, corrected_fsc


@dataclass(frozen=True)
class Built:
    """Half sets, with the sums of their quarter sets only where the regulariser looks at them, and the mask [z, y, x]
    drawn around their maps."""

    halves: HalfSets
    mask: Tensor


def built(
    problem: Problem, statistics: tuple[tuple[Backprojection, ...], ...], seed: int, within: Tensor | None = None
) -> Built:
    """The half maps of statistics [h][q]. within [z, y, x]: where their FSC is measured; None: the mask itself."""
    model, masks = problem.model, list[Tensor]()

    def curves(half1: Tensor, half2: Tensor) -> FscCurves:
        masks.append(problem.masking.mask(half1, half2))
        generator = torch.Generator(device=half1.device).manual_seed(seed)
        radius = min(0.5 * problem.masking.diameter / model.pixel_size, model.box / 2 - 1)
        return corrected_fsc(half1, half2, masks[0] if within is None else within, generator, sphere_radius=radius)

    halves = HalfSets.build(statistics, model.symmetry, model.pixel_size, curves)
    return Built(halves if problem.keeps_quarters else replace(halves, sums=()), masks[0])
