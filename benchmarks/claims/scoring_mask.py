"""Poses against the true map by finest shell and defocus: how images are masked, and what the likelihood knows of it.

python benchmarks/claims/scoring_mask.py FOLDER --diameter 130 [--symmetry O] [--finest 3 4 6 10]
    [--result benchmarks/results/scoring_mask.json]

FOLDER is what `halfmap simulate` wrote (particles_truth.star, truth.mrc). It starts from true poses that are turned by
half a degree about each axis and moved by 0.3 A, and runs two expectation steps against the true map: the first one
measures the noise. Printed are the errors of the second one's poses, its log-likelihood, and error over stated sd, also
of the thirds of the images with the lowest and the highest defocus.

Three ways: *tight, whole* masks images at the particle's radius and takes the model as if it were all there; *tight*
counts what the mask leaves of the model; *wide* does so too, and its mask for shells finer than 8 A is as wide as the
CTF spreads their signal, as in a refinement.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence import RESULTS, circumstances, write_record
from judge import shown
from torch import Tensor

from halfmap.errors import InputError
from halfmap.expectation.search import Sampling
from halfmap.geometry.rotations import angular_distance, rotation_vector_to_matrix
from halfmap.imaging.delocalisation import ProjectedPower
from halfmap.particles.star import read_star, write_star
from halfmap.particles.table import ParticleTable, with_poses
from halfmap.refinement import em, imaging_model
from halfmap.refinement.problem import Prepared, prepared
from halfmap.refinement.schedule import Plan
from halfmap.runtime.progress import Progress
from halfmap.settings.refine import RefineSettings

TURN, MOVE = 0.5, 0.3  # degrees and A along each axis by which starts are off
TIGHT, WIDE = 1e-3, imaging_model.FINE  # A from which on the wide mask is used
WITHIN = ProjectedPower.within
ROWS = [
    ("pose error, median, deg", "angle", ".3f"),
    ("pose error, 80th percentile, deg", "angle_p80", ".3f"),
    ("shift error, median, A", "shift", ".4f"),
    ("log-likelihood above noise", "gain", ".0f"),
    ("rms angle error / stated", "angle_ratio", ".2f"),
    ("rms shift error / stated", "shift_ratio", ".2f"),
    ("low defocus: pose error, median, deg", "angle_low", ".3f"),
    ("low defocus: rms angle error / stated", "angle_ratio_low", ".2f"),
    ("high defocus: pose error, median, deg", "angle_high", ".3f"),
    ("high defocus: rms angle error / stated", "angle_ratio_high", ".2f"),
]


@dataclass(frozen=True)
class Way:
    """A way to score. fine: A from which on the wide mask is used; knows: whether what is left of the model counts."""

    fine: float
    knows: bool


WAYS = {"tight, whole": Way(TIGHT, False), "tight": Way(TIGHT, True), "wide": Way(WIDE, True)}


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Poses against the true map, by the mask for scoring.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--diameter", type=float, required=True)
    parser.add_argument("--symmetry", default="C1")
    parser.add_argument("--finest", nargs="+", type=float, default=[3.0, 4.0, 6.0, 10.0])
    parser.add_argument("--result", type=Path, default=RESULTS / "scoring_mask.json")
    return parser.parse_args()


def begun(given: argparse.Namespace, truth: ParticleTable) -> Prepared:
    """A refinement that begins with the true map and poses that are a little off."""
    generator = torch.Generator().manual_seed(0)
    count = len(truth)
    turns = torch.deg2rad(TURN * torch.randn(count, 3, generator=generator, dtype=torch.float64))
    moves = MOVE * torch.randn(count, 2, generator=generator, dtype=torch.float64)
    off = rotation_vector_to_matrix(turns) @ truth.rotations
    star = given.folder / "perturbed.star"
    write_star(star, with_poses(truth, off, truth.origins + moves, np.arange(count) % 2, {}))
    finest = 2 * min(group.pixel_size for group in truth.optics)
    return prepared(RefineSettings(
        particles=star, map=given.folder / "truth.mrc", diameter=given.diameter, symmetry=given.symmetry,
        out=given.folder / "unused", search="local", ini_high=1.05 * finest, flatten_solvent=False,
        null_hypothesis=False, threads=1), Progress())


def errors(ready: Prepared, truth: ParticleTable, finest: float) -> dict[str, Any]:
    """Errors of poses from two expectation steps up to a resolution (A)."""
    problem, state = ready.problem, ready.state
    limit = int(problem.grid.length / finest)
    sampling = Sampling("local", limit, symmetry=problem.schedule.symmetry)
    for step in range(2):
        found = em.expectation_step(state, problem.source, problem.model, Plan("local", sampling, limit, "best"), step)
        new = em.next_state(state, found, problem.model, problem.source.table.pixel_size)
        state = replace(new, scale=ready.state.scale)
    poses = found.poses
    angle = angular_distance(poses.rotations[:, 0], truth.rotations, problem.schedule.symmetry)
    shift = (poses.shifts[:, 0].double() + truth.origins / truth.pixel_size[:, None]).norm(dim=1)
    near = angle < 5 * angle.median()
    angle_sd, shift_sd = 3**0.5 * poses.angle_sd.double(), 2**0.5 * poses.shift_sd.double()
    defocus = truth.defocus.u
    low, high = (defocus < defocus.quantile(1 / 3)), (defocus > defocus.quantile(2 / 3))

    def ratio(error: Tensor, stated: Tensor, some: Tensor) -> float:
        return float((error[some].square().mean() / stated[some].square().mean()).sqrt())

    return {
        "angle": float(angle.median()), "angle_p80": float(angle.quantile(0.8)),
        "shift": float(shift.median()) * problem.grid.pixel_size, "gain": float(poses.gain.mean()),
        "angle_ratio": ratio(angle, angle_sd, near), "shift_ratio": ratio(shift, shift_sd, near),
        "angle_low": float(angle[low].median()), "angle_ratio_low": ratio(angle, angle_sd, near & low),
        "angle_high": float(angle[high].median()), "angle_ratio_high": ratio(angle, angle_sd, near & high),
    }


def whole(power: ProjectedPower, mask: Tensor, distance: Tensor) -> Tensor:
    """All of the model is left, whatever the mask."""
    return torch.ones_like(distance)


def main() -> int:
    """Measure both masks at every resolution."""
    given = options()
    try:
        truth = read_star(given.folder / "particles_truth.star")
        results = {}
        for finest in given.finest:
            for name, way in WAYS.items():
                imaging_model.FINE = way.fine
                ProjectedPower.within = WITHIN if way.knows else whole
                results[f"{finest:g} A {name}"] = errors(begun(given, truth), truth, finest)
    except InputError as error:
        print(f"scoring_mask: error: {error}", file=sys.stderr)
        return 2
    write_record(given.result, circumstances() | {"particles": len(truth), "results": results})
    shown([(label, [result[key] for result in results.values()], style) for label, key, style in ROWS],
          list(results), f"{len(truth)} particles of {given.folder.name} against the true map")
    return 0


if __name__ == "__main__":
    sys.exit(main())
