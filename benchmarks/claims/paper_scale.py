"""The claims of both papers at their own scale: tens of thousands of particles, finely sampled, with junk among them.

python benchmarks/claims/paper_scale.py --out FOLDER [--sets pfcrt-like stra6-like nav-like] [--seeds 1]
    [--method 'NAME=OPTIONS' ..] [--threads 2] [--result benchmarks/results/paper_scale.json]

Three simulated membrane proteins (molecules.py, PAPER_SCALE) after those of Punjani et al. 2020: as many particles,
pixels of 1.15 to 1.2 A, defocus 0.6 to 2.4 um, signal that the CTF carries out of the box is lost, contrasts differ,
5 % of the images hold no particle or a broken one. Each is refined with every method from the same start at 30 A and
judged by the truth. `halfmap reslog` gives resolution against the number of particles, `halfmap compare` the figure.
Results are written as each run ends; a benchmark that was stopped goes on with the same command. The papers' own
figures stand beside ours.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from datasets import simulated
from evidence import RESULTS, CommandFailed, circumstances, run_measured, write_record
from judge import shown
from molecules import PAPER_SCALE
from nonuniform import ROWS as NONUNIFORM_ROWS
from nonuniform import Task, earlier_results, one_run

from halfmap.errors import InputError

# Particles, and resolution (A, FSC 0.143 within a mask) under uniform and non-uniform refinement: Punjani et al. 2020,
# Results. Ours are as many, but for the channel, whose set is a fifteenth of theirs.
PAPER = {"pfcrt-like": ("PfCRT with Fab", 16_905, 6.9, 3.6), "stra6-like": ("STRA6-CaM", 28_848, 4.0, 3.6),
         "nav-like": ("Nav1.7 with Fabs", 300_759, 3.4, 3.1)}
COUNTS = {"pfcrt-like": 17_000, "stra6-like": 28_000, "nav-like": 20_000}
PER_MICROGRAPH = 50
METHODS = (
    "uniform=--regulariser uniform", "nonuniform=--regulariser nonuniform",
    "joined=--regulariser joined",
    "sparse_smooth=--regulariser sparse_smooth",
    "cross-validated=--regulariser sparse_smooth --ss-parameters cross-validated")
ROWS = [*NONUNIFORM_ROWS, ("half maps, FSC 0.143 in the mask, corrected, A", "half_0143_corrected", ".2f")]


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="The claims of the papers at the papers' scale.")
    parser.add_argument("--out", type=Path, required=True, help="folder for simulated images and runs; kept and reused")
    parser.add_argument("--result", type=Path, default=RESULTS / "paper_scale.json", metavar="FILE.json")
    parser.add_argument("--sets", nargs="+", default=list(PAPER_SCALE), choices=list(PAPER_SCALE))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--method", action="append", metavar="NAME=OPTIONS",
                        help=f"a name and options of halfmap refine, several times (default: {', '.join(METHODS)})")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--count", type=int, help="particles of every set (default: as many as the paper's, or 20,000)")
    parser.add_argument("--simulate-options", default="", metavar="'--snr ..'", help="more of halfmap simulate")
    return parser.parse_args()


def refined(task: Task, out: Path, threads: int) -> dict[str, Any]:
    """One refinement, judged by the truth, and what its last record says of the half maps within the mask."""
    found = one_run(task, out, threads)
    last = (task.folder(out) / "iterations.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    return found | {"half_0143_corrected": json.loads(last)["resolution_corrected_A"]}


def pictured(tasks: list[Task], out: Path) -> dict[str, Any]:
    """ResLog and a comparison of the runs of one set, in out/pages; returns what `halfmap reslog` says of each."""
    first, place = tasks[0], out / "pages" / f"{tasks[0].data.name}_seed{tasks[0].seed}"
    runs = [task.folder(out) for task in tasks]
    place.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "halfmap"]
    truth = first.data.particles.with_name("truth.mrc")
    run_measured([*command, "compare", *runs, "--truth", truth, "--out", place / "compare"], place / "compare.log")
    run_measured([*command, "reslog", *runs, "--smallest", "500", "--repeats", "2", "--out", place / "reslog"],
                 place / "reslog.log")
    return json.loads((place / "reslog" / "reslog.json").read_text(encoding="utf-8"))


def report(tasks: list[Task], results: dict[str, dict[str, Any]]) -> None:
    """The table of one set, the paper's figures above it."""
    name, count, uniform, adaptive = PAPER[tasks[0].data.name]
    print(f"\n{name} (Punjani et al. 2020, {count:,} particles, FSC 0.143 within a mask): uniform {uniform} A, "
          f"non-uniform {adaptive} A")
    shown([(label, [results[task.key].get(key) for task in tasks], style) for label, key, style in ROWS],
          [task.regulariser for task in tasks],
          f"{tasks[0].data.name}, {tasks[0].count:,} particles, seed {tasks[0].seed}")


def main() -> int:
    """Run what has not been run, set by set."""
    given = options()
    methods = [text.partition("=")[::2] for text in given.method or METHODS]
    record: dict[str, Any] = circumstances() | {"paper": PAPER}
    if given.result.exists():
        record["reslog"] = json.loads(given.result.read_text(encoding="utf-8")).get("reslog", {})
    try:
        for name in given.sets:
            for seed in given.seeds:
                count = given.count or COUNTS[name]
                more = ["--micrographs", str(max(1, count // PER_MICROGRAPH)), *given.simulate_options.split()]
                data = simulated(name, seed, count, more, given.out / "data")
                tasks = [Task(data, count, seed, method, words) for method, words in methods]
                results = earlier_results(given.result, tasks)
                for task in tasks:
                    if task.key not in results:
                        results[task.key] = refined(task, given.out, given.threads)
                        write_record(given.result, record | {"results": results})
                record.setdefault("reslog", {})[f"{name} seed{seed}"] = pictured(tasks, given.out)
                write_record(given.result, record | {"results": results})
                report(tasks, results)
    except (InputError, CommandFailed) as error:
        print(f"paper_scale: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
