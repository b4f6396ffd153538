"""What one iteration of two-dimensional classification adds up over images, and so over processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.reconstruction.class_means import Plane, PlaneSums


@dataclass(frozen=True)
class AveragingSums:
    """Sums of one iteration, all float64 but the planes.

    planes: of each half; mass [c]; noise, count [g, s]: residual power and coefficients; cross, norm [f]: of data and
    model, by frame; likely, images [c]: of the images whose best point is in a class, how many are likelier by far than
    noise alone, and their number; present [1]: probability of a particle.
    """

    planes: list[PlaneSums]
    mass: Tensor
    noise: Tensor
    count: Tensor
    cross: Tensor
    norm: Tensor
    likely: Tensor
    images: Tensor
    present: Tensor

    @staticmethod
    def zeros(classes: int, plane: Plane, sigma2: Tensor, frames: int) -> AveragingSums:
        """Nothing added yet. sigma2 [g, s]: the noise."""
        def none(count: int) -> Tensor:
            return torch.zeros(count, dtype=torch.float64)

        noise, count = torch.zeros((2, *sigma2.shape), dtype=torch.float64)
        planes = [PlaneSums.zeros(classes, plane) for _ in range(2)]
        return AveragingSums(planes, none(classes), noise, count, none(frames), none(frames), none(classes),
                             none(classes), none(1))

    @property
    def counted(self) -> list[Tensor]:
        """Everything, in tensors of real numbers that add up in place."""
        planes = [part for one in self.planes for part in (torch.view_as_real(one.numerator), one.weight)]
        return [*planes, self.mass, self.noise, self.count, self.cross, self.norm, self.likely, self.images,
                self.present]
