"""Triton's kernels against float64 plain torch, and their rates beside what the GPU can do at all."""

from __future__ import annotations

import importlib
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from halfmap.expectation.score import ReferenceSlices, shift_phases
from halfmap.fourier.band import Band, band_limit
from halfmap.fourier.transform import half_volume
from halfmap.geometry.rotations import random_rotations
from halfmap.kernels import reference, reference_poses, reference_search
from halfmap.kernels.descent import DescentSums, Term, Weights
from halfmap.kernels.paths import PLAIN as PLAIN_KERNELS
from halfmap.kernels.paths import TRITON
from halfmap.kernels.poses import PolishOptions, Samples, Starts
from halfmap.maps.masks import spherical_mask
from halfmap.particles.crossing import across, room_for_images
from halfmap.particles.preprocess import normalise
from halfmap.particles.read_ahead import StoredImages
from halfmap.particles.stack_reader import KEPT
from halfmap.reconstruction.statistics import Backprojection, Place, in_memory, sums_put
from halfmap.regularisation.normal_equations import NormalEquations
from halfmap.regularisation.protocol import HalfSets
from halfmap.regularisation.proximal import Penalty, Problem
from halfmap.runtime.device import finished
from halfmap.runtime.scratch import on_host
from halfmap.settings.regularisers import regulariser_named
from halfmap.validation.fsc import corrected_fsc

PADDING = 2
SINGLE, TF32 = 2e-4, 3e-3  # largest difference, relative to the largest value
SECONDS, TRIALS = 1.0, 20  # of what is timed, at most
SHELL, SHIFTS, REFERENCES = 24, 29, 4096  # of a search


@dataclass(frozen=True)
class Case:
    """A kernel by name with what it is called with, and what comes out of the call, in one list of tensors.

    arguments: in float64, on the CPU. items: how many slices, evaluations, insertions or scores they are; bytes:
    that cross memory at least; operations: of matrix products. label: by which it is told from others of that kernel.
    wide: the first argument is given room for four numbers a point. repeats: deterministic algorithms are asked for.
    """

    name: str
    arguments: tuple[Any, ...]
    outcome: Callable[[Any, tuple[Any, ...]], list[Tensor]]
    tolerance: float = SINGLE
    items: int = 1
    bytes: float = 0.0
    operations: float = 0.0
    label: str = ""
    wide: bool = False
    repeats: bool = False

    def given(self, device: torch.device, single: bool) -> tuple[Any, ...]:
        """The arguments on a device; single: in float32."""
        found: tuple[Any, ...] = on(self.arguments, device, single)
        return (functional.pad(found[0], (0, 1))[..., :3], *found[1:]) if self.wide else found

    def run(self, given: tuple[Any, ...]) -> Any:
        """What Triton's kernel returns."""
        torch.use_deterministic_algorithms(self.repeats)
        try:
            return kernel(self.name)(*given)
        finally:
            torch.use_deterministic_algorithms(False)

    @property
    def known_as(self) -> str:
        """Kernel and label."""
        return f"{self.name}, {self.label}" if self.label else self.name


@dataclass(frozen=True)
class Peaks:
    """What the GPU does at most: bytes a second that a copy reads and writes, operations a second of TF32 products."""

    copy: float
    product: float


def cases(box: int, images: int) -> list[Case]:
    """Every kernel, on a volume of noise and images at random poses, all shells within Nyquist."""
    random = torch.Generator().manual_seed(box)
    volume = torch.randn(box, box, box, generator=random, dtype=torch.float64)
    band = Band.to_shell(box, band_limit(box))
    half = half_volume(volume, PADDING, band.limit)
    coords, count = band.kxy.double() * PADDING, len(band)
    y = torch.view_as_complex(torch.randn(images, count, 2, generator=random, dtype=torch.float64))
    c = torch.rand(images, count, generator=random, dtype=torch.float64) + 0.5
    rotations = random_rotations(images, random)
    shifts = 2 * torch.randn(images, 2, generator=random, dtype=torch.float64)
    every, one = torch.arange(images), torch.ones(images, dtype=torch.float64)
    axes = rotations[:, :2].contiguous()
    gathered = 8 * 8.0 * images * count  # eight points of eight bytes
    sums = torch.zeros(*half.shape, 3, dtype=torch.float64)
    samples = Samples(every, rotations, shifts, one)
    coarse = band.prefix(min(SHELL, band.limit))
    grid = random_rotations(REFERENCES if box > 32 else 40, random)
    slices = ReferenceSlices.build(half, coarse.kxy.double(), PADDING, grid)
    moves = 2 * torch.randn(SHIFTS, 2, generator=random, dtype=torch.float64)
    phases = shift_phases(coarse.kxy, moves, box).to(torch.complex128)
    k = len(coarse)
    search = 4.0 * images * SHIFTS * len(grid) * k + 2.0 * images * len(grid) * k
    listed = torch.rand(images, min(64, len(grid)), generator=random, dtype=torch.float64).sort(descending=True).values
    order = torch.stack([torch.randperm(len(grid), generator=random)[: listed.shape[1]] for _ in range(images)])
    unit = torch.eye(3, dtype=torch.float64)[None]
    maps = [torch.randn(box, box, box, generator=random, dtype=torch.float64) for _ in range(4)]
    term = Term(maps[1], maps[2], None, Weights(0.7, 0.4, 0.2, 0.3, 0.2, 0.25, 1.0))
    # Eight points of twelve bytes are read and written.
    insertion = Case("insert_samples_", (sums, y, c, coords, band.kxy, box, samples, "trilinear", None),
                     lambda out, given: [given[0]], items=images, bytes=2 * 12 * 8.0 * images * count)
    return [
        Case("project_slices", (half, coords, axes), lambda out, given: [out], items=images,
             bytes=gathered + 8.0 * images * count),
        Case("refine_poses", (half, coords, band.kxy, y, c, Starts(every, rotations, shifts),
                              PolishOptions(box, 0, 1e-2, 1e-3, 0.2)),
             lambda out, given: [out.gain, out.precision], items=images, bytes=gathered + 12.0 * images * count),
        Case("residual_sums", (half, coords, band.kxy, band.shell, box, y, c, torch.ones(1, count).double(), one, axes,
                               shifts), lambda out, given: [out], items=images, bytes=gathered + 12.0 * images * count),
        Case("slope_sums", (half, half.flip(0), coords * 0.981, axes, y, c), lambda out, given: [out], items=images,
             bytes=2 * gathered + 12.0 * images * count),
        insertion,
        replace(insertion, label="four numbers a point", wide=True),
        replace(insertion, label="whole numbers", repeats=True),
        Case("score_block",
             (y[:, :k].contiguous(), c[:, :k].contiguous(), slices, phases, torch.zeros(SHIFTS, dtype=torch.float64)),
             lambda out, given: [out[0]], TF32, items=images * 2 * len(grid) * SHIFTS, operations=search),
        Case("proximal_step", (maps[0], maps[3], torch.tensor(1.7, dtype=torch.float64), term),
             lambda out, given: [out], items=box**3, bytes=20.0 * box**3),
        Case("descent_sums", (maps[0], maps[3], maps[1], term), lambda out, given: [part[None] for part in out],
             items=box**3, bytes=20.0 * box**3),
        Case("distinct_peaks", (listed, order, grid, unit, 0.3, 8, 0.9), lambda out, given: [out.double()],
             items=images),
    ]


def on(value: Any, device: torch.device, single: bool) -> Any:
    """Arguments on a device: the same nest of tuples and dataclasses; single: floating-point numbers of 32 bits."""
    if isinstance(value, Tensor):
        value = value.to(device)
        if single and value.dtype in (torch.float64, torch.complex128):
            value = value.to(torch.complex64 if value.is_complex() else torch.float32)
        return value.clone()
    if is_dataclass(value) and not isinstance(value, type):
        # Poses stay in double precision, as the program has them.
        poses = isinstance(value, Starts | Samples)
        return replace(value, **{f.name: on(getattr(value, f.name), device, single and not poses)
                                 for f in fields(value)})
    return tuple(on(part, device, single) for part in value) if isinstance(value, tuple) else value


def kernel(name: str) -> Callable[..., Any]:
    """Triton's."""
    return getattr(importlib.import_module(f"halfmap.kernels.{TRITON[name]}"), name)  # type: ignore[no-any-return]


class PlainDescent:
    """The steps of a descent in plain torch, as kernels are called."""

    @staticmethod
    def proximal_step(y: Tensor, applied: Tensor, bound: Tensor, term: Term) -> Tensor:
        """See kernels.descent."""
        with without_triton():
            return _problem(term).step(y, applied, bound)

    @staticmethod
    def descent_sums(z: Tensor, applied: Tensor, before: Tensor, term: Term) -> DescentSums:
        """See kernels.descent."""
        with without_triton():
            value = _problem(term).value(z, applied)
        return DescentSums(value, (z - before).double().square().sum(), z.double().square().sum())


def _problem(term: Term) -> Problem:
    w = term.weights
    data = NormalEquations(torch.empty(0), term.linear, (), 0, 1.0, 1.0, 1.0)
    return Problem(data, Penalty(*w.numbers), term.previous)


@contextmanager
def without_triton() -> Iterator[None]:
    """Within the block, kernels are those of plain torch."""
    os.environ[PLAIN_KERNELS] = "1"
    try:
        yield
    finally:
        del os.environ[PLAIN_KERNELS]


def plain(name: str) -> Callable[..., Any]:
    """That in plain torch."""
    modules = (reference, reference_poses, reference_search, PlainDescent)
    return next(getattr(module, name) for module in modules if hasattr(module, name))


def compared(device: torch.device, box: int) -> dict[str, float]:
    """Largest difference of each kernel from float64 plain torch on the CPU, relative to the largest value.

    Raises RuntimeError for one that is too large.
    """
    found = {}
    for case in cases(box, 5):
        mine, wanted = case.given(device, True), case.given(torch.device("cpu"), False)
        if case.name == "project_slices":
            mine = (*mine[:2], mine[2].float(), *mine[3:])
        got = case.outcome(case.run(mine), mine)
        truth = case.outcome(plain(case.name)(*wanted), wanted)
        differences = [float((a.cpu().to(b.dtype) - b).abs().max() / b.abs().max())
                       for a, b in zip(got, truth, strict=True)]
        found[case.known_as] = max(differences)
        print(f"{case.known_as}: differs by {max(differences):.1e} at box {box}", flush=True)
        if not max(differences) < case.tolerance:
            raise RuntimeError(f"{case.known_as} differs from plain torch by {max(differences):.1e} at box {box}")
    return found


def peaks(device: torch.device) -> Peaks:
    """Measured: a copy of 1 GB, a product of 8,192 x 8,192."""
    there = torch.empty(1 << 28, device=device)
    source = torch.ones_like(there)
    a, b = torch.randn(2, 8192, 8192, device=device)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        product = 2 * 8192.0**3 / timed(lambda: a @ b, device)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return Peaks(2 * 4.0 * len(source) / timed(lambda: there.copy_(source), device), product)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Least seconds of some runs, after two that compile and warm up."""
    for _ in range(2):
        work()
    finished(device)
    found: list[float] = []
    while len(found) < TRIALS and sum(found) < SECONDS:
        began = time.perf_counter()
        work()
        finished(device)
        found.append(time.perf_counter() - began)
    return min(found)


def rates(device: torch.device, box: int, peak: Peaks) -> dict[str, dict[str, float]]:
    """Of each kernel at a box: items a second, part of the copy's bytes and of the product's operations that it
    reaches, and how many times faster it is than plain torch on this device."""
    images = max(16, min(512, (1 << 25) // box**2))
    found = {}
    for case in cases(box, images):
        given = case.given(device, True)
        seconds = timed(lambda case=case, given=given: case.run(given), device)
        other = timed(lambda case=case, given=given: plain(case.name)(*given), device)
        row = {"a_second": case.items / seconds, "faster_than_plain_torch": other / seconds}
        row |= {"of_copy": case.bytes / seconds / peak.copy} if case.bytes else {}
        row |= {"of_product": case.operations / seconds / peak.product} if case.operations else {}
        found[case.known_as] = row
        told = ", ".join(f"{name} {value:,.3g}" for name, value in row.items())
        print(f"box {box} {case.known_as}: {told}", flush=True)
        if not math.isfinite(seconds):
            raise RuntimeError(f"{case.known_as}: no time")
    return found


def crossings(device: torch.device, box: int, images: int = 1024, batches: int = 8) -> dict[str, float]:
    """Images a second that cross to the device and are normalised there, for each type that they are stored in."""
    found = {}
    for kind in KEPT:
        stored = [StoredImages(np.arange(images), room_for_images((images, box, box), kind, device)) for _ in range(2)]
        for one in stored:
            one.images[:] = np.arange(box) % 100

        def work(stored: list[StoredImages] = stored) -> None:
            for arrived in across((stored[i % 2] for i in range(batches)), device):
                normalise(arrived.images, box / 3)

        found[kind.name] = images * batches / timed(work, device)
    return found


def solves(device: torch.device, box: int) -> dict[str, float]:
    """Seconds of a solve of noise by regularisers, with sums on the device, and with sums that lie in the machine's
    memory and come back; and of the same with kernels in plain torch."""
    limit = (box + 1) // 2 - 1
    mask = spherical_mask(box, box / 3, 3.0).to(device)

    def quarter(place: Place) -> Backprojection:
        empty = Backprojection.zeros(box, PADDING, limit, torch.zeros((), device=device))
        return replace(empty, sums=place(torch.randn_like(empty.sums).abs_()))

    def solve(name: str, place: Place) -> None:
        sums = tuple(tuple(quarter(place) for _ in (0, 1)) for _ in (0, 1))
        unit = torch.eye(3, device=device)[None]
        with sums_put(place, None if place is in_memory else device):
            halves = HalfSets.build(sums, unit, 1.0, lambda a, b: corrected_fsc(
                a, b, mask, torch.Generator(device).manual_seed(0)))
            regulariser_named(name).solve(halves, mask, {})

    found = {}
    for name in ("uniform", "nonuniform", "sparse_smooth"):
        found[name] = _once(lambda name=name: solve(name, in_memory), device)
        found[f"{name}, sums elsewhere"] = _once(lambda name=name: solve(name, on_host), device)
    with without_triton():
        found["sparse_smooth, plain torch"] = _once(lambda: solve("sparse_smooth", in_memory), device)
    return found


def _once(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the second of two runs."""
    work()
    finished(device)
    began = time.perf_counter()
    work()
    finished(device)
    return time.perf_counter() - began
