"""What two-dimensional classification knows of classes and images, and what it hands from one iteration to the next."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.reconstruction.class_means import Plane


@dataclass
class ClassPoses:
    """What is known of every image b.

    number int64 [b]: class, from 0, or -1 before it was used; rotation float64 [b, 3, 3]: in plane; shift float64
    [b, 2]: in A; placed bool [b]: whether that was ever searched for; weight [b]: of the best point; score [b]: its
    log-likelihood above noise alone; present [b]: probability of a particle. half int64 [b]: 0 or 1.
    """

    number: Tensor
    rotation: Tensor
    shift: Tensor
    placed: Tensor
    weight: Tensor
    score: Tensor
    present: Tensor
    half: Tensor

    @staticmethod
    def empty(images: int, half: Tensor) -> ClassPoses:
        """Nothing is known yet."""
        zero = torch.zeros(images)
        return ClassPoses(torch.full((images,), -1), torch.eye(3, dtype=torch.float64).repeat(images, 1, 1),
                          torch.zeros(images, 2, dtype=torch.float64), torch.zeros(images, dtype=torch.bool),
                          zero, zero.clone(), torch.ones(images), half)


@dataclass(frozen=True)
class ClassMeans:
    """The means c of one iteration.

    plane, transforms complex64 [c, y, x]: their Fourier planes; images [c, y, x]: masked, on few pixels; share float64
    [c]: of the images' mass; resolution: in A, of each class, where its half means agree; correlation [c, s].
    """

    plane: Plane
    transforms: Tensor
    images: Tensor
    share: Tensor
    resolution: tuple[float, ...]
    correlation: Tensor

    @staticmethod
    def nothing(plane: Plane, classes: int) -> ClassMeans:
        """Of classes that no image is in."""
        none = torch.zeros(0)
        return ClassMeans(plane, none, none, torch.zeros(classes, dtype=torch.float64), (), none)


@dataclass(frozen=True)
class ClassState:
    """What one iteration hands to the next.

    sigma2 [g, s]: noise of each optics group by image shell; scale: contrast of each frame; present: share of images
    that hold a particle; log_prior float64 [c]: of classes, up to a constant.
    """

    means: ClassMeans
    sigma2: Tensor
    scale: tuple[float, ...]
    present: float
    log_prior: Tensor


@dataclass(frozen=True)
class ClassRecord:
    """What an iteration did. limit_A: finest detail; resolution_A: that the better half of images' classes reach."""

    iteration: int
    images: int
    limit_A: float
    tempering: float
    angles: int
    shifts: int
    used: int
    seeded: int
    resolution_A: float
    present: float
    seconds: float


@dataclass(frozen=True)
class AveragingCourse:
    """A classification as far as it has come: what its last iteration handed on, its poses, and the records of all."""

    state: ClassState
    poses: ClassPoses
    records: list[ClassRecord]


@dataclass(frozen=True)
class Classes2d:
    """A finished classification: means sorted by share, and poses with numbers that fit them."""

    means: ClassMeans
    poses: ClassPoses
    records: list[ClassRecord]
