"""The starts that a stopped `halfmap start` has finished; the same command goes on from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap.expectation.soft import GridSums
from halfmap.refinement.soft_em import ImagePoses, SlicesSeen, SoftMaps, SoftStep, SoftTask
from halfmap.refinement.starts import Start
from halfmap.settings.start import StartSettings
from halfmap.workflows.command_checkpoints import CommandCheckpoints


@dataclass(frozen=True)
class _Slices:
    """`SlicesSeen` of a frame without its images, which are in their files."""

    rotations: Tensor
    sums: GridSums


@dataclass(frozen=True)
class _Kept:
    """A start without the slices that its last iteration saw, and these, frame by frame."""

    start: Start
    seen: list[_Slices]


RECORDS = (_Slices, _Kept, Start, SoftStep, SoftMaps, ImagePoses, GridSums)


class StartCheckpoints(CommandCheckpoints):
    """The checkpoints of the starts in settings.out, each in a file of its own."""

    def __init__(self, settings: StartSettings, device: torch.device) -> None:
        super().__init__(settings, device, "start_*", free=("starts", "hand"))

    def save(self, start: Start) -> None:
        """Keep a start that is finished."""
        seen = [_Slices(one.rotations, one.sums) for one in start.last.seen]
        self.keep(_file(start.number), _Kept(replace(start, last=replace(start.last, seen=[])), seen))

    def discard(self, number: int) -> None:
        """Forget a start that cannot be used."""
        self.drop(_file(number))

    def load(self, number: int, task: SoftTask) -> Start | None:
        """Start ``number`` as it was kept, or None. Raises InputError where it is there and cannot be used."""
        kept: _Kept | None = self.kept(_file(number), RECORDS)
        if kept is None:
            return None
        seen = []
        for images, one in zip(task.halves[0], kept.seen, strict=True):
            k = one.sums.real.shape[1]
            seen.append(SlicesSeen(replace(images, y=images.y[:, :k], c=images.c[:, :k]), one.rotations, one.sums))
        return replace(kept.start, last=replace(kept.start.last, seen=seen))


def _file(number: int) -> str:
    return f"start_{number:02d}"
