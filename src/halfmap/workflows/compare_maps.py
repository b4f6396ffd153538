"""What `halfmap compare` measures: all runs in one frame, within one mask, filtered alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.geometry.symmetry import symmetry_group
from halfmap.maps.levels import contour_level
from halfmap.maps.masks import solvent_mask
from halfmap.maps.mrc import MapFile, read_map
from halfmap.maps.rigid import moved
from halfmap.settings.compare import CompareSettings
from halfmap.validation.bfactor import GuinierFit, Sharpening, fit_guinier, fsc_weight, log_amplitude, sharpened
from halfmap.validation.fsc import corrected_fsc, fsc, resolution
from halfmap.validation.local_resolution import Window, local_resolution
from halfmap.validation.model_map import density_mask, fitted_pose
from halfmap.validation.poses import PoseDifferences, common_rows, pose_differences
from halfmap.workflows.compare_runs import Run
from halfmap.workflows.half_map_pair import HalfMaps, read_mask, require_same_grid
from halfmap.workflows.local_resolution import LEAST_VOXELS, LEAST_WINDOW, WINDOW_RESOLUTIONS

SEED, DRAWS = 0, 8  # of the randomised phases, the same for every run
GUINIER_FROM = 10.0  # A: coarse end of the Guinier line
TOLERANCE = 0.5  # voxels: where frames differ by more at the particle's rim, one map is moved
AGREEING = 0.3  # least share of particles within 15 degrees for two runs to share a frame


@dataclass(frozen=True)
class Frame:
    """Where the map of the first run lies in another run's box: at rotation[3,3] @ x + shift[3] (A).

    apart: whether the frames differ enough for the other map to be moved.
    """

    rotation: Tensor
    shift: Tensor
    apart: bool

    @classmethod
    def same(cls) -> Frame:
        """The frame of the first run itself, and of a run that cannot be placed."""
        return cls(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), False)

    @property
    def angle(self) -> float:
        """Angle of the rotation in degrees."""
        return math.degrees(math.acos(min(1.0, max(-1.0, 0.5 * (float(torch.trace(self.rotation)) - 1)))))

    def to_other(self, v: Tensor, pixel_size: float, order: int = 3) -> Tensor:
        """Move a map [z,y,x] from the first run's frame to the other run's."""
        return moved(v, self.rotation, self.shift, pixel_size, order) if self.apart else v

    def to_first(self, v: Tensor, pixel_size: float, order: int = 3) -> Tensor:
        """Move a map [z,y,x] from the other run's frame to the first run's."""
        back = self.rotation.T
        return moved(v, back, -back @ self.shift, pixel_size, order) if self.apart else v


@dataclass(frozen=True)
class Against:
    """A run's poses compared with those of the first run.

    differences: of the images that both runs hold; only_first, only_here: how many images only the first run, or only
    this run, holds.
    """

    differences: PoseDifferences
    only_first: int
    only_here: int


@dataclass(frozen=True)
class Measured:
    """What was measured of one run.

    against: its poses compared with the first run's, None where they cannot be compared. In the run's own frame are
    pair, its half maps and curves; fit, the Guinier line within the mask, None for too few shells; and truth, the FSC
    [s] with the true map, None where no true map is given. In the first run's frame are map, the sharpened map; local,
    the local resolution (A); and theta, the local cut-off (A), None where the run has none; all [z,y,x].
    """

    run: Run
    frame: Frame
    against: Against | None
    pair: HalfMaps
    fit: GuinierFit | None
    truth: Tensor | None
    map: Tensor
    local: Tensor
    theta: Tensor | None


def group_of(runs: Sequence[Run]) -> Tensor:
    """The symmetry group [o,3,3] modulo which poses are compared: the largest group of any run."""
    groups = [symmetry_group(run.setting("symmetry") or "C1") for run in runs]
    return max(groups, key=len)


def compared_poses(first: Run, run: Run, group: Tensor) -> Against | None:
    """Compare a run's poses with those of the first run. None where poses are missing or no image is common."""
    if first.particles is None or run.particles is None:
        return None
    here, there = common_rows(run.particles, first.particles)
    if not len(here):
        return None
    left = pose_differences(run.particles.select(here), first.particles.select(there), group)
    return Against(left, len(first.particles) - len(here), len(run.particles) - len(here))


def frame_between(first: Run, run: Run, against: Against | None) -> Frame:
    """Find the frame of a run from its poses, or by fitting the maps where poses cannot be compared."""
    if against is not None and not sharing_frame(against):
        return Frame.same()
    if against is not None:
        rotation, shift = against.differences.frame, against.differences.shift
    else:
        rotation, shift = fitted_pose(run.mean, first.mean, first.pixel_size)
    return Frame(rotation, shift, _apart(rotation, shift, first))


def sharing_frame(against: Against) -> bool:
    """Whether enough particles agree for the two runs to share a frame."""
    return 1 - against.differences.above(15.0) >= AGREEING


def _apart(rotation: Tensor, shift: Tensor, first: Run) -> bool:
    """Whether the frames differ by more than TOLERANCE at the rim of a particle that fills half the box."""
    radius = first.half1.shape[-1] * first.pixel_size / 4
    angle = Frame(rotation, shift, False).angle
    return math.radians(angle) * radius + float(shift.norm()) > TOLERANCE * first.pixel_size


def common_mask(runs: Sequence[Run], frames: Sequence[Frame], path: Path | None) -> tuple[Tensor, str]:
    """The mask [z,y,x] in the first run's frame, and in words where it comes from."""
    first = runs[0]
    if path is not None:
        mask = read_mask(path, MapFile(first.mean, first.pixel_size), first.folder / "half1_unfil.mrc").data
        if not bool((mask > 0.5).any()):
            raise InputError(f"{path}: the mask is nowhere above one half; give one that holds the molecule")
        return mask, str(path)
    maps = [frame.to_first(run.mean, run.pixel_size) for run, frame in zip(runs, frames, strict=True)]
    # Runs may differ in grey scale, so each map is divided by its standard deviation.
    mean = sum((v / v.std() for v in maps), start=torch.zeros_like(first.half1)) / len(maps)
    return solvent_mask(mean, first.pixel_size), "made from the mean of all maps"


def curves_of(run: Run, mask: Tensor, name: str) -> HalfMaps:
    """The run's half maps with all FSC curves within a mask [z,y,x] in the run's own frame."""
    generator = torch.Generator().manual_seed(SEED)
    curves = corrected_fsc(run.half1, run.half2, mask, generator, draws=DRAWS)
    return HalfMaps(run.half1, run.half2, run.pixel_size, mask, name, curves)


def truth_curve(path: Path, pair: HalfMaps) -> Tensor:
    """FSC [s] of the mean of two half maps with the true map, which is moved to where it fits best.

    Both are multiplied by a soft mask around the true map. Density that the true map lacks, such as a belt of
    detergent, therefore does not lower the FSC.
    """
    read = read_map(path)
    require_same_grid(pair.like, read, Path("the first run"), path)
    if read.data.min() == read.data.max():
        raise InputError(f"{path}: the map is {float(read.data.min()):g} everywhere; give one with density")
    mean = (pair.half1 + pair.half2) / 2
    expected = moved(read.data, *fitted_pose(mean, read.data, pair.pixel_size), pair.pixel_size)
    mask = density_mask(expected, pair.pixel_size)
    return fsc(mean * mask, expected * mask)


def guinier_line(pair: HalfMaps, finest: float) -> GuinierFit | None:
    """Fit the Guinier line to the FSC-weighted amplitudes within the mask, from 10 A to `finest` (A)."""
    masked = (pair.half1 + pair.half2) / 2 * pair.mask
    values = log_amplitude(masked) + fsc_weight(pair.curves.corrected).log()
    return fit_guinier(values, pair.box, pair.pixel_size, GUINIER_FROM, finest)


def common_bfactor(fits: Sequence[GuinierFit | None]) -> float:
    """The mean of the runs' B factors (A^2); 0 where none was measured, or where the mean would blur the maps."""
    known = [fit.bfactor for fit in fits if fit is not None]
    return min(0.0, sum(known) / len(known)) if known else 0.0


def corrected(pair: HalfMaps) -> float:
    """Resolution in A at which the corrected FSC falls below 0.143; Nyquist where it never does."""
    return resolution(pair.curves.corrected, pair.box, pair.pixel_size)


def filtered_map(pair: HalfMaps, bfactor: float) -> Tensor:
    """Sharpen the mean of the half maps by a B factor (A^2), and filter it by the run's own corrected FSC."""
    own = Sharpening(bfactor, None, fsc_weight(pair.curves.corrected), corrected(pair))
    return sharpened((pair.half1 + pair.half2) / 2, pair.pixel_size, own)


def common_window(pairs: Sequence[HalfMaps]) -> Window:
    """The window for the local resolution of all runs: the one `halfmap local-resolution` chooses for the coarsest."""
    pixel_size, box = pairs[0].pixel_size, pairs[0].box
    width = max(WINDOW_RESOLUTIONS * max(corrected(pair) for pair in pairs), LEAST_WINDOW)
    return Window(max(min(width, box * pixel_size / 1.5), LEAST_VOXELS * pixel_size) / pixel_size)


def local_resolution_map(pair: HalfMaps, window: Window) -> Tensor:
    """Local resolution in A [z,y,x]."""
    voxels, _ = local_resolution(pair.half1, pair.half2, pair.mask, window, step=window.usual_step)
    return voxels * pair.pixel_size


def enclosed_volume(settings: CompareSettings, maps: Sequence[Tensor], mask: Tensor, pixel_size: float) -> float:
    """The volume (A^3) that the drawn surface of every map encloses."""
    if settings.volume is not None:
        return settings.volume
    mean = sum((v / v[mask > 0.5].std() for v in maps), start=torch.zeros_like(mask)) / len(maps)
    return float((mean * mask >= contour_level(mean, mask)).sum()) * pixel_size**3
