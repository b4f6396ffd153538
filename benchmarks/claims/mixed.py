"""Particles among images that hold none: are they refined as if they were alone, and what is said of the others?

python benchmarks/claims/mixed.py --out FOLDER --result benchmarks/results/mixed.json [--sets transporter] [--count N]
    [--shares 0.1 0.3 0.5 0.7] [--seeds 1] [--regulariser uniform nonuniform] [--options='--no-null-hypothesis']
    [--without broken]

`halfmap simulate --junk SHARE` makes of that share of all images one half noise and one half broken particles. Each set
is refined whole, and its intact particles alone; both are judged by the poses of the intact particles and their map.
With it stand how many of the intact, empty and broken ones have a probability of a particle above one half.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DataSet, simulated
from evidence import CommandFailed, circumstances, write_record
from halfmap_run import iterations, refine
from judge import Truth, intact, judge, rigid_part, shown

from halfmap.errors import InputError
from halfmap.particles.star import read_star, write_star
from halfmap.particles.table import ParticleTable
from halfmap.simulation.simulate import BROKEN, EMPTY, INTACT
from halfmap.validation.poses import matching_rows

KINDS = {"broken": BROKEN, "empty": EMPTY}
ROWS = [
    ("real particles", "real", "d"),
    ("pose error, median, deg", "pose_median", ".2f"),
    ("pose error, 80th percentile, deg", "pose_p80", ".2f"),
    ("above 10 deg, share", "pose_above10", ".3f"),
    ("mean map to truth, FSC 0.5, A", "truth_mean_05", ".2f"),
    ("mean FSC beyond 12 A", "truth_mean_average", ".3f"),
    ("half maps 0.143 unmasked, A", "half_0143_unmasked", ".2f"),
    ("taken for particles: intact", "taken_intact", ".3f"),
    ("taken for particles: empty", "taken_empty", ".3f"),
    ("taken for particles: broken", "taken_broken", ".3f"),
    ("iterations", "iterations", "d"),
    ("CPU seconds", "cpu_seconds", ".0f"),
]


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Particles among images that hold none.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--sets", nargs="+", default=["transporter"])
    parser.add_argument("--count", type=int, default=1000, help="images in all")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.1, 0.3, 0.5, 0.7])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--regulariser", nargs="+", default=["uniform", "nonuniform"])
    parser.add_argument("--without", choices=sorted(KINDS), help="leave this kind of junk out of the whole set")
    parser.add_argument("--options", default="", help="more options of halfmap refine, for the whole set")
    return parser.parse_args()


def taken(refined: ParticleTable, truth: ParticleTable) -> dict[str, float]:
    """Of each kind of image, the share whose probability of a particle is above one half."""
    kinds = np.asarray(truth.columns["rlnClassNumber"], np.float64)[matching_rows(refined, truth).numpy()]
    p = np.asarray(refined.columns["halfmapParticleProbability"], np.float64)
    return {f"taken_{name}": float((p[kinds == kind] > 0.5).mean())
            for name, kind in (("intact", INTACT), ("empty", EMPTY), ("broken", BROKEN)) if (kinds == kind).any()}


def measured(data: DataSet, particles: Path, words: list[object], folder: Path) -> dict[str, Any]:
    """One refinement, judged by its intact particles."""
    cost = refine([particles, "--map", data.map, "--diameter", f"{data.diameter:g}", "--symmetry", data.symmetry,
                   "--threads", 1, *words], folder)
    truth = Truth(read_star(data.truth), data.symmetry, rigid_part(data.model, data.rigid_out))
    refined = read_star(folder / "particles.star")
    return {
        "command": cost.command, "cpu_seconds": cost.cpu_seconds, "iterations": iterations(folder),
        "real": len(intact(refined, truth.table)), **taken(refined, truth.table),
        **judge(refined, folder / "half1_unfil.mrc", folder / "half2_unfil.mrc", truth),
    }


def alone(data: DataSet) -> Path:
    """A file with the intact particles of a set only."""
    table = read_star(data.particles)
    path = data.particles.with_name("intact.star")
    write_star(path, table.select(intact(table, read_star(data.truth))))
    return path


def without(data: DataSet, kind: str) -> Path:
    """A file with all images of a set but one kind of junk."""
    table, truth = read_star(data.particles), read_star(data.truth)
    kinds = np.asarray(truth.columns["rlnClassNumber"], np.float64)[matching_rows(table, truth).numpy()]
    path = data.particles.with_name(f"without_{kind}.star")
    write_star(path, table.select(np.flatnonzero(kinds != KINDS[kind])))
    return path


def main() -> int:
    """Refine every set whole, and its intact particles alone."""
    given = options()
    results: dict[str, dict[str, Any]] = {}
    try:
        for name in given.sets:
            for seed in given.seeds:
                for share in given.shares:
                    data = simulated(name, seed, given.count, ["--junk", f"{share:g}"], given.out / f"junk_{share:g}")
                    for regulariser in given.regulariser:
                        words = ["--regulariser", regulariser, "--seed", seed]
                        key = f"{name} {share:.0%} seed {seed} {regulariser}"
                        folder = given.out / key.replace(" ", "_").replace("%", "")
                        results[f"{key} alone"] = measured(data, alone(data), words, folder / "alone")
                        whole = [*words, *shlex.split(given.options)]
                        if given.without:
                            key += f" without {given.without}"
                        particles = without(data, given.without) if given.without else data.particles
                        results[key] = measured(data, particles, whole, folder / f"whole{given.without or ''}")
                        write_record(given.result, circumstances() | {"results": results})
    except (InputError, CommandFailed) as error:
        print(f"mixed: error: {error}", file=sys.stderr)
        return 2
    shown([(label, [result.get(key) for result in results.values()], style) for label, key, style in ROWS],
          list(results), "particles among images that hold none")
    return 0


if __name__ == "__main__":
    sys.exit(main())
