"""How a refinement of particles with known poses comes to its end: pose error and map-to-truth FSC by iteration.

python benchmarks/claims/by_iteration.py particles.star --map initial_30A.mrc --diameter 170
    --truth particles_truth.star --model model.pdb --rigid-out T --out FOLDER
    --result benchmarks/results/by_iteration.json [--halfmap-options '--regulariser nonuniform']
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from evidence import CommandFailed, circumstances, write_record
from halfmap_run import refine
from judge import add_known_truth, judge, known_truth, shown

from halfmap.errors import InputError
from halfmap.particles.star import read_star

ROWS = [
    ("pose, median, deg", "pose_median", ".2f"),
    ("80th percentile, deg", "pose_p80", ".2f"),
    ("above 10 deg, share", "pose_above10", ".3f"),
    ("half map to truth 0.5, A", "truth_half1_05", ".2f"),
    ("mean map to truth 0.5, A", "truth_mean_05", ".2f"),
    ("mean FSC beyond 12 A", "truth_mean_average", ".3f"),
    ("half maps 0.143, A", "half_0143_unmasked", ".2f"),
]


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="One refinement, judged by the truth after every iteration.")
    add_known_truth(parser)
    parser.add_argument("--result", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--halfmap-options", default="", metavar="'--regulariser ..'", help="more of halfmap refine")
    return parser.parse_args()


def main() -> int:
    """Refine, then judge what each iteration left."""
    given = options()
    record, found = circumstances(), []
    try:
        truth = known_truth(given)
        run = given.out / "run"
        cost = refine([given.particles, "--map", given.map, "--diameter", f"{given.diameter:g}", "--symmetry",
                       given.symmetry, "--seed", given.seed, "--keep-iterations",
                       *shlex.split(given.halfmap_options)], run)
        lines = (run / "iterations.jsonl").read_text(encoding="utf-8").splitlines()
        for row in map(json.loads, lines):
            kept = run / "iterations" / f"it{row['iteration']:03d}"
            half1, half2 = (kept.with_name(f"{kept.name}_half{h}_unfil.mrc") for h in (1, 2))
            judged: dict[str, Any] = judge(
                read_star(kept.with_name(f"{kept.name}_particles.star")), half1, half2, truth)
            found.append({"iteration": row["iteration"], "stage": row["search"], "band_A": row["band_A"], **judged})
    except (InputError, CommandFailed) as error:
        print(f"by_iteration: error: {error}", file=sys.stderr)
        return 2
    shown([(f"{row['iteration']:2d} {row['stage']}", [row[key] for _, key, _ in ROWS], ".3f") for row in found],
          [name for name, _, _ in ROWS], f"{given.particles.resolve().parent.name}, judged by the truth")
    write_record(given.result, record | {"command": cost.command, "iterations": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
