"""Triton's kernels against float64 plain torch, and their rates beside what the GPU can do at all."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from halfmap.expectation.score import ReferenceSlices, shift_phases
from halfmap.fourier.band import Band, band_limit
from halfmap.fourier.transform import half_volume
from halfmap.geometry.rotations import random_rotations
from halfmap.kernels import reference, reference_poses, reference_search
from halfmap.kernels.paths import TRITON
from halfmap.kernels.poses import PolishOptions, Samples, Starts
from halfmap.runtime.device import finished

PADDING = 2
PLAIN = (reference, reference_poses, reference_search)
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


def plain(name: str) -> Callable[..., Any]:
    """That in plain torch."""
    return next(getattr(module, name) for module in PLAIN if hasattr(module, name))


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
