"""Poses as the kernels take and return them, as flat lists: entry j belongs to image ``image[j]`` of a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Starts:
    """Poses that a search starts from, sorted by image.

    image int64 [j]; rotations [j, 3, 3] (RELION's A); shifts [j, 2] in pixels.
    """

    image: Tensor
    rotations: Tensor
    shifts: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def of(self, wanted: Tensor) -> Starts:
        """Those of the images that are ``wanted`` [b]."""
        some = wanted[self.image]
        return Starts(self.image[some], self.rotations[some], self.shifts[some])

    def joined(self, other: Starts) -> Starts:
        """Both lists as one, sorted by image."""
        image = torch.cat([self.image, other.image])
        order = image.argsort(stable=True)
        rotations, shifts = torch.cat([self.rotations, other.rotations]), torch.cat([self.shifts, other.shifts])
        return Starts(image[order], rotations[order], shifts[order])


@dataclass(frozen=True)
class Polished:
    """What Levenberg-Marquardt makes of `Starts`, in the same order, float64.

    rotations [j, 3, 3]; shifts [j, 2] in pixels; gain [j]: log-likelihood above a model without a particle, prior
    included, in nats; precision [j, 5, 5]: of the posterior, over three rotations in radians and two shifts in pixels.
    """

    rotations: Tensor
    shifts: Tensor
    gain: Tensor
    precision: Tensor


@dataclass(frozen=True)
class PolishOptions:
    """How starts are polished.

    box: side of the image in pixels; steps: most steps taken; prior: precision of the zero-centred shift prior in
    1/pixel^2; tolerance: nats; a step that promises less is the last, and is taken without looking at what it gains;
    max_step: largest rotation of one step, in radians. After ``look`` steps, starts that are more than ``drop`` nats
    below the best of their image are left as they are.
    """

    box: int
    steps: int
    prior: float
    tolerance: float
    max_step: float
    drop: float = math.inf
    look: int = 2


@dataclass(frozen=True)
class PosePrior:
    """A normal prior of the pose of each image b, about a pose of its own, with hard limits.

    rotations [b, 3, 3]; shifts [b, 2] in pixels: the poses (R0, t0) in its centre. fulcrum [3]: f, a point (x, y, z) of
    the reference, in pixels of the image off the box centre; rotations are about it. turn, shift: precisions, in
    1/rad^2 and 1/pixel^2 (0: flat). turn_limit, shift_limit: the largest |w| and |e|, in radians and pixels. Its log is

        -turn |w|^2 / 2 - shift |e|^2 / 2,   exp([w]x) = R R0^T,   e = (t + P R f) - (t0 + P R0 f),

    zero at the centre. P projects to x and y, so e is how far the fulcrum has moved in the image. mates [m, 3, 3], the
    identity first: the prior is the same about R0 g, for every g of them, in equal shares; of these parts the nearest
    counts. Kernels take one of them at a time (`about_mate`).
    """

    rotations: Tensor
    shifts: Tensor
    fulcrum: Tensor
    turn: float
    shift: float
    turn_limit: float = math.inf
    shift_limit: float = math.inf
    mates: Tensor = field(default_factory=lambda: torch.eye(3, dtype=torch.float64)[None])

    def places(self) -> Tensor:
        """Where the prior expects the fulcrum [b, 2] in each image: t0 + P R0 f."""
        return self.shifts + (self.rotations @ self.fulcrum)[:, :2]

    def of(self, image: Tensor) -> PosePrior:
        """The same prior of the images ``image`` [j]."""
        return replace(self, rotations=self.rotations[image], shifts=self.shifts[image])

    def about_mate(self, mate: int) -> PosePrior:
        """The part about R0 g, with g the mate of this number."""
        turned = self.rotations @ self.mates[mate].to(self.rotations)
        return replace(self, rotations=turned, mates=self.mates[:1])

    def nearest_mate(self, image: Tensor, rotations: Tensor) -> Tensor:
        """Numbers [j] of the mates whose R0 g are nearest to rotations [j, 3, 3] of the images ``image`` [j]."""
        centres = self.rotations[image][:, None] @ self.mates.to(self.rotations)
        return torch.einsum("jmac,jac->jm", centres, rotations.to(centres)).argmax(dim=1)


class BandArrays(NamedTuple):
    """Coefficients as compiled kernels take them.

    u, v [k]: where they lie in the reference. kx uint32 [k]; row uint32 [k]: ky + limit, where limit is the largest of
    |kx| and |ky|. They are unsigned because Numba asks of any other index whether it is negative.
    """

    u: NDArray[np.floating]
    v: NDArray[np.floating]
    kx: NDArray[np.uint32]
    row: NDArray[np.uint32]
    limit: int


def band_arrays(coords: Tensor, kxy: Tensor) -> BandArrays:
    """Of coefficients kxy int64 [k, 2] of an image at coords [k, 2] of the reference."""
    limit = int(kxy.abs().max()) if len(kxy) else 0
    u, v = (coords[:, axis].contiguous().numpy() for axis in (0, 1))
    kx, row = (part.numpy().astype(np.uint32) for part in (kxy[:, 0], kxy[:, 1] + limit))
    return BandArrays(u, v, kx, row, limit)


def prior_arrays(prior: PosePrior | None) -> tuple[object, ...]:
    """The prior as compiled kernels take it: centres, places, fulcrum, and its four numbers."""
    if prior is None:
        return np.empty((0, 3, 3)), np.empty((0, 2)), np.empty(3), (0.0, 0.0, math.inf, math.inf)
    arrays = [t.double().contiguous().numpy() for t in (prior.rotations, prior.places(), prior.fulcrum)]
    return *arrays, (float(prior.turn), float(prior.shift), float(prior.turn_limit), float(prior.shift_limit))


@dataclass(frozen=True)
class Samples:
    """Poses at which images are back-projected.

    image int64 [j]; rotations [j, 3, 3]; shifts [j, 2] in pixels; mass [j]: how much of the image is inserted there.
    """

    image: Tensor
    rotations: Tensor
    shifts: Tensor
    mass: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def where(self, chosen: Tensor) -> Samples:
        """The samples that ``chosen`` [j] marks."""
        return Samples(self.image[chosen], self.rotations[chosen], self.shifts[chosen], self.mass[chosen])
