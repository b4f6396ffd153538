"""Would particles whose pose is settled need no search of the whole grid? What a finished run says about it.

halfmap refine particles.star --map initial.mrc --diameter 170 --keep-iterations --out RUN
python benchmarks/claims/settled.py RUN --symmetry C1 --result benchmarks/results/settled.json

In every global search all particles are looked for everywhere. Of those whose pose the two searches before found again
the table shows how many leave it all the same for a pose that they are sure of (weight above 0.5); and the same of
those that were sure of the old one (above 0.999).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence import circumstances, write_record
from judge import shown

from halfmap.errors import InputError
from halfmap.geometry.rotations import angular_distance
from halfmap.geometry.symmetry import symmetry_group
from halfmap.particles.star import read_star

CONFIRMED = 2  # searches in a row that found a pose again
FAR = 15.0  # degrees: two steps of the usual grid
SEARCHES = ("burn-in", "global")


def settled_in(run: Path, symmetry: str) -> list[dict[str, Any]]:
    """Shares of particles in each iteration that searched the whole grid, once there are settled ones."""
    records = [json.loads(line) for line in (run / "iterations.jsonl").read_text(encoding="utf-8").splitlines()]
    operators, rows = symmetry_group(symmetry), list[dict[str, Any]]()
    found, last, before = torch.zeros(0), torch.zeros(0), torch.zeros(0)
    for record in records:
        if record["search"] not in SEARCHES:
            break
        table = read_star(run / "iterations" / f"it{record['iteration']:03d}_particles.star")
        weight = torch.from_numpy(np.asarray(table.columns["rlnMaxValueProbDistribution"], np.float64))
        assert table.rotations is not None
        rotations = table.rotations.double()
        if not len(last):
            found, last, before = torch.zeros(len(table)), rotations, weight
            continue
        far = angular_distance(last, rotations, operators) > FAR
        settled, jumped = found >= CONFIRMED, far & (weight > 0.5)
        sure = settled & (before > 0.999)
        if bool(sure.any()):
            rows.append({
                "iteration": record["iteration"], "stage": record["search"], "band_A": record["band_A"],
                "settled": float(settled.double().mean()), "jumped": float(jumped[settled].double().mean()),
                "sure": float(sure.double().mean()), "sure_jumped": float(jumped[sure].double().mean()),
            })  # fmt: skip
        found = torch.where(far, 0.0, found + 1)
        last, before = rotations, weight
    return rows


def main() -> int:
    """Print the table of a run."""
    parser = argparse.ArgumentParser(description="How settled particles fare in searches of the whole grid.")
    parser.add_argument("run", type=Path, help="folder of a run with --keep-iterations")
    parser.add_argument("--symmetry", default="C1")
    parser.add_argument("--result", type=Path, required=True, metavar="FILE.json")
    given = parser.parse_args()
    try:
        rows = settled_in(given.run, given.symmetry)
    except (InputError, OSError) as error:
        print(f"settled: error: {error}", file=sys.stderr)
        return 2
    columns = ("band_A", "settled", "jumped", "sure", "sure_jumped")
    shown([(f"{row['iteration']:2d} {row['stage']}", [row[name] for name in columns], ".3f") for row in rows],
          columns, f"{given.run}: shares of all that are settled, and of these that jumped")
    found = {"run": str(given.run), "symmetry": given.symmetry, "iterations": rows}
    write_record(given.result, circumstances() | found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
