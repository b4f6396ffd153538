"""The state of a refinement: everything that one iteration hands to the next. A checkpoint holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from halfmap.imaging.curvature import CurvatureEvidence
from halfmap.refinement.input_prior import InputPrior
from halfmap.refinement.refined_optics import RefinedOptics


@dataclass(frozen=True)
class PoseTable:
    """Poses of all particles b with up to c modes each, best first.

    rotations float32 [b, c, 3, 3]: RELION's A. shifts float32 [b, c, 2]: particle off the box centre, in pixels of the
    image. weight float32 [b, c]: posterior weight (0: there is no such mode). gain float32 [b]: log-likelihood of the
    best mode above a model without a particle, in nats. angle_sd float32 [b]: posterior sd of the best mode's rotation,
    in degrees, root mean square over the axes. shift_sd float32 [b]: the same of its shift, in pixels. present
    float32 [b]: probability that the image holds a particle. half int64 [b]: half set, 0 or 1. class_of int8 [b, c]:
    the class of each mode. All modes of the most likely class come first, then those of the next one.
    """

    rotations: Tensor
    shifts: Tensor
    weight: Tensor
    gain: Tensor
    angle_sd: Tensor
    shift_sd: Tensor
    present: Tensor
    half: Tensor
    class_of: Tensor

    @staticmethod
    def empty(half: Tensor, modes: int) -> PoseTable:
        """No pose is known yet of particles in half sets ``half`` [b]."""
        count = len(half)
        eye = torch.eye(3).expand(count, modes, 3, 3).clone()
        zero = torch.zeros(count)
        return PoseTable(
            eye, torch.zeros(count, modes, 2), torch.zeros(count, modes), zero, zero.clone(), zero.clone(),
            torch.ones(count), half, torch.zeros(count, modes, dtype=torch.int8),
        )  # fmt: skip

    @property
    def known(self) -> Tensor:
        """Which particles have a pose [b]."""
        return self.weight[:, 0] > 0

    def clone(self) -> PoseTable:
        """A copy that shares nothing."""
        return PoseTable(
            self.rotations.clone(), self.shifts.clone(), self.weight.clone(), self.gain.clone(),
            self.angle_sd.clone(), self.shift_sd.clone(), self.present.clone(), self.half, self.class_of.clone(),
        )  # fmt: skip

    def class_shares(self, classes: int) -> Tensor:
        """Posterior share [b, k] of each of so many classes in each particle, float64."""
        shares = torch.zeros(len(self), classes, dtype=torch.float64)
        return shares.scatter_add_(1, self.class_of.long(), self.weight.double())

    def __len__(self) -> int:
        return len(self.half)


@dataclass(frozen=True)
class State:
    """One refinement between two iterations.

    references: one map [z, y, x] for each set, that the next expectation step aligns to, regularised and
    solvent-flattened. The set of half set h and class k has number h K + k, with K classes (1 in a refinement).
    sigma2[g]: noise power [s] of each optics group by image shell, 0..box//2. scale [n]: contrast of each scale group
    (or particle) relative to the reference. shift_sigma: spread of the shifts, in angstrom. poses. mask [z, y, x]: the
    solvent mask. memory: the regulariser's own. share: of the images that hold a particle. contrast_spread: standard
    deviation of log contrast, of the prior that ``scale`` was found with. prior: about the poses of the particle file,
    if there is one. class_shares float64 [k]: of the particles, in each class. optics: those that were fitted, which
    take the place of the particle file's. curvature: what the images say about its sign, once they were asked, before
    the final pass.
    """

    iteration: int
    references: tuple[Tensor, ...]
    sigma2: tuple[Tensor, ...]
    scale: Tensor
    shift_sigma: float
    poses: PoseTable
    mask: Tensor
    memory: dict[str, Any] = field(default_factory=dict)
    share: float = 0.5
    contrast_spread: float = 0.0
    prior: InputPrior | None = None
    class_shares: Tensor = field(default_factory=lambda: torch.ones(1, dtype=torch.float64))
    optics: RefinedOptics | None = None
    curvature: CurvatureEvidence | None = None
