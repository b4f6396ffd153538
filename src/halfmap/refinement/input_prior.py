"""The prior of a local search: poses are normal about those of the particle file.

A focused search sees a part of the particle, and without a prior the rest, which is in the images too, pulls its poses
away. The prior is the user's, with widths as given, or it is there because of the mask: then it begins with stated
widths, and each iteration takes them from how far poses have gone, posterior variance included (an EM update). The
centre of the prior is the pose in the file at all times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap.expectation.posterior import Poses
from halfmap.finding import Finding
from halfmap.geometry.rotations import angular_distance
from halfmap.kernels.poses import PosePrior
from halfmap.maps import density
from halfmap.maps.filters import gaussian_lowpass
from halfmap.maps.grid import Grid
from halfmap.maps.masks import automatic_threshold, spherical_mask

FOCUSED = 0.7  # share of the starting map's density; a mask that holds less of it is focused
MOST_TURN, MOST_SHIFT = 3.0, 3.0  # degrees, A: a focused search begins with these widths, and none becomes wider
LEAST = 0.1  # degrees or A: no width is estimated below


@dataclass(frozen=True)
class InputPrior:
    """How closely poses keep to those of the particle file.

    turn, shift: standard deviations along each axis, in degrees and A (None: not held). limit: most that a pose may go,
    in standard deviations. fulcrum float64 [3]: the point (x, y, z) of the reference that turns are about, in A off the
    box centre. estimated: whether the widths follow what is found.
    """

    turn: float | None
    shift: float | None
    limit: float
    fulcrum: Tensor
    estimated: bool = False

    def about(self, rotations: Tensor, shifts: Tensor, pixel_size: float) -> PosePrior:
        """The prior of images whose poses in the file are rotations [b, 3, 3] and shifts [b, 2], in pixels."""
        turn = math.inf if self.turn is None else math.radians(self.turn)
        shift = math.inf if self.shift is None else self.shift / pixel_size
        fulcrum = self.fulcrum.to(rotations) / pixel_size
        return PosePrior(rotations, shifts, fulcrum, turn**-2, shift**-2, self.limit * turn, self.limit * shift)

    def sentence(self) -> str:
        """What the prior does, for the log."""
        both = ((self.turn, "degrees"), (self.shift, "A"))
        widths = [f"{width:g} {unit}" for width, unit in both if width is not None]
        x, y, z = self.fulcrum.tolist()
        followed = ", from now on as the images say but no wider" if self.estimated else ""
        return (f"poses keep to those of the particle file: normal priors with a standard deviation of "
                f"{' and '.join(widths)}{followed}, none beyond {self.limit:g} of them; turns are about the point "
                f"{x:.1f}, {y:.1f}, {z:.1f} A off the box centre")

    @property
    def straining(self) -> list[Finding]:
        """A finding where the images want estimated widths to be larger than they may become."""
        if not self.estimated or self.turn is None or self.shift is None:
            return []
        options = (("--prior-rotation", "turns", self.turn >= MOST_TURN),
                   ("--prior-shift", "shifts", self.shift >= MOST_SHIFT))
        return [
            Finding(
                f"{what} at the limit of the prior",
                f"{what} go as far from the particle file as the prior of a focused mask lets them: either this part "
                f"moves more than that (choose with {option}), or what the mask leaves out is still in the images and "
                "pulls (subtract it)",
                "poses",
            )
            for option, what, reached in options
            if reached
        ]


@dataclass(frozen=True)
class Moves:
    """Sums over images that tell how far poses have gone from those of the file, float64 [1] each.

    turn, shift: expected squares along one axis, in rad^2 and A^2; images: how many, each as far as it holds a
    particle.
    """

    turn: Tensor
    shift: Tensor
    images: Tensor

    @staticmethod
    def zeros() -> Moves:
        """Nothing counted yet."""
        return Moves(*(torch.zeros(1, dtype=torch.float64) for _ in range(3)))

    def add_(self, poses: Poses, about: PosePrior, present: Tensor, pixel_size: float) -> None:
        """Count images whose posteriors are poses, with probability present [b] of a particle.

        The prior must know both turns and shifts: without it a precision may have no inverse.
        """
        images, modes = poses.gain.shape
        image = torch.arange(images, device=poses.gain.device).repeat_interleave(modes)
        mate = about.nearest_mate(image, poses.rotations.flatten(0, 1)).view(images, modes)
        centre = about.rotations[:, None] @ about.mates.to(about.rotations)[mate]
        turn = torch.deg2rad(angular_distance(poses.rotations, centre)).square()
        place = poses.rotations @ about.fulcrum
        expected = about.shifts[:, None] + (centre @ about.fulcrum)[..., :2]
        way = (poses.shifts + place[..., :2] - expected).square().sum(dim=-1)
        absent = torch.isinf(poses.gain)[..., None, None]  # the prior is part of the precision of all others
        eye = torch.eye(5, dtype=place.dtype, device=place.device)
        covariance = torch.linalg.inv(torch.where(absent, eye, poses.precision))
        slope = torch.zeros_like(covariance[..., :2, :])  # of the fulcrum in the image, to three turns and two shifts
        slope[..., 0, 1], slope[..., 0, 2], slope[..., 0, 3] = place[..., 2], -place[..., 1], 1.0
        slope[..., 1, 0], slope[..., 1, 2], slope[..., 1, 4] = -place[..., 2], place[..., 0], 1.0
        turn = turn + covariance.diagonal(dim1=-2, dim2=-1)[..., :3].sum(dim=-1)
        way = way + (slope @ covariance @ slope.mT).diagonal(dim1=-2, dim2=-1).sum(dim=-1)
        share = poses.weight * present[:, None].to(poses.weight)
        self.turn.add_((share * turn).sum().cpu() / 3)
        self.shift.add_((share * way).sum().cpu() * pixel_size**2 / 2)
        self.images.add_(share.sum().cpu())


def updated_prior(prior: InputPrior | None, moves: Moves) -> InputPrior | None:
    """The prior of the next iteration. Widths that are estimated stay between LEAST and those that they began with."""
    if prior is None or not prior.estimated or not float(moves.images) > 0:
        return prior
    turn, shift = (float((square / moves.images).sqrt()) for square in (moves.turn, moves.shift))
    return replace(prior, turn=min(max(math.degrees(turn), LEAST), MOST_TURN), shift=min(max(shift, LEAST), MOST_SHIFT))


def share_held(mask: Tensor, start: Tensor, pixel_size: float, diameter: float) -> float:
    """Share of the density of a map [z, y, x] within a sphere of ``diameter`` (A) that a mask holds.

    Density is what stands out of the solvent, by the rule that masks are drawn by. 1 where nothing does.
    """
    smooth = gaussian_lowpass(start, pixel_size, density.VISIBLE)
    box = start.shape[-1]
    sphere = spherical_mask(box, min(diameter / (2 * pixel_size), box / 2), 0).to(start.device) > 0
    level = automatic_threshold(smooth, sphere, pixel_size)
    if level is None:
        return 1.0
    above = (smooth - level).clamp_min(0) * sphere
    return float((mask * above).sum() / above.sum())


def centre_of_mass(mask: Tensor | None, grid: Grid) -> Tensor:
    """Centre (x, y, z) of a mask [z, y, x] in A off the box centre, float64 [3]; the box centre without a mask."""
    if mask is None:
        return torch.zeros(3, dtype=torch.float64)
    return density.centre_of_mass(mask, grid.pixel_size)
