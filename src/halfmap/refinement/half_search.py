"""The images of a half set against its references: the pose of each, and the class where there are several."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap.expectation.mixture import Mixture, starts_of_class
from halfmap.expectation.posterior import Poses, log_evidence, particle_probability
from halfmap.expectation.priors import ShiftPrior
from halfmap.expectation.search import GlobalSearch, Reference, find_poses
from halfmap.fourier.transform import half_volume
from halfmap.imaging.delocalisation import ProjectedPower
from halfmap.imaging.forward import BandImages, Geometries
from halfmap.kernels.poses import PosePrior
from halfmap.particles.source import ImageBatch, ParticleSource
from halfmap.refinement.imaging_model import ImagingModel, band_batch
from halfmap.refinement.in_parts import in_parts
from halfmap.refinement.schedule import Plan
from halfmap.refinement.state import PoseTable, State
from halfmap.runtime.device import sent
from halfmap.runtime.stopwatch import Stopwatch

HALVES = 2
PRIOR_WIDTH = 3.0  # of the shift prior, in spreads of the shifts: real ones have tails that a tighter normal pulls in


@dataclass(frozen=True)
class Found:
    """Images of one frame with their poses.

    index, groups int64 [b]: their particles and optics groups; mixture: poses under each class, and its share; present
    [b]: probability that there is a particle. about: the prior about the poses of the file.
    """

    index: Tensor
    groups: Tensor
    images: BandImages
    mixture: Mixture
    present: Tensor
    about: PosePrior | None


class HalfSearch:
    """Images of a half set against its references [k].

    everywhere [b]: which particles a global search looks for on its whole grid; None: all. drawn_classes [b]: of every
    particle, where classes are drawn.
    """

    def __init__(
        self, state: State, half: int, source: ParticleSource, model: ImagingModel, plan: Plan, poses: PoseTable,
        everywhere: Tensor | None, drawn_classes: Tensor | None,
    ) -> None:  # fmt: skip
        classes = len(state.references) // HALVES
        maps = state.references[half * classes : (half + 1) * classes]
        self.references = [Reference(half_volume(v, model.padding, plan.insert_limit), model.padding) for v in maps]
        self.power = ProjectedPower.of(maps[0] if classes == 1 else torch.stack(maps).mean(dim=0), model.pixel_size)
        self.state, self.source, self.model, self.plan, self.poses = state, source, model, plan, poses
        self.everywhere, self.drawn_classes = everywhere, drawn_classes
        self.sampling, self.device = plan.sampling, self.references[0].volume.device
        self.geometries = Geometries(model.box, model.pixel_size, plan.insert_limit, self.device)
        room = None if model.slices_room is None else model.slices_room // classes
        self.searched = self.references[:1] if plan.draws_classes else self.references
        self.grids = [GlobalSearch(reference, self.sampling, room) if self.sampling.search == "global" else None
                      for reference in self.searched]

    def found(self, batch: ImageBatch, watch: Stopwatch) -> Iterator[Found]:
        """The poses of a batch, in parts where memory is short."""
        pixel_size = self.source.table.optics[batch.group].pixel_size
        held = self.state.prior is not None and self.state.prior.shift is not None
        prior = ShiftPrior() if held else ShiftPrior.from_spread(PRIOR_WIDTH * self.state.shift_sigma / pixel_size)

        def find(some: slice) -> Found:
            part = batch.part(some)
            centres = self.poses.shifts[part.index, 0].round().long()
            images = band_batch(self.state, self.source, self.model, self.geometries, part, centres,
                                self.sampling.limit, self.power)
            watch.lap("read")
            about = self._about(part.index, pixel_size)
            everywhere = None if self.everywhere is None else sent(self.everywhere[part.index], self.device)
            poses = tuple(
                find_poses(reference, images, self.sampling, prior, self._known(part.index, number), grid, about,
                           everywhere)
                for number, (reference, grid) in enumerate(zip(self.searched, self.grids, strict=True))
            )
            mixture = self._mixture(part.index, poses, prior, about)
            return Found(part.index, part.groups, images, mixture, self._present(mixture), about)

        return in_parts(find, len(batch))

    def _known(self, index: Tensor, number: int) -> Poses | None:
        """Modes of the last iteration that a search of this class starts from; None if there are none."""
        known = _known(self.poses, index, self.device)
        if known is None or len(self.searched) == 1:
            return known
        own = sent(self.poses.class_of[index] == number, self.device) & ~torch.isinf(known.gain)
        return starts_of_class(known, own, self.sampling.symmetry, self.sampling.merge_angle)

    def _mixture(
        self, index: Tensor, poses: tuple[Poses, ...], prior: ShiftPrior, about: PosePrior | None
    ) -> Mixture:
        """The classes of these particles, compared by evidence, or by likelihood where poses are given."""
        if self.sampling.search == "fixed":
            evidence = torch.stack([p.gain[:, 0] for p in poses], dim=1)
        else:
            evidence = torch.stack([log_evidence(p, prior, len(self.sampling.symmetry), about) for p in poses], dim=1)
        if self.drawn_classes is None:
            return Mixture.of(poses, evidence, self.state.class_shares, self.plan.sharpness)
        drawn_for = sent(self.drawn_classes[index], self.device)
        return Mixture.drawn(poses[0], evidence[:, 0], drawn_for, len(self.references))

    def _about(self, index: Tensor, pixel_size: float) -> PosePrior | None:
        """The prior of these particles about their poses in the file."""
        prior, table = self.state.prior, self.source.table
        if prior is None or table.rotations is None:
            return None
        rotations, shifts = table.rotations[index], -table.origins[index] / pixel_size
        about = prior.about(sent(rotations, self.device), sent(shifts, self.device), pixel_size)
        return replace(about, mates=sent(self.sampling.mates, self.device))

    def _present(self, mixture: Mixture) -> Tensor:
        """Probability [b] that an image holds a particle; 1 where it is not asked."""
        if not self.model.null_hypothesis or self.sampling.search == "fixed":
            return torch.ones_like(mixture.log_evidence)
        return particle_probability(mixture.log_evidence, self.state.share)


def _known(poses: PoseTable, index: Tensor, device: torch.device) -> Poses | None:
    """Modes of the last iteration; None if there are none."""
    weight = poses.weight[index].double()
    if not bool((weight[:, 0] > 0).any()):
        return None
    gain = torch.where(weight > 0, weight.clamp_min(1e-30).log(), -torch.inf)
    shifts = poses.shifts[index].double()
    count, modes = weight.shape
    precision = torch.zeros(count, modes, 5, 5, dtype=torch.float64)
    return Poses(poses.rotations[index].double(), shifts, gain, precision).to(device)
