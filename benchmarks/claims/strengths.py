"""How strong should sparse_smooth and joined be? Their maps against the truth over a range, at the poses of a run.

python benchmarks/claims/strengths.py RUN --truth truth.star --model model.pdb [--rigid-out F] [--symmetry C1]
    [--levels 3] [--result benchmarks/results/strengths.json]

Both half sets of a finished run are summed at its poses: with all particles, with half of them, a quarter, and so on.
From each sum a map is solved for with the default alpha and beta times a factor, over a range of factors, everywhere
alike (sparse_smooth) and by place (joined), and compared with the truth. What the strengths could be relative to stands
beside the best factor: the noise, as they are, and the rms that the paper names. What cross-validation chooses, within
the half set, is there too.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from evidence import RESULTS, circumstances, write_record
from judge import Truth, add_truth, against_map, intact, known_truth, placed_map, shown
from torch import Tensor

from halfmap import kernels
from halfmap.errors import InputError
from halfmap.geometry.symmetry import symmetry_group
from halfmap.particles.star import read_star
from halfmap.reconstruction.inverse import reconstruct
from halfmap.reconstruction.statistics import Backprojection
from halfmap.regularisation.normal_equations import NormalEquations
from halfmap.regularisation.protocol import HalfSets
from halfmap.regularisation.sparse_smooth import Joined, SparseSmooth, density_level, solving_box
from halfmap.regularisation.wiener import Uniform
from halfmap.validation.fsc import corrected_fsc
from halfmap.validation.model_map import density_mask
from halfmap.validation.poses import pose_error
from halfmap.workflows.fixed_poses import FixedRun, empty_sums, insert_, random_orders, read_fixed_run

FACTORS = tuple(2.0**k for k in range(-4, 5))
STEPS = 200  # of each descent, so that all factors end where they lead
SMALL = 100  # particles of a half set: with fewer nothing is measured


@dataclass(frozen=True)
class Expected:
    """The truth in a run's frame: the map [z, y, x] of its rigid part, and the mask around it."""

    map: Tensor
    mask: Tensor


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="sparse_smooth over a range of strengths, judged by the truth.")
    parser.add_argument("run", type=Path, help="a finished run")
    add_truth(parser)
    parser.add_argument("--levels", type=int, default=3, help="how often the particles are halved")
    parser.add_argument("--name", help="of the set in the results (default: the name of the truth's folder)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--result", type=Path, default=RESULTS / "strengths.json", metavar="FILE.json")
    return parser.parse_args()


def expected(run: FixedRun, truth: Truth) -> Expected:
    """The truth on the grid and in the frame of a run."""
    refined = read_star(run.folder / "particles.star")
    poses = pose_error(refined.select(intact(refined, truth.table)), truth.table, symmetry_group(truth.symmetry))
    assert truth.rigid is not None  # known_truth reads a model
    found = placed_map(truth.rigid, poses, run.own.box, run.own.pixel_size)
    return Expected(found, density_mask(found, run.own.pixel_size))


def measured(run: FixedRun, sums: tuple[tuple[Backprojection, ...], ...], truth: Expected) -> dict[str, Any]:
    """Everything that is measured of sums [h][q] of half sets and quarter sets."""
    pixel_size, mask = run.own.pixel_size, run.own.mask

    def curves(first: Tensor, second: Tensor) -> Any:
        return corrected_fsc(first, second, mask, torch.Generator().manual_seed(0))

    halves = HalfSets.build(sums, run.model.symmetry, pixel_size, curves)
    half, window = halves.halves[0], mask > 0
    plain = reconstruct(half)

    def score(data: Tensor) -> float:
        return float(against_map(data.float(), truth.map, truth.mask, pixel_size, "it")["it_average"])

    box = solving_box(half)
    data, level = NormalEquations.of(half.coarser(half.limit, box), half.box / box), density_level(plain, pixel_size)
    halves = replace(halves, window=window)
    by_factor, by_place = ([score(strengthened(method, factor).solve(halves, mask, {}).maps[0]) for factor in FACTORS]
                           for method in (SparseSmooth(steps=STEPS), Joined(steps=STEPS)))
    uniform = Uniform().solve(halves, mask, {})
    chosen = SparseSmooth(parameters="cross-validated").solve(halves, mask, {})
    inside = truth.map[truth.mask > 0.5]
    return {
        "factors": FACTORS, "average": by_factor, "best": interpolated(by_factor), "joined": by_place,
        "joined_best": interpolated(by_place), "uniform": score(uniform.maps[0]),
        "cross_validated": chosen.chosen["strength"][0][0], "cross_validated_average": score(chosen.maps[0]),
        "rms": data.rms, "noise": data.noise, "level": level, "mean_weight": data.mean_weight, "limit": half.limit,
        "box": half.box, "map_rms": float(plain[truth.mask > 0.5].square().mean().sqrt()),
        "truth_rms": float(inside.square().mean().sqrt()), "filled": float(window.float().mean()),
    }


def strengthened(method: SparseSmooth, factor: float) -> SparseSmooth:
    """The method with alpha and beta times a factor."""
    return replace(method, alpha=method.alpha * factor, beta=method.beta * factor)


def interpolated(values: list[float]) -> float:
    """The factor at the top of the parabola through the best value and its neighbours."""
    i = values.index(max(values))
    if i in (0, len(values) - 1):
        return FACTORS[i]
    a, b, c = values[i - 1:i + 2]
    return FACTORS[i] * 2.0 ** (0.5 * (a - c) / (a - 2 * b + c))


def main() -> int:
    """Measure one run and add it to the results."""
    given = options()
    try:
        kernels.set_threads(given.threads)
        torch.set_num_threads(kernels.thread_count())
        truth, run = known_truth(given), read_fixed_run(given.run, None)
        name, place = given.name or given.truth.resolve().parent.name, expected(run, truth)
        record: dict[str, Any] = circumstances()
        results = json.loads(given.result.read_text(encoding="utf-8"))["results"] if given.result.exists() else {}
        orders, rows = random_orders(run.source.table, 0), []
        sums, done = tuple(tuple(empty_sums(run) for _ in range(2)) for _ in range(2)), [0, 0]
        for level in range(given.levels, -1, -1):
            for h, order in enumerate(orders):
                stop = len(order) >> level
                for q in (0, 1):
                    insert_(sums[h][q], run, order[done[h]:stop][q::2], lambda n: None)
                done[h] = stop
            if min(done) >= SMALL:
                complete = tuple(tuple(part.completed_() for part in half) for half in sums)
                rows.append({"particles": sum(done)} | measured(run, complete, place))
                results[f"{name} {sum(done)}"] = {"set": name, "regulariser": run.regulariser} | rows[-1]
                write_record(given.result, record | {"results": results})
    except InputError as error:
        print(f"strengths: error: {error}", file=sys.stderr)
        return 2
    shown([(f"factor {f:g}", [row["average"][i] for row in rows], ".3f") for i, f in enumerate(FACTORS)]
          + [("uniform", [row["uniform"] for row in rows], ".3f"),
             ("cross-validated", [row["cross_validated_average"] for row in rows], ".3f"),
             ("its factor", [row["cross_validated"] for row in rows], ".2f"),
             ("best factor", [row["best"] for row in rows], ".2f"),
             ("rms / noise", [row["rms"] / row["noise"] for row in rows], ".2f"),
             ("level / noise", [row["level"] / row["noise"] for row in rows], ".2f")]
          + [(f"joined, factor {f:g}", [row["joined"][i] for row in rows], ".3f") for i, f in enumerate(FACTORS)]
          + [("joined, best factor", [row["joined_best"] for row in rows], ".2f")],
          [f"{row['particles']:,}" for row in rows], f"{name}: half map 1 against the truth, mean FSC beyond 12 A")
    return 0


if __name__ == "__main__":
    sys.exit(main())
