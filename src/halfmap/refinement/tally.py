"""Noise, contrast and the spread of shifts: what an expectation step learns about images beside their poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.expectation.posterior import Poses
from halfmap.expectation.search import Reference
from halfmap.imaging.forward import BandImages
from halfmap.imaging.optics import UNDISTORTED, OpticsGroup
from halfmap.refinement.ctf_signs import SignSums
from halfmap.refinement.input_prior import Moves
from halfmap.refinement.state import PoseTable, State
from halfmap.runtime.device import sent

NoiseSources = tuple[tuple[int, ...], ...]
FEWEST = 50  # images of an optics group that has a noise spectrum of its own


@dataclass(frozen=True)
class Residuals:
    """What a batch says about noise and contrast at the best poses of its images.

    groups: its optics groups; power [s], count [s] of each: residual power by shell, and the number of coefficients in
    it, each as far as it counts (`NoiseCount`); cross [b], norm [b]: <image, model> and <model, model>, whitened;
    present [b]: probability of a particle. An image counts as far as it holds one. signs: the same by the CTF's sign.
    """

    groups: list[int]
    power: list[Tensor]
    count: list[Tensor]
    cross: Tensor
    norm: Tensor
    present: Tensor
    signs: SignSums

    @staticmethod
    def of(
        images: BandImages, found: Poses, present: Tensor, groups: Tensor, reference: Reference, limit: int
    ) -> Residuals:
        """Of images at their best poses.

        present [b], groups [b]: probability of a particle, and optics group; limit: last shell that contrast is
        measured to.
        """
        geometry, counted = images.geometry, images.counted
        band = geometry.band
        sums = kernels.residual_sums(
            reference.volume, geometry.coords * reference.padding, band.kxy, band.shell, band.box, images.scored,
            images.ctf, images.scale, found.rotations[:, 0], found.shifts[:, 0],
            None if counted is None else counted.weight,
        )  # fmt: skip
        # Norm and residual count what is left of the model in a masked image.
        left = images.left_by_shell().double()
        power = sums.power - images.scale.double()[:, None] ** 2 * (1 - left) * sums.square
        power = present.double()[:, None] * images.unmasked(power)
        every = groups.unique().tolist()
        members = [sent(torch.nonzero(groups == group)[:, 0], power.device) for group in every]
        noise = present[:, None] if counted is None else present[:, None] * counted.noise
        top = geometry.last_shell(limit) + 1
        sigma2 = images.sigma2_by_shell()[..., :top].double()
        cross, norm = (part[:, :top] / sigma2[..., None] for part in (sums.cross, sums.norm * left[..., None]))
        cross, norm = ((present.double()[:, None] * part.sum(dim=1)).cpu() for part in (cross, norm))
        return Residuals(
            every, [power[rows].sum(dim=0).cpu() for rows in members],
            [band.shell_sum(noise[rows].double().sum(dim=0).expand(len(band))).cpu() for rows in members],
            cross.sum(dim=1), norm.sum(dim=1), present.double().cpu(), SignSums(cross.sum(dim=0), norm.sum(dim=0)),
        )  # fmt: skip


@dataclass
class Tally:
    """Sums over images that re-estimate noise and contrast, and where the time went.

    noise[g], count[g]: residual power and number of coefficients by shell [s] of each optics group; cross [n], norm
    [n]: of each scale group, <image, model> and <model, model>, whitened; present, images [n]: how many particles and
    images it holds; moves: how far poses are from those of the file, where there is a prior about them; signs: whether
    images have their CTF's sign; seconds: wall time by stage.
    """

    noise: list[Tensor]
    count: list[Tensor]
    cross: Tensor
    norm: Tensor
    present: Tensor
    images: Tensor
    moves: Moves = field(default_factory=Moves.zeros)
    signs: SignSums = field(default_factory=SignSums.zeros)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("read", "search", "insert"), 0.0))

    @staticmethod
    def zeros(state: State) -> Tally:
        """Nothing counted yet."""
        cross, norm, present, images = torch.zeros((4, len(state.scale)), dtype=torch.float64)
        noise, count = ([torch.zeros_like(s) for s in state.sigma2] for _ in range(2))
        return Tally(noise, count, cross, norm, present, images)

    def add_(self, batch: Residuals, scale_group: Tensor) -> None:
        """Count a batch whose images are in these scale groups [b]."""
        for group, power, count in zip(batch.groups, batch.power, batch.count, strict=True):
            self.noise[group][: len(power)] += power
            self.count[group][: len(count)] += count
        self.cross.index_add_(0, scale_group, batch.cross)
        self.norm.index_add_(0, scale_group, batch.norm)
        self.present.index_add_(0, scale_group, batch.present)
        self.images.index_add_(0, scale_group, torch.ones_like(batch.present))
        self.signs.add_(batch.signs)


def noise_sources(optics: Sequence[OpticsGroup], images: Sequence[int]) -> NoiseSources:
    """For each optics group [g] the groups whose images tell its noise: its own images, of which there are images[g].

    Where these are too few for a spectrum, all groups of the same box, pixel size and microscope tell it together.
    """
    kin: dict[OpticsGroup, list[int]] = {}
    kinds = [replace(group.alike, even_zernike=(), magnification=UNDISTORTED) for group in optics]
    for number, kind in enumerate(kinds):
        kin.setdefault(kind, []).append(number)
    return tuple((number,) if images[number] >= FEWEST else tuple(kin[kind]) for number, kind in enumerate(kinds))


def shared(sums: Sequence[Tensor], sources: NoiseSources) -> list[Tensor]:
    """Sums of each optics group [g], added up over its sources."""
    made: dict[tuple[int, ...], Tensor] = {}
    for some in sources:
        if some not in made:
            made[some] = sums[some[0]] if len(some) == 1 else torch.stack([sums[g] for g in some]).sum(dim=0)
    return [made[some] for some in sources]


def updated_noise(state: State, tally: Tally, sources: NoiseSources) -> tuple[Tensor, ...]:
    """Noise power by shell from the residuals of each group's sources. Shells that were not measured keep their
    value."""
    result = []
    measured = shared(tally.noise, sources), shared(tally.count, sources)
    for old, power, count in zip(state.sigma2, *measured, strict=True):
        # Images that may hold no particle count less than one coefficient together, and tell the noise all the same.
        result.append(torch.where(count > 0, power / count, old))
    return tuple(result)


def updated_shift_sigma(poses: PoseTable, pixel_size: Tensor) -> float:
    """Spread of the shifts along one axis in angstrom, from best shifts and their posterior variance (an EM update).

    Images count as far as they hold a particle: the shifts of others are as wide as the search. Those without a pose do
    not count. pixel_size [b]: of each particle's image.
    """
    square = poses.shifts[:, 0].double().square().mean(dim=1) + poses.shift_sd.double().square()
    present = poses.present.double() * poses.known
    return float(((square * pixel_size**2 * present).sum() / present.sum().clamp_min(1e-9)).sqrt())
