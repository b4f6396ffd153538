"""The same particles refined under several options and judged by the truth: how a default was chosen.

python benchmarks/claims/variants.py particles.star --map initial_30A.mrc --diameter 170 --truth particles_truth.star
    --model model.pdb --rigid-out T --out FOLDER --result benchmarks/results/posterior.json
    --variant "best=--posterior best" --variant "modes=--posterior modes" --variant "sigma=--posterior sigma"

A variant may also replace the starting map ("poor start=--map particles_truth.mrc"). Prints a table, writes the result.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from evidence import CommandFailed, circumstances, write_record
from halfmap_run import iterations, refine
from judge import add_known_truth, judge, known_truth, shown

from halfmap.errors import InputError
from halfmap.particles.star import read_star

ROWS = [
    ("CPU seconds", "cpu_seconds", ",.0f"),
    ("wall seconds", "wall_seconds", ",.0f"),
    ("peak memory, MB", "peak_rss_mb", ",.0f"),
    ("iterations", "iterations", "d"),
    ("pose error, median, deg", "pose_median", ".2f"),
    ("pose error, 80th percentile, deg", "pose_p80", ".2f"),
    ("above 10 deg, share", "pose_above10", ".3f"),
    ("half map 1 against truth, FSC 0.5, A", "truth_half1_05", ".2f"),
    ("mean map against truth, FSC 0.5, A", "truth_mean_05", ".2f"),
    ("half maps, FSC 0.143 unmasked, A", "half_0143_unmasked", ".2f"),
]


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="One data set, several options, judged by the truth.")
    add_known_truth(parser)
    parser.add_argument("--result", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--variant", action="append", required=True, metavar="NAME=OPTIONS",
                        help="a name and options of halfmap refine; may be given several times")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> int:
    """Run the variants one after the other."""
    given = options()
    results: dict[str, dict[str, Any]] = {}
    try:
        truth = known_truth(given)
        for variant in given.variant:
            name, _, words = variant.partition("=")
            folder = given.out / name.replace(" ", "_")
            start = [] if "--map" in words else ["--map", given.map]
            cost = refine([
                given.particles, *start, "--diameter", f"{given.diameter:g}", "--symmetry", given.symmetry,
                "--seed", given.seed, *shlex.split(words)], folder)
            refined = read_star(folder / "particles.star")
            verdict = judge(refined, folder / "half1_unfil.mrc", folder / "half2_unfil.mrc", truth)
            results[name] = {
                "options": words, "command": cost.command, "cpu_seconds": cost.cpu_seconds,
                "wall_seconds": cost.wall_seconds, "peak_rss_mb": cost.peak_rss_mb,
                "iterations": iterations(folder), **verdict}
            write_record(given.result, circumstances() | {"results": results})
    except (InputError, CommandFailed) as error:
        print(f"variants: error: {error}", file=sys.stderr)
        return 2
    rows = [(label, [result[key] for result in results.values()], style) for label, key, style in ROWS]
    shown(rows, list(results), given.particles.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
