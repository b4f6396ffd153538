"""The iterations that a stopped `halfmap classes2d` has finished; the same command goes on with the next one."""

from __future__ import annotations

import torch

from halfmap.reconstruction.class_means import Plane
from halfmap.refinement.averaging_state import AveragingCourse, ClassMeans, ClassPoses, ClassRecord, ClassState
from halfmap.settings.classes2d import Classes2dSettings
from halfmap.workflows.command_checkpoints import CommandCheckpoints

COURSE = "course"
RECORDS = (AveragingCourse, ClassState, ClassMeans, Plane, ClassPoses, ClassRecord)


class AveragingCheckpoints(CommandCheckpoints):
    """The checkpoint of a two-dimensional classification in settings.out: its course up to the last iteration."""

    def __init__(self, settings: Classes2dSettings, device: torch.device) -> None:
        super().__init__(settings, device, COURSE)

    def save(self, course: AveragingCourse) -> None:
        """Keep what an iteration has come to, in place of the one before."""
        self.keep(COURSE, course)

    def load(self) -> AveragingCourse | None:
        """The course as it was kept, or None. Raises InputError where it is there and cannot be used."""
        course: AveragingCourse | None = self.kept(COURSE, RECORDS)
        return course
