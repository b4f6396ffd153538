"""How long a refinement will take on this machine: an estimate from the kernels' speed, measured in a few seconds.

It assumes a usual run (USUAL): so many iterations of each stage, local ones aligned to two thirds of the Nyquist
frequency. Of many images a subset goes first (IN_EACH). With N images, K coefficients up to the shell aligned to, and
K' up to the shell inserted,

    time of an iteration = N (f + m p K + m q K' + g)  +  solve,

f: reading, two transforms and the CTF of an image; p: polishing a start, per coefficient; q: inserting a sample, per
coefficient; m: modes, and six sigma points in each (SAMPLES); g: the exhaustive grid, 4 R T k operations for R
rotations, T shifts and k coefficients (two products, real and imaginary). Its R slices are made once for each half set,
or for every batch where memory does not hold them. Solving takes about 60 transforms of the padded map, n log n each.
f, p, q and the speed of slices and products are measured on one thread and on data larger than the cache: processor
seconds, the least of a few trials. They are divided by the number of threads times their usual efficiency. On a GPU the
clock's seconds count, of more images at once. Other work on the machine is not in the estimate, nor that a disk may not
keep up with a GPU.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from halfmap import kernels
from halfmap.expectation.priors import ShiftPrior
from halfmap.expectation.score import PER_SLICE, ReferenceSlices, score_grid
from halfmap.expectation.search import Reference, Sampling, polish
from halfmap.fourier.real_transforms import rfftn
from halfmap.fourier.transform import half_volume_extent
from halfmap.geometry.rotations import random_rotations
from halfmap.imaging.ctf import Defocus
from halfmap.imaging.forward import ImagingGeometry, band_images
from halfmap.imaging.optics import OpticsGroup
from halfmap.kernels.poses import Samples, Starts
from halfmap.particles.preprocess import soft_circle
from halfmap.refinement.memory_plan import MemoryPlan, half_disc, usual_search
from halfmap.refinement.schedule import Schedule
from halfmap.runtime.device import CPU, finished

USUAL = {"burn-in": 5, "global": 2, "local": 6, "final": 1}
IN_EACH = {"global": 1, "local": 4}  # where there are subsets: iterations of each of them, and of all images
BAND = 2 / 3  # of the Nyquist frequency, aligned to in local iterations
MODES, SAMPLES = 1.3, 6
STEPS = 8  # Gauss-Newton steps of a start at most
TAKEN = 5  # of them are needed
TRANSFORMS = 60  # of the padded map in one solve
EFFICIENCY = 0.85
TRIALS, TRIAL_SECONDS = 12, 0.4
TRIAL_BOX, TRIAL_SHELL, TRIAL_IMAGES, PADDING = 128, 56, 24, 2
GPU_IMAGES = 512


@dataclass(frozen=True)
class Speed:
    """Seconds, each per unit of work.

    pixel: per pixel read and transformed. step: per coefficient of a step of a start. sample: per coefficient of an
    inserted sample. slice: per coefficient of a grid's slice. product: per operation of the grid's products. transform:
    per point and doubling of a transform.
    """

    pixel: float
    step: float
    sample: float
    slice: float
    product: float
    transform: float


@dataclass(frozen=True)
class Task:
    """What the time of a refinement depends on: number and side of the images, padding of the reference, schedule.

    memory: the plan that it keeps to (None: slices are held).
    """

    images: int
    image_box: int
    padding: int
    schedule: Schedule
    memory: MemoryPlan | None = None


def measured_speed(threads: int, device: torch.device = CPU) -> Speed:
    """The speed of so many threads of this machine, or of a GPU."""
    if device.type != "cpu":
        return _measured(device, GPU_IMAGES)
    before = kernels.thread_count(), torch.get_num_threads()
    kernels.set_threads(1)
    torch.set_num_threads(1)
    try:
        single = _measured(CPU, TRIAL_IMAGES)
    finally:
        kernels.set_threads(before[0])
        torch.set_num_threads(before[1])
    return Speed(*(seconds / max(1.0, EFFICIENCY * threads) for seconds in dataclasses.astuple(single)))


def _measured(device: torch.device, images: int) -> Speed:
    """Time the kernels on noise. Each runs once before it is timed, so that compiling and planning are left out."""
    optics = OpticsGroup("trial", 300.0, 2.7, 0.1, 1.0, TRIAL_BOX)
    geometry = ImagingGeometry.build(optics, TRIAL_BOX, 1.0, TRIAL_SHELL).to(device)
    generator = torch.Generator().manual_seed(0)
    m = half_volume_extent(PADDING, TRIAL_SHELL)
    size = (2 * m + 1, 2 * m + 1, m + 1)
    volume = torch.view_as_complex(torch.randn((*size, 2), generator=generator)).to(device)
    raw = torch.randn(images, TRIAL_BOX, TRIAL_BOX, generator=generator).to(device)
    zero = torch.zeros(images, dtype=torch.float64, device=device)
    defocus = Defocus(zero + 1e4, zero + 1e4, zero, zero, zero, zero + 1)
    sigma2, scale = (torch.full((count,), value, device=device)
                     for count, value in ((TRIAL_BOX // 2 + 1, float(TRIAL_BOX**2)), (images, 1.0)))
    mask = soft_circle(TRIAL_BOX, TRIAL_BOX / 2 - 6).to(device)
    batch = band_images(raw, mask, geometry, defocus, sigma2, scale)
    rotations, shifts = random_rotations(images, generator).to(device), zero[:, None].expand(-1, 2).contiguous()
    starts = Starts(torch.arange(images, device=device), rotations, shifts)
    reference, k = Reference(volume, PADDING), len(geometry.band)
    values, weights = batch.sums()
    sums = torch.zeros((*size, 3), device=device)
    samples = Samples(starts.image, rotations, shifts, scale)
    y, c = batch.whitened(12)
    coarse, grid_rotations = geometry.coords[: y.shape[1]], random_rotations(1024, generator).to(device)
    few = ReferenceSlices.build(volume, coarse, PADDING, grid_rotations)
    phases, no_prior = torch.ones_like(y[:20]), zero[:20].float()
    grid = 4 * len(y) * 20 * 1024 * y.shape[1]
    points = 96**3
    steps = images * k * STEPS
    timed = partial(_timed, device)
    return Speed(
        timed(lambda: band_images(raw, mask, geometry, defocus, sigma2, scale)) / raw.numel(),
        timed(lambda: polish(reference, batch, starts, ShiftPrior(1.0), TRIAL_SHELL, STEPS)) / steps,
        timed(lambda: kernels.insert_slices_(sums, values, weights, geometry.coords * PADDING, geometry.band.kxy,
                                              TRIAL_BOX, samples)) / (images * k),
        timed(lambda: ReferenceSlices.build(volume, coarse, PADDING, grid_rotations)) / few.real.numel(),
        timed(lambda: score_grid(y, c, few, phases, no_prior)) / grid,
        timed(lambda: rfftn(volume.real[:96, :96, :96])) / (points * math.log2(points)),
    )  # fmt: skip


def _timed(device: torch.device, work: Callable[[], object]) -> float:
    """Processor seconds, or those of a clock on a GPU, of the fastest of up to TRIALS runs, as far as they fit in
    TRIAL_SECONDS."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    work()
    finished(device)
    found: list[float] = []
    while len(found) < TRIALS and sum(found) < TRIAL_SECONDS:
        began = clock()
        work()
        finished(device)
        found.append(clock() - began)
    return min(found)


def estimated_seconds(task: Task, speed: Speed) -> dict[str, float]:
    """Seconds of all iterations of each stage of USUAL that the schedule's search goes through."""
    schedule, finest = task.schedule, task.schedule.finest_insert
    band = min(schedule.finest, int(BAND * finest))
    padded = (task.padding * schedule.box) ** 3
    found: dict[str, float] = {}
    for stage in _stages(schedule.search):
        search = usual_search(schedule, stage)
        limit = band if search is None else search.limit
        insert = finest if stage == "final" else min(finest, int(1.3 * limit) + 1)
        seconds = task.image_box**2 * speed.pixel + MODES * half_disc(limit) * TAKEN * speed.step
        seconds += MODES * SAMPLES * half_disc(insert) * speed.sample
        whole = TRANSFORMS * padded * (insert / finest) ** 2 * math.log2(padded) * speed.transform
        if search is not None and search.grid is not None:
            k = half_disc(search.grid_limit)
            seconds += grid_operations(search) * speed.product + search.candidates * k * 3 * speed.step
            whole += _projections(task, PER_SLICE * len(search.grid) * k) * len(search.grid) * k * speed.slice
        found[stage] = sum(images * seconds + whole for images in _iterations(stage, task))
    return found


def _iterations(stage: str, task: Task) -> list[int]:
    """The number of images of every iteration of a stage."""
    subsets = task.schedule.subsets
    if not subsets:
        return [task.images] * USUAL[stage]
    if stage in ("burn-in", "final"):
        return [subsets[0] if stage == "burn-in" else task.images] * USUAL[stage]
    return [images for images in (*subsets, task.images) for _ in range(IN_EACH[stage])]


def _projections(task: Task, slices: float) -> int:
    """How often in an iteration the slices of a grid are made, which take so many bytes."""
    plan = task.memory
    if plan is None or plan.slices_room is None or slices <= plan.slices_room:
        return 2
    return max(2, math.ceil(task.images / plan.batch))


def grid_operations(sampling: Sampling) -> float:
    """Operations of the exhaustive search of one image."""
    assert sampling.grid is not None and sampling.shifts is not None
    return 4 * len(sampling.grid) * len(sampling.shifts) * half_disc(sampling.grid_limit)


def _stages(search: str) -> list[str]:
    """The stages that a run of this kind goes through."""
    return {"fixed": ["final"], "local": ["local", "final"]}.get(search, list(USUAL))
