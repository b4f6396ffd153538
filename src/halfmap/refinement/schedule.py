"""What to search next, and when to stop.

A refinement passes four stages. *Burn-in*: global search at the resolution of the starting map, until the likelihood
stops rising. An iteration there costs next to nothing, and no later stage mends the mistakes made there.
*Global*: exhaustive search while the resolution grows, until poses stop jumping. *Local*: Gauss-Newton from the known
modes, until resolution and poses stand still. *Final*: once more, back-projected to the Nyquist frequency.
Where optics are fitted, local iterations that stand still go on, each with optics fitted before it, until they stand
still again.

Of many images a random subset goes first, through burn-in, global and local, until it brings no finer resolution. Then
more of them, at last all, are searched globally against what it left, and locally again: few iterations see them all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from halfmap.ctf_refinement.products import Range
from halfmap.expectation.search import Sampling
from halfmap.geometry.orientation_grid import angular_step, orientation_grid
from halfmap.geometry.shift_grid import shift_grid

BURN_IN_GROWTH = 0.03  # burn-in ends when the likelihood gain rises by less than this fraction and poses have settled
BURN_IN_JUMPING = 0.02  # settled: a smaller share of particles still jumps
BURN_IN_PATIENCE = 6  # iterations over which a burn-in that does not settle must still gain that fraction
BURN_IN_MOST = 30
POOR_START = 0.1  # share of particles surprised, in the second iteration or later, by a map that does not explain them
GLOBAL_MOST = 10
JUMPING = 0.01  # local search begins when fewer particles than this jumped farther than two grid steps
GRID_RESOLUTION = 15.0  # angstrom; the exhaustive part scores no finer detail, and Gauss-Newton takes over from there
LOOKED_AT = 0.1  # share of a subset with settled poses that is searched everywhere again with the new images
GROWTH = 1.5  # the band grows by at most this factor in an iteration
MARGIN = 0.2  # part of the shells that the half maps agree on, searched beyond: the references are filtered already
LEAST_MARGIN = 3  # shells
OPTICS_COARSEST = 30.0  # A; coarser shells hold solvent and detergent that maps lack, and say little of the optics
RESOLUTION_GAIN = 0.005  # smaller relative improvements of the resolution do not count
FINEST_ORDER = 5  # 1.9 degrees: finer grids cost more than Gauss-Newton steps from this one
FIRST_IMAGES = 10_000  # of the first subset, where it is not chosen
SUBSET_GROWTH = 8  # from one subset to the next
SUBSET_MOST = 0.4  # of all images; a larger subset saves too little
SUBSET_GLOBAL = 3  # global iterations of a subset at most: poses that still jump then need more images
SUBSET_GAIN = 0.02  # a subset that betters the resolution by less is at its end


def margin(agreed: int) -> int:
    """How many shells are searched beyond the last one, ``agreed``, at which the half maps agree."""
    return max(LEAST_MARGIN, round(MARGIN * agreed))


def subsets_of(images: int, first: int = 0) -> tuple[int, ...]:
    """Sizes of the random subsets of so many images that go before all of them. first: size of the smallest (0: the
    usual one)."""
    sizes, size = [], first or FIRST_IMAGES
    while size <= SUBSET_MOST * images:
        sizes.append(size)
        size *= SUBSET_GROWTH
    return tuple(sizes)


@dataclass(frozen=True)
class Progressed:
    """What an iteration achieved, as far as the schedule needs to know.

    stage. limit: shell aligned to. agreed: last shell at which the half maps agree (FSC 0.143). resolution: in A. gain:
    mean log-likelihood above a model without a particle, of images as far as they hold one. jumped: share of particles
    that moved more than two grid steps. angle_change, angle_sd: medians in degrees. surprised: share of particles that
    jumped and are sure of the new pose (weight above 1/2). subset: which was used, a place in
    Schedule.subsets; the place after the last means all images. changed: share of particles that are in another class
    than before; shares_moved: largest change of a class's share of all particles. optics: whether they were fitted
    before it.
    """

    stage: str
    limit: int
    agreed: int
    resolution: float
    gain: float
    jumped: float
    angle_change: float
    angle_sd: float
    surprised: float = 0.0
    subset: int = 0
    changed: float = 0.0
    shares_moved: float = 0.0
    optics: bool = False


@dataclass(frozen=True)
class Plan:
    """The next iteration.

    stage. sampling: what is searched. insert_limit: highest shell back-projected, and of the noise estimate. posterior:
    what feeds the M-step (expectation.posterior.posterior_samples). images: how many of them, at random (None: all);
    subset: the number of that subset. looked_at: share of the particles with a pose that a global search looks for on
    its whole grid, at random; the others it looks for around their pose. sharpness: of the comparison of classes
    (expectation.mixture); draws_classes: whether classes are drawn at random instead, as all references are the same;
    apart: whether each class keeps a map of its own, or what it has in common with the others is taken from all;
    joined: whether both half sets of a class get one reference. optics: the shells that optics are fitted to before
    anything is searched (None: optics stay).
    """

    stage: str
    sampling: Sampling
    insert_limit: int
    posterior: str
    images: int | None = None
    subset: int = 0
    looked_at: float = 1.0
    sharpness: float = 1.0
    draws_classes: bool = False
    apart: bool = False
    joined: bool = False
    optics: Range | None = None


@dataclass(frozen=True)
class Schedule:
    """Stages and limits of one refinement.

    box, pixel_size: of the reference, in voxels and angstrom. diameter: of the particle, in angstrom. symmetry:
    operators [o, 3, 3]. start: resolution of the first iteration, in angstrom. finest: shell never exceeded. search:
    auto, global, local or fixed. local_from: resolution at which auto turns local whatever the poses do. offset_range,
    angular_step: in angstrom and degrees, instead of what resolution and diameter suggest. modes: pose modes kept.
    posterior: what feeds the M-step. mates [m, 3, 3], the identity first: what local searches turn the best poses by
    for further starts. subsets: numbers of images, increasing, that go before all of them where poses are searched from
    the map (`subsets_of`). optics_from: resolution in A from which optics are fitted; None: never.
    """

    box: int
    pixel_size: float
    diameter: float
    symmetry: Tensor
    start: float
    finest: int
    search: str = "auto"
    local_from: float | None = None
    offset_range: float | None = None
    angular_step: float | None = None
    modes: int = 3
    max_iterations: int = 40
    posterior: str = "sigma"
    mates: Tensor = field(default_factory=lambda: torch.eye(3, dtype=torch.float64)[None])
    subsets: tuple[int, ...] = ()
    optics_from: float | None = None

    def shell(self, resolution: float) -> int:
        """The last shell not finer than ``resolution`` angstrom."""
        return max(3, min(self.finest, int(self.box * self.pixel_size / resolution)))

    def next(self, history: Sequence[Progressed], shift_sigma: float) -> Plan | None:
        """The plan of the next iteration, or None when the refinement is over.

        shift_sigma: spread of the shifts found so far, in angstrom.
        """
        if history and history[-1].stage == "final":
            return None
        stage, limit, subset = self._stage(history), self._limit(history), self._subset(history)
        insert = self.finest_insert if stage == "final" else min(self.finest_insert, max(limit + 8, int(limit * 1.3)))
        subset = len(self.subsets) if stage == "final" else subset
        plan = Plan(stage, Sampling("local", limit, modes=self.modes, symmetry=self.symmetry, mates=self.mates), insert,
                    self.posterior, self.subsets[subset] if subset < len(self.subsets) else None, subset)
        searched = self.search in ("auto", "global")
        unknown = searched and (not history or history[-1].subset < subset)  # a short run must find all poses too
        if stage in ("burn-in", "global") or unknown:
            converged = unknown and bool(history) and history[-1].stage == "local"
            looked_at = LOOKED_AT if converged and self.search == "auto" else 1.0
            return replace(plan, sampling=self._global(limit, history, shift_sigma, unknown), looked_at=looked_at)
        if self.search == "fixed":  # poses enter as points: the low-passed start cannot say how sure they are
            sampling = Sampling("fixed", limit, modes=self.modes, symmetry=self.symmetry)
            return replace(plan, sampling=sampling, posterior="best")
        return replace(plan, optics=self._optics(history) if stage == "local" else None)

    @property
    def finest_insert(self) -> int:
        """The shell of the final pass: every one strictly inside the Nyquist frequency."""
        return math.ceil(self.box / 2) - 1

    def _stage(self, history: Sequence[Progressed]) -> str:
        count = len(history)
        if count + 1 >= self.max_iterations:
            return "final"
        if self.search == "fixed":
            return "final"
        if not history:
            return "local" if self.search == "local" else "burn-in"
        last = history[-1]
        if self._subset(history) > last.subset:
            return "global"  # to find the poses of the new ones
        if last.stage == "burn-in" and not self.burnt_in(history):
            return "burn-in"
        if last.stage in ("burn-in", "global") and not self._turns_local(history):
            return "global"
        if last.stage == "global" and self.search != "global":
            return "local"  # Gauss-Newton still has to be seen to converge
        return "final" if self._converged(history) and not self._optics_are_due(history) else "local"

    def _optics_are_due(self, history: Sequence[Progressed]) -> bool:
        """Whether optics were not fitted yet, and the resolution allows it."""
        last = history[-1]
        return self.optics_from is not None and not last.optics and last.resolution <= self.optics_from

    def _optics(self, history: Sequence[Progressed]) -> Range | None:
        """The shells that optics are fitted to before a local iteration; None where they are not."""
        if not history or not (history[-1].optics or (self._optics_are_due(history) and self._converged(history))):
            return None
        return Range(int(self.box * self.pixel_size / OPTICS_COARSEST) + 1, min(history[-1].agreed, self.finest))

    def _subset(self, history: Sequence[Progressed]) -> int:
        """The number of the subset that is next: the last one's, or the one after it when that is at its end."""
        if not history:
            return 0
        last = history[-1]
        return last.subset + (last.subset < len(self.subsets) and self._exhausted(history))

    def _exhausted(self, history: Sequence[Progressed]) -> bool:
        """Whether a subset is at its end: its resolution stands still, or it holds too little to settle poses."""
        last, here = history[-1], _of_this_subset(history)
        if last.stage == "burn-in":
            return self.burnt_in(history) and last.jumped >= BURN_IN_JUMPING
        if last.stage == "global":
            searched = sum(h.stage == "global" for h in here)
            return self.search == "global" or (searched >= SUBSET_GLOBAL and not self._turns_local(history))
        return last.resolution > here[-2].resolution * (1 - SUBSET_GAIN)

    def burnt_in(self, history: Sequence[Progressed]) -> bool:
        """Whether likelihood and poses at the starting resolution have settled, or never will."""
        done = [h for h in history if h.stage == "burn-in"]
        if len(done) < 3 or len(done) >= BURN_IN_MOST:
            return len(done) >= BURN_IN_MOST
        if done[-1].jumped < BURN_IN_JUMPING:
            return done[-1].gain < done[-2].gain * (1 + BURN_IN_GROWTH)
        before = done[-1 - BURN_IN_PATIENCE].gain if len(done) > BURN_IN_PATIENCE + 2 else 0.0
        return done[-1].gain < before * (1 + BURN_IN_GROWTH)

    def poor_start(self, history: Sequence[Progressed]) -> bool:
        """Whether the images contradict the starting map. From a good one few particles jump after the first time."""
        done = [h for h in history if h.stage == "burn-in"]
        return any(h.surprised > POOR_START for h in done[1:])

    def _turns_local(self, history: Sequence[Progressed]) -> bool:
        done = [h for h in _of_this_subset(history) if h.stage == "global"]
        if not done:
            return False
        last = done[-1]
        if self.search == "global":
            return self._converged(history)
        if self.local_from is not None:
            return last.resolution <= self.local_from
        settled = last.limit >= min(self.shell(GRID_RESOLUTION), self.finest)
        return len(done) >= GLOBAL_MOST or (settled and last.jumped < JUMPING)

    def _converged(self, history: Sequence[Progressed]) -> bool:
        """Whether two iterations brought no better resolution, and poses move far less than they are uncertain."""
        last = history[-1]
        recent = [h for h in _of_this_subset(history) if h.stage == last.stage and h.optics == last.optics]
        if len(recent) < 3:
            return False
        best_before = min(h.resolution for h in recent[:-2])
        if min(h.resolution for h in recent[-2:]) < best_before * (1 - RESOLUTION_GAIN):
            return False
        return recent[-1].angle_change < max(0.1, 0.25 * recent[-1].angle_sd)

    def _limit(self, history: Sequence[Progressed]) -> int:
        start = self.shell(self.start)
        if not history:
            return start
        last = history[-1]
        if last.stage == "burn-in" and not self.burnt_in(history):
            return start
        grown = int(last.limit * GROWTH) + 2
        if last.stage == "burn-in":  # the exhaustive search is at its best at its own resolution
            grown = max(grown, self.shell(GRID_RESOLUTION))
        return max(start, min(self.finest, last.agreed + margin(last.agreed), grown))

    def _global(self, limit: int, history: Sequence[Progressed], shift_sigma: float, unknown: bool) -> Sampling:
        """What a global search tries. unknown: whether there are images that were not searched before."""
        grid_limit = min(limit, self.shell(GRID_RESOLUTION))
        detail = self.box * self.pixel_size / grid_limit
        # A rotation by half a step moves the rim of the particle by less than a quarter of the finest detail scored.
        wanted = self.angular_step or 0.75 * math.degrees(detail / (0.5 * self.diameter))
        order = 1
        while angular_step(order) > wanted and order < FINEST_ORDER:
            order += 1
        step = max(1.0, detail / (4.5 * self.pixel_size))
        # Once burn-in has found the centres, only shifts about them are tried.
        centred = bool(history) and self.burnt_in(history) and not unknown
        default_range = max(6.0, 3.0 * shift_sigma) if history else max(10.0, 0.08 * self.diameter)
        reach = 1.5 * step if centred else (self.offset_range or default_range) / self.pixel_size
        return Sampling(
            "global", limit, grid_limit, math.radians(angular_step(order)), orientation_grid(order, self.symmetry),
            shift_grid(reach, step), centred, candidates=4 * self.modes, modes=self.modes,
            symmetry=self.symmetry,
        )  # fmt: skip


def _of_this_subset(history: Sequence[Progressed]) -> list[Progressed]:
    """The iterations with the same images as the last one."""
    return [h for h in history if h.subset == history[-1].subset]
