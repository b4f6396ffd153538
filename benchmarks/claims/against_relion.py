"""RELION's auto-refinement and `halfmap refine` on the same particles with known poses, one after the other.

python benchmarks/claims/against_relion.py particles.star --map initial.mrc --diameter 170 --truth truth.star
    [--symmetry C1] [--model model.pdb --rigid-out T] --out FOLDER

Both start from the same map with the same low-pass and know nothing of the truth. Prints what each cost and how
near it came, and writes benchmarks/results/against_relion_DATA.json, DATA being the folder of the particles (or
--result). FOLDER/relion and FOLDER/halfmap keep the runs.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import relion_run
from evidence import RESULTS, CommandFailed, circumstances, write_record
from halfmap_run import iterations, refine
from judge import Truth, judge, rigid_part, shown
from subset import subset

from halfmap.errors import InputError
from halfmap.particles.star import read_star

ROWS = [
    ("CPU seconds", "cpu_seconds", ",.0f"),
    ("CPU seconds, RELION's leader included", "cpu_seconds_all", ",.0f"),
    ("wall seconds", "wall_seconds", ",.0f"),
    ("peak memory, MB", "peak_rss_mb", ",.0f"),
    ("pose error, median, deg", "pose_median", ".2f"),
    ("pose error, 80 % below, deg", "pose_p80", ".2f"),
    ("off by more than 10 deg, %", "pose_above10_percent", ".1f"),
    ("shift error, median, A", "pose_shift_median", ".2f"),
    ("half map 1 against truth, FSC 0.5, A", "truth_half1_05", ".2f"),
    ("half map 1 against truth, FSC 0.143, A", "truth_half1_0143", ".2f"),
    ("mean map against truth, FSC 0.5, A", "truth_mean_05", ".2f"),
    ("mean map against truth, FSC 0.143, A", "truth_mean_0143", ".2f"),
    ("mean map against truth, average FSC beyond 12 A", "truth_mean_average", ".3f"),
    ("half maps, FSC 0.143 unmasked, A", "half_0143_unmasked", ".2f"),
    ("half maps, FSC 0.143 in the rigid part, A", "half_0143_rigid", ".2f"),
]


@dataclass(frozen=True)
class Comparison:
    """What both programs are given."""

    particles: Path
    map: Path
    diameter: float
    symmetry: str
    ini_high: float
    cores: int
    seed: int
    out: Path


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="RELION and halfmap refine on the same particles.")
    parser.add_argument("particles", type=Path, help="STAR file of the particles")
    parser.add_argument("--map", type=Path, required=True, help="initial map of both programs")
    parser.add_argument("--diameter", type=float, required=True, help="particle diameter [A]")
    parser.add_argument("--symmetry", default="C1")
    parser.add_argument("--truth", type=Path, required=True, help="STAR file with the true poses")
    parser.add_argument("--model", type=Path, help="atomic model of the truth: judge the maps too")
    parser.add_argument("--rigid-out", default="", metavar="CHAINS", help="chains of the model that are not rigid")
    parser.add_argument("--bfactor", type=float, default=40.0, help="B factor added to the model's atoms [A^2]")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--result", type=Path, metavar="FILE.json")
    parser.add_argument("--ini-high", type=float, default=30.0, help="low-pass of the initial map [A]")
    parser.add_argument("--threads", type=int, default=2, metavar="CORES",
                        help="cores for each program: RELION refines on two ranks with half of them each")
    parser.add_argument("--count", default="all", metavar="N", help="use N random particles only")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--halfmap-options", default="", metavar="'--regulariser ..'", help="more of halfmap refine")
    parser.add_argument("--relion-options", default="", metavar="'--cpu ..'", help="more of relion_refine")
    parser.add_argument("--collect", type=Path, metavar="FOLDER",
                        help="take RELION's result from this folder (--out/relion of an earlier run), do not run it")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--skip-relion", action="store_true")
    which.add_argument("--skip-halfmap", action="store_true")
    return parser.parse_args()


def run_relion(task: Comparison, truth: Truth, collect: Path | None, more: str) -> dict[str, Any]:
    """RELION's cost and quality; runs it unless an earlier run is collected."""
    table = read_star(task.particles)
    folder = collect or task.out / "relion"
    if collect is None:
        relion_run.prepare(table, task.map, task.diameter, folder)
        words = relion_run.command(folder.resolve(), task.diameter, task.symmetry, task.ini_high,
                                   max(1, task.cores // 2), task.seed) + shlex.split(more)
        print(f"{shlex.join(words)}\n  output in {folder / 'run.log'}", flush=True)
        relion_run.refine(folder, words)
    cost = relion_run.cost(folder)
    half1, half2 = (folder / f"run_half{h}_class001_unfil.mrc" for h in (1, 2))
    return {
        "program": cost.version, "command": cost.total.command, "folder": folder,
        "iterations": len(list(folder.glob("run_it*_half1_model.star"))),  # the start has a file, the last has none
        "cpu_seconds": cost.fair_cpu_seconds, "cpu_seconds_all": cost.total.cpu_seconds,
        "wall_seconds": cost.total.wall_seconds, "peak_rss_mb": cost.peak_rss_mb, "ranks": cost.ranks,
        **judge(relion_run.refined_table(folder, table), half1, half2, truth),
    }


def run_halfmap(task: Comparison, truth: Truth, more: str) -> dict[str, Any]:
    """Cost and quality of halfmap refine."""
    folder = task.out / "halfmap"
    cost = refine([
        task.particles, "--map", task.map, "--diameter", f"{task.diameter:g}", "--symmetry", task.symmetry,
        "--ini-high", f"{task.ini_high:g}", "--threads", task.cores, "--seed", task.seed, *shlex.split(more)], folder)
    return {
        "program": "halfmap", "command": cost.command, "folder": folder, "iterations": iterations(folder),
        "cpu_seconds": cost.cpu_seconds, "cpu_seconds_all": cost.cpu_seconds,
        "wall_seconds": cost.wall_seconds, "peak_rss_mb": cost.peak_rss_mb,
        **judge(read_star(folder / "particles.star"), folder / "half1_unfil.mrc", folder / "half2_unfil.mrc", truth),
    }


def report(results: dict[str, dict[str, Any]], title: str) -> None:
    """Print the results side by side, with ratios where there are two."""
    for result in results.values():
        result["pose_above10_percent"] = 100 * result["pose_above10"]
    rows = [(name, [result.get(key) for result in results.values()], style) for name, key, style in ROWS]
    shown([row for row in rows if any(value is not None for value in row[1])], list(results), title,
          ratio=len(results) == 2)


def main() -> int:
    """Run the comparison."""
    given = options()
    results: dict[str, dict[str, Any]] = {}
    try:
        particles, number = subset(given.particles, given.count, given.seed, given.out)
        task = Comparison(particles, given.map, given.diameter, given.symmetry, given.ini_high,
                          given.threads, given.seed, given.out)
        record: dict[str, Any] = {**circumstances(), "task": task.__dict__, "particles": number}
        rigid = rigid_part(given.model, given.rigid_out, given.bfactor) if given.model else None
        truth = Truth(read_star(given.truth), given.symmetry, rigid)
        if not given.skip_relion:
            if given.collect is None and not relion_run.available():
                raise InputError("relion_refine_mpi and mpirun are not installed; install them or --skip-relion")
            results["RELION"] = run_relion(task, truth, given.collect, given.relion_options)
        if not given.skip_halfmap:
            results["Halfmap"] = run_halfmap(task, truth, given.halfmap_options)
    except (InputError, CommandFailed) as error:
        print(f"against_relion: error: {error}", file=sys.stderr)
        return 2
    data = given.particles.resolve().parent.name
    report(results, f"{data}, {number} particles, {task.symmetry}, start {task.ini_high:g} A")
    write_record(given.result or RESULTS / f"against_relion_{data}.json", record | {"results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
