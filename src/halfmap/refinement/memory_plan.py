"""How much memory a refinement will hold at its worst, known before it begins, and how to make it fit.

Bytes, for a box of n, padding p and the last shell L that is inserted (m = p (L + 1) + 2, r = min(m, p n / 2)):

    map                    V = 4 n^3
    half volume            H = 8 (2m + 1)^2 (m + 1)         a reference's transform, or the ratio of sums
    sums                   A = 12 (2m + 1)^2 (m + 1)        of one quarter set
    columns of a transform C = 8 n (p n) (r + 1), and at most PIECES of 128 MB on their way

The expectation step holds the maps of the state, H, the sums, and what a batch needs. A global search also holds the
slices of the finest grid that the schedule can ask for: one set, which optics groups share. Where they would take more
than SLICES_MOST of the memory, or more than there is, there is room for those of a coarser grid only (COARSER). A finer
one's are then made anew for every batch, a block at a time. That costs time (larger batches make up for a part of it)
and changes no bit.

The solve holds the sums, those of the half sets, and at its worst one of three things: sums that are inverted (their
ratio H, C, half as much again, and the half maps so far), the transforms of the FSC, or the regulariser's arrays
(`Need`, which it declares). The report comes after it. With sums on disk, only those that are being made are in memory.
`benchmarks/claims/memory.py` measures the solve.

On a GPU its own memory is counted. Sums that do not fit there lie in the machine's memory, or in files, and the GPU
holds what it works on: one quarter set, and copies of sums while they are added up, symmetrised (by plain torch, which
needs SYMMETRISING sums more) or inverted. Insertion in whole numbers takes 24 bytes a point more, WHOLE at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from halfmap.errors import InputError
from halfmap.expectation.score import BLOCK, PER_SLICE, PROJECTED_AT_ONCE
from halfmap.expectation.search import Sampling
from halfmap.fourier.transform import half_volume_extent
from halfmap.kernels.reference_search import REFERENCES_AT_ONCE
from halfmap.maps.masks import EXTEND, SOFT, SPHERE_EDGE
from halfmap.refinement.schedule import Progressed, Schedule
from halfmap.regularisation.declaration import Need
from halfmap.regularisation.support import BEYOND
from halfmap.runtime.memory import GIGABYTE

PROGRAM = 450_000_000  # libraries and compiled kernels
STATE_MAPS = 3  # references and mask
CLASS_MAPS = 6  # of every further class, while others are made: half maps, what was made of them, mask
RESULT_MAPS = 17  # of an iteration while its report is drawn, the isosurface among it
CURVE_MAPS = 12  # half maps, mask, and transforms of half maps, masked and with random phases
PIECES = 4  # arrays of 2^24 values at most: more than pieces that are transformed together, of 2^20, take
PER_PIXEL, PER_COEFFICIENT = 48, 80  # bytes of an image in a batch: read, masked, transformed; data, CTF, noise, sums
PER_CURVED = 40  # more bytes of a coefficient on curved slices: the CTF a quarter of a turn on, both sides
PER_SCORE = 128  # bytes of an orientation of a block and image: two scores and shifts, and the best of them
PROJECTING = 16  # bytes of a coefficient while it becomes one of a grid's slices
PER_ROTATION = 72  # bytes of an orientation of the grid
PER_SHIFTED = 16  # bytes of a coefficient of an image at one of the shifts, in a product
SLICES_MOST = 0.5  # part of the memory that slices may take
COARSER = 32  # times the slices of a grid for half the resolution are contained in those of a grid
SYMMETRISING = 8
WHOLE = 1 << 31
SPARE = 1.05  # what an allocator wastes
BESIDE = 7  # maps while a regulariser works within the cube
JOINED = 5  # maps while sums that were joined are inverted


@dataclass(frozen=True)
class Demand:
    """What decides the memory of a refinement.

    box, padding, limit: side, padding and last shell of the maps. image_box, batch: side of the largest images, and how
    many would be worked on at once; batch_given: whether there may be no more. rotations, grid_coefficients: of the
    finest orientation grid, and scored on it. symmetric: whether there is a point group. regulariser: its name.
    need: what it holds. joined: whether half maps share their low resolution. kept: side of the cube that references
    are kept within, in voxels (0: the whole box). classes: maps that every image is compared with. curved: whether
    images are inserted on curved slices. gpu: whether it is the memory of a GPU.
    """

    box: int
    padding: int
    limit: int
    image_box: int
    batch: int
    rotations: int
    grid_coefficients: int
    symmetric: bool
    regulariser: str
    need: Need
    joined: bool = False
    kept: int = 0
    batch_given: bool = False
    classes: int = 1
    curved: bool = False
    gpu: bool = False


@dataclass(frozen=True)
class MemoryPlan:
    """How a run is to hold its data.

    batch: images at once. place: where sums lie: ``memory``; or, with one quarter set at a time there, ``disk``, in
    files, or ``host``, in the machine's memory where that of a GPU is planned. slices_room: bytes that the slices of a
    grid may take if all of them are to be held; None: those of every grid are held. expectation, solve: peaks in bytes.
    sums: bytes of one quarter set. available: bytes that the process may hold in all.
    """

    demand: Demand
    batch: int
    place: str
    slices_room: int | None
    expectation: int
    solve: int
    sums: int
    available: int

    @property
    def peak(self) -> int:
        """The most memory in bytes at any time."""
        return max(self.expectation, self.solve)

    @property
    def on_disk(self) -> bool:
        """Whether sums lie in files."""
        return self.place == "disk"

    @property
    def moved(self) -> int:
        """Bytes of sums that lie elsewhere: four quarter sets of every class, two half sets and both together."""
        return (4 * self.demand.classes + 3) * self.sums if self.place != "memory" else 0

    @property
    def scratch(self) -> int:
        """Bytes of sums in files."""
        return self.moved if self.on_disk else 0

    def sentence(self) -> str:
        """The plan as a line of the log."""
        return f"memory: {self.words()}"

    def words(self) -> str:
        """The plan in words."""
        place = {"host": "in the machine's memory", "disk": "on disk"}.get(self.place)
        where = "sums in memory" if place is None else f"sums {place} ({gigabytes(self.moved)} GB)"
        blocks = "" if self.slices_room is None else "; slices of the global search made block by block"
        return (f"up to {gigabytes(self.peak)} GB (search {gigabytes(self.expectation)}, solve "
                f"{gigabytes(self.solve)}) of {gigabytes(self.available)} GB available; {where}; {self.batch} images "
                f"at once{blocks}")


def gigabytes(count: float) -> str:
    """Bytes as a number of GB."""
    return f"{count / GIGABYTE:.1f}" if count >= 0.1 * GIGABYTE else f"{count / GIGABYTE:.2f}"


def demand_of(schedule: Schedule, padding: int, image_box: int, batch: int, regulariser: str, need: Need) -> Demand:
    """What this refinement asks for at its worst, with a mask of its own.

    image_box: side of the largest images in pixels; batch: how many are worked on at once.
    """
    search = usual_search(schedule, "global")
    rotations = coefficients = 0
    if search is not None and search.grid is not None:
        rotations, coefficients = len(search.grid), half_disc(search.grid_limit)
    return Demand(
        schedule.box, padding, schedule.finest_insert, image_box, batch, rotations, coefficients,
        len(schedule.symmetry) > 1, regulariser, need,
        kept=kept_within(schedule.diameter, schedule.pixel_size, schedule.box),
    )  # fmt: skip


def half_disc(limit: float) -> int:
    """About the number of coefficients of an image up to a shell."""
    return math.ceil(0.5 * math.pi * (limit + 0.5) ** 2)


def kept_within(diameter: float, pixel_size: float, box: int) -> int:
    """Side in voxels of the cube around all that a reference is kept within.

    That is a solvent mask around density in the sphere of this diameter (A), or the sphere itself.
    """
    edge = max((EXTEND + SOFT) / pixel_size, SPHERE_EDGE)
    return min(box, math.ceil(diameter / pixel_size + 2 * edge) + 2 * (BEYOND + 1))


def usual_search(schedule: Schedule, stage: str) -> Sampling | None:
    """What an iteration of this stage searches; a global one as it is when the half maps agree as far as its grid goes.

    None for stages without a grid, and where the schedule has no such stage.
    """
    if stage not in ("burn-in", "global") or schedule.search not in ("auto", "global"):
        return None
    settled = Progressed("burn-in", 4, schedule.finest, schedule.start, 1.0, 0.0, 1.0, 1.0)
    past = [] if stage == "burn-in" else 3 * [settled]
    plan = replace(schedule, max_iterations=40).next(past, 5 * schedule.pixel_size)
    return None if plan is None else plan.sampling


def planned(demand: Demand, available: int, sums: str = "auto") -> MemoryPlan:
    """The quickest way that fits: everything in memory, else a smaller batch, else slices in blocks, else sums on disk
    (of a GPU: in the machine's memory).

    If none fits it is the last one. available: bytes that the process may hold in all. sums: ``memory``, ``host`` or
    ``disk`` leave no choice of where they lie.
    """
    places = ("memory", "host" if demand.gpu else "disk") if sums == "auto" else (sums,)
    plans = [_plan(demand, available, place, slices, batch) for place in places
             for slices in _rooms(demand, available) for batch in _batches(demand, slices)]
    return next((plan for plan in plans if plan.peak <= available), plans[-1])


def checked(plan: MemoryPlan, begun: bool = False, processes: int = 1) -> MemoryPlan:
    """The plan, if it fits. Otherwise raises InputError, which says what would fit.

    begun: whether it is that of a run that goes on, whose settings stay. processes: how many share the machine.
    """
    if plan.peak <= plan.available:
        return plan
    demand = plan.demand
    remedies = [f"take fewer than {processes} processes on this machine"] if processes > 1 else []
    if not begun and not plan.on_disk and planned(demand, plan.available, "disk").peak <= plan.available:
        remedies.append("--sums disk fits")
    if not begun and demand.padding > 1:
        smaller = planned(replace(demand, padding=1), plan.available)
        if smaller.peak <= plan.available:
            remedies.append(f"--padding 1 needs {gigabytes(smaller.peak)} GB")
    remedies.append("end other programs, raise --max-memory, or go on on a machine with more memory" if begun else
                    "particles binned to a smaller box need less, or take a machine with more memory")
    even = "even with sums on disk" if plan.on_disk else "with sums in memory"
    raise InputError(f"memory: a refinement at box {demand.box} with padding {demand.padding} needs "
                     f"{gigabytes(plan.peak)} GB {even}, and {gigabytes(plan.available)} GB are available; "
                     f"{'; '.join(remedies)}")


def _rooms(demand: Demand, available: int) -> list[int]:
    """Bytes for slices to try, the best first: for those of the finest grid, of a coarser one, or of one block."""
    whole, block = _slices(demand), _slices(demand, BLOCK)
    rooms = sorted({whole, max(block, whole // COARSER), block}, reverse=True)
    return rooms[1:] if len(rooms) > 1 and whole > SLICES_MOST * available else rooms


def _batches(demand: Demand, slices: int) -> list[int]:
    """Sizes of batches to try, the best first. slices: bytes of slices that are held."""
    usual = demand.batch
    larger = [8 * usual, 4 * usual, 2 * usual] if slices < _slices(demand) and not demand.batch_given else []
    return larger + [usual // 2**i for i in range(8) if usual // 2**i >= min(usual, 8)]


def solve_stages(demand: Demand, apart: bool) -> dict[str, int]:
    """Bytes that the stages of a solve hold at their worst, without the program itself. apart: whether sums lie
    elsewhere."""
    sums, volume, transforming = _sums(demand), 4 * demand.box**3, _transforming(demand)
    need = demand.need
    half_maps = max(volume + transforming, CURVE_MAPS * volume)
    cube = 4 * min(demand.kept or demand.box, demand.box) ** 3
    solving, inverting = need.maps * volume, need.inverting or JOINED * demand.joined
    if need.within:
        solving = max(solving, BESIDE * volume + need.within * cube)
    if inverting:
        held = max(inverting * volume, BESIDE * volume + need.within_inverting * cube if need.within else 0)
        solving = max(solving, held + transforming)
    extra = SYMMETRISING if demand.gpu else 1
    quarters = (6 if demand.symmetric else 4) * need.quarters
    if not apart:
        added = kept = 6 + extra * demand.symmetric
        used = quarters + 3
    elif demand.gpu:  # copies of what is worked on: a half set, or the quarter sets that are compared
        both = 1 + extra * demand.symmetric
        added, kept, used = both, 1, 1 + need.quarters * both
    else:  # one set of sums is made at a time, and in a file before the next
        added, kept, used, quarters = 2 if demand.joined else 1, 0, 0, 0
    further = demand.classes - 1
    state = (STATE_MAPS + (2 + CLASS_MAPS) * further) * volume
    if not apart:  # what other classes hold meanwhile: quarter sets, or the half sets made of them
        added, kept, used = added + 4 * further, kept + 4 * further, used + (2 + (4 if quarters else 0)) * further
    return {"sums added up": state + added * sums, "half maps": state + kept * sums + half_maps,
            "regulariser": state + used * sums + solving, "results": state + RESULT_MAPS * volume}


def _sums(demand: Demand) -> int:
    """Bytes of one quarter set's sums."""
    m = half_volume_extent(demand.padding, demand.limit)
    return 12 * (2 * m + 1) ** 2 * (m + 1)


def _transforming(demand: Demand) -> int:
    """Bytes held while a map becomes its half volume, or the other way, the half volume included."""
    n, p = demand.box, demand.padding
    m = half_volume_extent(p, demand.limit)
    row = p * n * (min(m, p * n // 2) + 1)
    return 2 * _sums(demand) // 3 + 12 * n * row + PIECES * 8 * min(1 << 24, (2 * m + 1) * row)


def _slices(demand: Demand, rotations: int | None = None) -> int:
    """Bytes of the slices of the finest grid: of all or of so many rotations."""
    count = demand.rotations if rotations is None else min(rotations, demand.rotations)
    return PER_SLICE * count * demand.grid_coefficients * demand.classes


def _plan(demand: Demand, available: int, place: str, slices: int, batch: int) -> MemoryPlan:
    sums, apart = _sums(demand), place != "memory"
    k = int(0.5 * math.pi * (demand.image_box / 2) ** 2)
    per_coefficient = PER_COEFFICIENT + PER_CURVED * demand.curved
    image = PER_PIXEL * demand.image_box**2 + per_coefficient * k + PER_SCORE * min(BLOCK, demand.rotations)
    grid = PER_ROTATION * demand.rotations + slices + PER_SHIFTED * REFERENCES_AT_ONCE * demand.grid_coefficients
    grid += PROJECTING * min(PROJECTED_AT_ONCE, demand.rotations * demand.grid_coefficients)
    # The second reference is made when the sums of the first half set are there.
    classes = demand.classes
    making = (0 if apart else 2) * classes * sums + 2 * (classes - 1) * sums // 3 + _transforming(demand)
    working = classes * (2 * sums // 3 + (1 if apart else 4) * sums) + batch * image + grid
    working += min(WHOLE, 2 * sums) * demand.gpu
    expectation = PROGRAM + (STATE_MAPS + 2 * (classes - 1)) * 4 * demand.box**3 + max(making, working)
    solve = PROGRAM + max(solve_stages(demand, apart).values())
    room = None if slices == _slices(demand) else slices
    return MemoryPlan(
        demand, batch, place, room, int(SPARE * expectation), int(SPARE * solve), sums, available
    )
