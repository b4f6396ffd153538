"""Speed of the kernels on one core, beside the plain-torch reference and, where installed, other projectors.

python benchmarks/speed/kernels.py [--boxes 64 128 256] [--repeats 5] [--result FILE.json]

Slices (or pose evaluations) per core-second: CPU time of one thread, the best of several rounds in which the
candidates take turns; what else the machine does only ever adds to it. The volume is padded twice; slices are
trilinear, in single precision, of all coefficients inside Nyquist, in uniform orientations. A pose evaluation is a
slice with its derivatives with respect to three rotations and two shifts and the 5 x 5 normal matrix; residuals are a
slice and what it and its image have in common and leave, by shell. A step of the descent to a sparse and smooth map is
the minimiser of its bound and what it has reached, without the transforms between them. Before anything is timed, what
the compiled kernels compute is compared with the reference. Writes benchmarks/results/kernels.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: idle threads must not spin

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "claims"))
from evidence import RESULTS, circumstances, write_record
from judge import shown
from peers import Projector, peers

from halfmap import kernels
from halfmap.expectation.score import ReferenceSlices, score_grid, shift_phases
from halfmap.fourier.band import Band, band_limit
from halfmap.fourier.transform import half_volume
from halfmap.geometry.rotations import random_rotations
from halfmap.kernels import reference, reference_poses
from halfmap.kernels.poses import Polished, PolishOptions, Samples, Starts
from halfmap.regularisation.normal_equations import NormalEquations
from halfmap.regularisation.proximal import Penalty, Reached
from halfmap.regularisation.proximal import Problem as Descended

PADDING = 2
TOLERANCE = 1e-4  # largest difference from the reference, relative to its largest value
FAST, SLOW = 5e7, 4e6  # samples that a compiled kernel and the others interpolate in a round: seconds of work
OWN_VOLUME = 3  # others make a new volume in each call of an insertion: more slices, so that it hardly counts
GRID = {"images": 64, "references": 1024, "shifts": 29, "shell": 24}  # of a score at 24 shells, about 8 A at box 96


@dataclass(frozen=True)
class Problem:
    """One box: a volume and its half volume, the band up to Nyquist, and rotations to draw from."""

    box: int
    volume: Tensor
    half: Tensor
    band: Band
    coords: Tensor

    @staticmethod
    def build(box: int, random: torch.Generator) -> Problem:
        """A volume of noise."""
        volume = torch.randn(box, box, box, generator=random)
        band = Band.to_shell(box, band_limit(box))
        return Problem(box, volume, half_volume(volume, PADDING, band.limit), band, band.kxy.float() * PADDING)

    def count(self, work: float) -> int:
        """Slices that make up `work` samples."""
        return max(4, int(work / len(self.band)))


@dataclass
class Candidate:
    """A way to do the same thing: run() does `count` items; seconds hold the CPU time of each round."""

    name: str
    count: float
    run: Callable[[], object]
    seconds: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Items per core-second."""
        return self.count / min(self.seconds)


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Kernels, slices per core-second.")
    parser.add_argument("--boxes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--result", type=Path, default=RESULTS / "kernels.json", metavar="FILE.json")
    return parser.parse_args()


def take_turns(candidates: list[Candidate], repeats: int) -> None:
    """Time the candidates round by round, after one round that counts for nothing (compilation, page faults)."""
    for turn in range(repeats + 1):
        for candidate in candidates:
            started = time.process_time()
            candidate.run()
            if turn:
                candidate.seconds.append(time.process_time() - started)


def require_equal(name: str, found: Tensor, wanted: Tensor) -> None:
    """Stop where two candidates do not compute the same."""
    difference = float((found - wanted).abs().max() / wanted.abs().max())
    if not difference < TOLERANCE:
        raise SystemExit(f"kernels: {name} differs from the reference by {difference:.1e}; nothing was timed")


def extraction(problem: Problem, others: list[Projector], random: torch.Generator) -> list[Candidate]:
    """Slices out of a volume."""
    few = random_rotations(problem.count(SLOW), random)
    many = random_rotations(problem.count(FAST), random)
    axes = few[:, :2].float()
    wanted = reference.project_slices(problem.half, problem.coords, axes[:4])
    require_equal("project_slices", kernels.project_slices(problem.half, problem.coords, few[:4]), wanted)
    candidates = [
        Candidate("Halfmap", len(many), lambda: kernels.project_slices(problem.half, problem.coords, many)),
        Candidate("plain torch", len(few), lambda: reference.project_slices(problem.half, problem.coords, axes))]
    for other in others:
        candidates.append(Candidate(other.name, len(few), partial(other.extraction(problem.volume, PADDING), few)))
    return candidates


def insertion(problem: Problem, others: list[Projector], random: torch.Generator) -> list[Candidate]:
    """Slices and weights into a volume."""
    many, few = problem.count(FAST), problem.count(SLOW)
    values = torch.randn(many, len(problem.band), dtype=torch.complex64, generator=random)
    weights = torch.rand(many, len(problem.band), generator=random)
    rotations, shifts = random_rotations(many, random), torch.zeros(many, 2)
    axes = rotations[:, :2].float()
    target = torch.zeros(*problem.half.shape, 3)

    def ours(count: int) -> None:
        samples = Samples(torch.arange(count), rotations[:count], shifts[:count], torch.ones(count))
        kernels.insert_slices_(target, values, weights, problem.coords, problem.band.kxy, problem.box, samples)

    def plain(count: int) -> None:
        reference.insert_slices_(target, values[:count], weights[:count], problem.coords, axes[:count])

    ours(4)
    found = target.clone()
    target.zero_()
    plain(4)
    require_equal("insert_slices_", found, target)
    candidates = [Candidate("Halfmap", many, lambda: ours(many)), Candidate("plain torch", few, lambda: plain(few))]
    number = min(many, OWN_VOLUME * few)
    for other in others:
        candidates.append(Candidate(other.name, number,
                                    partial(other.insertion(problem.box, PADDING, random), rotations[:number])))
    return candidates


def evaluation(problem: Problem, random: torch.Generator) -> list[Candidate]:
    """Value, gradient and normal matrix of the likelihood of a pose."""
    many, few = problem.count(FAST / 4), problem.count(SLOW / 4)
    size = min(many, 64)
    y = torch.randn(size, len(problem.band), dtype=torch.complex64, generator=random)
    c = torch.rand(size, len(problem.band), generator=random)
    image, rotations = torch.arange(many) % size, random_rotations(many, random)
    shifts = torch.randn(many, 2, generator=random, dtype=torch.float64)
    options = PolishOptions(problem.box, 0, 1e-2, 1e-3, 0.2)  # no steps: evaluate the starts

    def with_starts(refine: Callable[..., Polished], count: int) -> Polished:
        starts = Starts(image[:count], rotations[:count], shifts[:count])
        return refine(problem.half, problem.coords, problem.band.kxy, y, c, starts, options)

    ours, plain = partial(with_starts, kernels.refine_poses), partial(with_starts, reference_poses.refine_poses)
    found, wanted = ours(4), plain(4)
    require_equal("refine_poses", found.gain, wanted.gain)
    require_equal("refine_poses", found.precision, wanted.precision)
    return [Candidate("Halfmap", many, lambda: ours(many)), Candidate("plain torch", few, lambda: plain(few))]


def residuals(problem: Problem, random: torch.Generator) -> list[Candidate]:
    """Sums over shells of images and their models at given poses, for noise and contrast."""
    band, many, few = problem.band, problem.count(FAST / 8), problem.count(SLOW / 8)
    y = torch.randn(many, len(band), dtype=torch.complex64, generator=random)
    c, scale, weight = torch.randn(many, len(band), generator=random), torch.ones(many), torch.ones(1, len(band))
    rotations, shifts = random_rotations(many, random), torch.randn(many, 2, generator=random, dtype=torch.float64)
    fixed = (problem.half, problem.coords, band.kxy, band.shell, problem.box)

    def ours(count: int) -> Tensor:
        images = (part[:count] for part in (y, c, scale, rotations, shifts))
        return kernels.residual_sums(*fixed, *images).power

    def plain(count: int) -> Tensor:
        axes = rotations[:count, :2].float()
        return reference.residual_sums(*fixed, y[:count], c[:count], weight, scale[:count], axes, shifts[:count])

    require_equal("residual_sums", ours(4), plain(4)[..., 0])
    return [Candidate("Halfmap", many, lambda: ours(many)), Candidate("plain torch", few, lambda: plain(few))]


def scoring(problem: Problem, random: torch.Generator) -> list[Candidate]:
    """The exhaustive search; its items are floating-point operations of the matrix products (in 10^9)."""
    band = problem.band.prefix(min(GRID["shell"], problem.band.limit))
    rotations = random_rotations(GRID["references"], random)
    slices = ReferenceSlices.build(problem.half, band.kxy.double(), PADDING, rotations)
    y = torch.randn(GRID["images"], len(band), dtype=torch.complex64, generator=random)
    c = torch.rand(GRID["images"], len(band), generator=random)
    shifts = 2 * torch.randn(GRID["shifts"], 2, generator=random, dtype=torch.float64)
    phases, prior = shift_phases(band.kxy, shifts, problem.box), torch.zeros(GRID["shifts"])
    best = score_grid(y, c, slices, phases, prior)[0][0, 0]
    one = (2 * (c[0] * y[0] * phases) @ torch.complex(slices.real[0], -slices.imag[0])).real.max()
    require_equal("score_grid", best[None], (one - (c[0] ** 2 * slices.power[0]).sum())[None])
    per_image = 2 * len(band) * GRID["references"] * (2 * GRID["shifts"] + 1)
    operations = per_image * GRID["images"] / 1e9
    left = torch.randn(GRID["images"] * GRID["shifts"], len(band), generator=random)

    def products() -> None:
        for _ in range(2):
            left @ slices.real.T

    return [Candidate("Halfmap", operations, lambda: score_grid(y, c, slices, phases, prior)),
            Candidate("matrix products alone", operations, products)]


def descent(problem: Problem, random: torch.Generator) -> list[Candidate]:
    """Steps to a sparse and smooth map, and what each has reached, at places of different strength."""
    box, count = problem.box, max(1, int(FAST / 8 / problem.box**3))
    linear, previous, y, applied = (torch.randn(box, box, box, generator=random) for _ in range(4))
    strength = 0.5 + torch.rand(box, box, box, generator=random)
    penalty = Penalty(0.7, 0.4, 0.2, 0.3, 0.2, 0.25, 1.3, local=strength)
    sparse = Descended(NormalEquations(torch.empty(0), linear, (), 0, 1.0, 1.0, 1.0), penalty, previous)
    bound = torch.tensor(1.7, dtype=torch.float64)

    def steps(step: Callable[..., Tensor], reached: Callable[..., Reached], times: int) -> Reached:
        for _ in range(times):
            last = reached(step(y, applied, bound), applied, y)
        return last

    step = sparse.step(y, applied, bound)
    require_equal("proximal_step", step, sparse.plain_step(y, applied, bound))
    require_equal("descent_sums", sparse.reached(step, applied, y).value,
                  sparse.plainly_reached(step, applied, y).value)
    return [Candidate("Halfmap", count, partial(steps, sparse.step, sparse.reached, count)),
            Candidate("plain torch", count, partial(steps, sparse.plain_step, sparse.plainly_reached, count))]


def main() -> int:
    """Time everything."""
    given = options()
    kernels.set_threads(1)
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    others, absent = peers()
    for name, reason in absent.items():
        print(f"{name}: not compared ({reason})")
    rates: dict[str, dict[str, dict[str, float]]] = {}
    record: dict[str, Any] = {**circumstances(), "not_compared": absent}
    for box in given.boxes:
        problem = Problem.build(box, random)
        for task, make in (("slices out of a volume", partial(extraction, problem, others, random)),
                           ("slices into a volume", partial(insertion, problem, others, random)),
                           ("pose evaluations", partial(evaluation, problem, random)),
                           ("residuals of images", partial(residuals, problem, random)),
                           ("exhaustive score, GFLOP", partial(scoring, problem, random)),
                           ("steps of a descent", partial(descent, problem, random))):
            candidates = make()
            take_turns(candidates, given.repeats)
            for candidate in candidates:
                rates.setdefault(task, {}).setdefault(candidate.name, {})[str(box)] = candidate.rate
        write_record(given.result, record | {"per_core_second": rates})
    report(rates, [str(box) for box in given.boxes])
    return 0


def report(rates: dict[str, dict[str, dict[str, float]]], boxes: list[str]) -> None:
    """A table for each kernel: rates, and below them how many times faster the first is."""
    for task, by_name in rates.items():
        first = next(iter(by_name.values()))
        rows: list[tuple[str, list[float | None], str]] = [
            (name, [rate[box] for box in boxes], ",.0f") for name, rate in by_name.items()]
        rows += [(f"Halfmap : {name}", [first[box] / rate[box] for box in boxes], ".1f")
                 for name, rate in list(by_name.items())[1:]]
        shown(rows, [f"box {box}" for box in boxes], f"{task} per core-second")


if __name__ == "__main__":
    sys.exit(main())
