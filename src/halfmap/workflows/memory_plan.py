"""What a refinement will hold in memory at its worst, known before it begins, and how to make it fit.

Bytes, for a box of n, padding p and the last shell L that is inserted (m = p (L + 1) + 2, r = min(m, p n / 2)):

    map                    V = 4 n^3
    half volume            H = 8 (2m + 1)^2 (m + 1)         a reference's transform, or the ratio of sums
    sums                   A = 12 (2m + 1)^2 (m + 1)        of one quarter set
    columns of a transform C = 8 n (p n) (r + 1), and at most PIECES of 128 MB on their way

The expectation step holds the maps of the state, H, the sums, and what a batch needs; a global search also the slices
of its grid. The solve holds the sums, those of the half sets, their ratio H, two C, and the maps of the regulariser
(REGULARISER: of uniform and nonuniform measured with synthetic sums, of the others counted). In files are all sums but
those that are being made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from halfmap.errors import InputError
from halfmap.expectation.search import Sampling
from halfmap.fourier.transform import half_volume_extent
from halfmap.runtime.memory import GIGABYTE
from halfmap.workflows.schedule import Progressed, Schedule

PROGRAM = 450_000_000  # libraries and compiled kernels
STATE_MAPS = 3  # references and mask
CURVE_MAPS = 12  # transforms of two half maps, masked and with random phases
REGULARISER = {
    "uniform": 5, "cutoff": 6, "nonuniform": 10, "local-fsc": 16, "sidesplitter": 14, "sparse_smooth": 14,
}  # half maps and references among them
WITHOUT_QUARTERS = ("uniform", "cutoff", "local-fsc", "sidesplitter")
COLUMNS, PIECES = 2, 4  # arrays of columns at a time, and of the pieces (of 2^24 values) that are transformed together
PER_PIXEL, PER_COEFFICIENT = 48, 72  # bytes of an image in a batch: read ahead, masked, transformed; data, CTF, sums
PER_SCORE = 20  # bytes of an orientation and image: two scores and shifts, and the best of them
PER_SLICE = 16  # bytes of a coefficient of a grid's slices
SPARE = 1.05  # what an allocator wastes


@dataclass(frozen=True)
class Demand:
    """What decides the memory of a refinement: grid, padding and last shell of the maps; side of the largest images and
    how many would be worked on at once; rotations of the finest orientation grid, and coefficients scored on it;
    whether there is symmetry; the regulariser; whether low resolution is joined."""

    box: int
    padding: int
    limit: int
    image_box: int
    batch: int
    rotations: int
    grid_coefficients: int
    symmetric: bool
    regulariser: str
    joined: bool = False


@dataclass(frozen=True)
class MemoryPlan:
    """How a run is to hold its data. batch: images at once; on_disk: whether sums lie in files, one quarter set in
    memory at a time; expectation, solve: peaks in bytes; sums: bytes of one quarter set; available: bytes."""

    demand: Demand
    batch: int
    on_disk: bool
    expectation: int
    solve: int
    sums: int
    available: int

    @property
    def peak(self) -> int:
        """The most memory in bytes at any time."""
        return max(self.expectation, self.solve)

    @property
    def scratch(self) -> int:
        """Bytes of sums in files: four quarter sets, two half sets and both together."""
        return 7 * self.sums if self.on_disk else 0

    def sentence(self) -> str:
        """The plan in a line."""
        where = f"sums on disk ({gigabytes(self.scratch)} GB)" if self.on_disk else "sums in memory"
        return (f"memory: up to {gigabytes(self.peak)} GB (search {gigabytes(self.expectation)}, solve "
                f"{gigabytes(self.solve)}) of {gigabytes(self.available)} GB available; {where}; {self.batch} images "
                "at once")


def gigabytes(count: float) -> str:
    """Bytes as a number of GB."""
    return f"{count / GIGABYTE:.1f}" if count >= 0.1 * GIGABYTE else f"{count / GIGABYTE:.2f}"


def demand_of(schedule: Schedule, padding: int, images: tuple[int, int], symmetric: bool, regulariser: str) -> Demand:
    """What this refinement asks for at its worst; images: side of the largest ones, and how many are read at once."""
    search = usual_search(schedule, "global")
    rotations, k = (0, 0) if search is None or search.grid is None else (
        len(search.grid), int(0.5 * math.pi * search.grid_limit**2))
    return Demand(schedule.box, padding, schedule.finest_insert, *images, rotations, k, symmetric, regulariser)


def usual_search(schedule: Schedule, stage: str) -> Sampling | None:
    """What an iteration of this stage searches, once burn-in is over for a global one; None for other stages, and where
    the schedule has no such stage."""
    if stage not in ("burn-in", "global") or schedule.search not in ("auto", "global"):
        return None
    settled = Progressed("burn-in", 4, 4, schedule.start, 1.0, 0.0, 1.0, 1.0)
    past = [] if stage == "burn-in" else 3 * [settled]
    plan = replace(schedule, max_iterations=40).next(past, 5 * schedule.pixel_size)
    return None if plan is None else plan.sampling


def planned(demand: Demand, available: int, sums: str = "auto") -> MemoryPlan:
    """The quickest way that fits: everything in memory; a smaller batch; sums on disk. The last one, if none does.

    sums: ``memory`` or ``disk`` leave no choice of where they lie.
    """
    places = {"memory": (False,), "disk": (True,)}.get(sums, (False, True))
    plans = [_plan(demand, available, on_disk, batch) for on_disk in places for batch in _batches(demand.batch)]
    return next((plan for plan in plans if plan.peak <= available), plans[-1])


def checked(plan: MemoryPlan) -> MemoryPlan:
    """The plan, if it fits. Raises InputError with what would."""
    if plan.peak <= plan.available:
        return plan
    demand = plan.demand
    remedies = []
    if not plan.on_disk and planned(demand, plan.available, "disk").peak <= plan.available:
        remedies.append("--sums disk fits")
    if demand.padding > 1:
        smaller = planned(replace(demand, padding=1), plan.available)
        if smaller.peak <= plan.available:
            remedies.append(f"--padding 1 needs {gigabytes(smaller.peak)} GB")
    remedies.append("particles binned to a smaller box need less, or take a machine with more memory")
    even = "even with sums on disk" if plan.on_disk else "with sums in memory"
    raise InputError(f"memory: a refinement at box {demand.box} with padding {demand.padding} needs "
                     f"{gigabytes(plan.peak)} GB {even}, and {gigabytes(plan.available)} GB are available; "
                     f"{'; '.join(remedies)}")


def _batches(most: int) -> list[int]:
    """Sizes of a batch worth trying."""
    return [most // 2**i for i in range(8) if most // 2**i >= min(most, 8)]


def _plan(demand: Demand, available: int, on_disk: bool, batch: int) -> MemoryPlan:
    n, p = demand.box, demand.padding
    m = half_volume_extent(p, demand.limit)
    points = (2 * m + 1) ** 2 * (m + 1)
    half_volume, sums, volume = 8 * points, 12 * points, 4 * n**3
    row = p * n * (min(m, p * n // 2) + 1)
    columns, pieces = 8 * n * row, PIECES * 8 * min(1 << 24, (2 * m + 1) * row)
    k = int(0.5 * math.pi * (demand.image_box / 2) ** 2)
    image = PER_PIXEL * demand.image_box**2 + PER_COEFFICIENT * k + PER_SCORE * demand.rotations
    grid = PER_SLICE * demand.rotations * demand.grid_coefficients
    state, kept = PROGRAM + STATE_MAPS * volume, (1 if on_disk else 4) * sums
    # The second reference of two is made when the sums of the first half set are there.
    making = (0 if on_disk else 2) * sums + int(1.5 * columns) + pieces
    expectation = state + half_volume + max(making, kept + batch * image + grid)
    inverting = half_volume + max(COLUMNS * columns, columns + pieces)
    working = max(CURVE_MAPS * volume, REGULARISER[demand.regulariser] * volume + inverting)
    if on_disk:  # one set of sums is made at a time, and in a file before the next
        solve = state + max((2 if demand.joined else 1) * sums, working)
    else:
        quarters = 0 if demand.regulariser in WITHOUT_QUARTERS else 4
        build = sums * (7 if demand.symmetric else 6) + inverting
        solve = state + max(build, (quarters + 3) * sums + working)
    return MemoryPlan(demand, batch, on_disk, int(SPARE * expectation), int(SPARE * solve), sums, available)
