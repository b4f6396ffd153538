"""Scaling over processes: measured on one and two here, modelled for many.

python benchmarks/speed/scaling.py particles.star --map initial.mrc --diameter 170 --out work
    [--particles 500] [--iterations 4] [--processes 64] [--result FILE.json]
python benchmarks/speed/scaling.py ... --layouts 1x64 2x32 4x16 8x8 16x4

With --layouts, for a machine with many cores: the same particles (--particles in all) refined by so many processes of
so many threads each, and nothing else; wall seconds need the machine for themselves. Writes
benchmarks/results/layouts.json.

Strong: the same particles refined by one and by two processes. Weak: as many for each process. One thread each. Wall
seconds are worth nothing on a machine in company, whose load is written down; the sum of CPU seconds tells what the
division itself costs.

The model, for N processes, boxes B and particles P, in one local iteration and the final one, which inserts all
shells: four quarter sets of 12 (2m+1)^2 (m+1) bytes, m = 2 (L + 1) + 2 for the last shell L that is inserted, are
all-reduced in a ring, so that 2 (N - 1) / N times as much passes through every link (gloo was seen to send N times that
in all); 156 bytes of poses a particle are gathered in the first process, whose link is the busiest; two references of
4 B^3 bytes go out from it along a tree of log2 N levels. The expectation step is what `halfmap inspect` estimates from
the kernels' measured speed, divided by N; the first process solves, with the cores of its machine. Efficiency: the time
of one process with the threads of one, over N times that of N.
Writes benchmarks/results/scaling.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "claims"))
from evidence import RESULTS, circumstances, run_measured, write_record
from judge import shown
from subset import subset

from halfmap.fourier.transform import half_volume_extent
from halfmap.refinement.run_time import USUAL, Speed, Task, estimated_seconds, measured_speed
from halfmap.refinement.schedule import Schedule

PADDING = 2
POSE = 4 * (3 * (9 + 2 + 1) + 3)  # bytes of a particle's row
QUARTERS, REFERENCES = 4, 2
BOXES, PARTICLES = (128, 256, 384), (10**5, 10**6)
LINKS = (10, 100)  # Gbit/s
THREADS, ON_MACHINE = 8, 8  # of a process, processes of a machine, in the model


@dataclass(frozen=True)
class Run:
    """One refinement: seconds of all its iterations, by the first process's clock and of all processors."""

    kind: str
    processes: int
    particles: int
    threads: int
    expectation: float
    gather: float
    solve: float
    wall: float
    cpu: float


def refined(kind: str, processes: int, count: int, options: argparse.Namespace, threads: int = 1) -> Run:
    """Refine ``count`` particles with so many processes of so many threads."""
    star, _ = subset(options.particles_file, str(count), 0, options.out)
    out = options.out / f"{kind}_{processes}x{threads}"
    if out.exists():
        shutil.rmtree(out)
    words: list[str | Path] = ["-m", "halfmap", "refine", star, "--map", options.map, "--diameter",
                               str(options.diameter), "--out", out, "--threads", str(processes * threads),
                               "--processes", str(processes), "--max-iterations", str(options.iterations)]
    run_measured([sys.executable, *words], out.with_suffix(".log"))
    rows = [json.loads(line) for line in (out / "iterations.jsonl").read_text().splitlines()]

    def total(*stages: str) -> float:
        return sum(row["seconds"].get(stage, 0.0) for row in rows for stage in stages)

    return Run(kind, processes, count, threads, total("read", "search", "insert"), total("gather"), total("solve"),
               total("total"), sum(row["cpu_seconds"] for row in rows))


def reduced_bytes(box: int, limit: int) -> int:
    """Bytes that every process adds to the others': four quarter sets up to shell ``limit``."""
    m = half_volume_extent(PADDING, limit)
    return QUARTERS * 12 * (2 * m + 1) ** 2 * (m + 1)


def modelled(box: int, particles: int, processes: int, speed: Speed) -> dict[str, Any]:
    """What the stages of an iteration cost, local and final."""
    schedule = Schedule(box, 1.0, 0.7 * box, torch.eye(3, dtype=torch.float64)[None], 30.0, math.ceil(box / 2) - 1,
                        "local")
    task, none = (Task(count, box, PADDING, schedule) for count in (particles, 0))
    every, solve = estimated_seconds(task, speed), estimated_seconds(none, speed)
    found: dict[str, Any] = {"box": box, "particles": particles, "processes": processes}
    limits = {"local": int(1.3 * int(2 / 3 * schedule.finest_insert)) + 1, "final": schedule.finest_insert}
    for stage, limit in limits.items():
        images = (every[stage] - solve[stage]) / USUAL[stage]
        alone, solving = images / processes, solve[stage] / USUAL[stage] / ON_MACHINE
        sums = reduced_bytes(box, limit)
        share = (processes - 1) / processes
        moved = 2 * share * sums + share * particles * POSE + math.log2(processes) * REFERENCES * 4 * box**3
        found[stage] = {
            "sums_bytes": sums, "bytes_through_first_link": moved, "expectation_seconds": alone,
            "solve_seconds": solving,
        }  # fmt: skip
        for link in LINKS:
            seconds = moved * 8 / (link * 1e9)
            together = alone + solving + seconds
            found[stage][f"transfer_seconds_{link}"] = seconds
            found[stage][f"efficiency_{link}"] = (images + solve[stage] / USUAL[stage]) / (processes * together)
    return found


def show_runs(runs: list[Run]) -> None:
    """The measured runs as a table."""
    shown([(f"{run.kind}, {run.processes} x {run.particles // run.processes}, {run.threads} threads each",
            [run.expectation, run.gather, run.solve, run.wall, run.cpu], ".2f") for run in runs],
          ["images s", "gather s", "solve s", "wall s", "CPU s"], "Measured: all iterations")


def show_model(rows: list[dict[str, Any]], processes: int) -> None:
    """The model as tables, one for each kind of iteration."""
    for stage in ("local", "final"):
        shown([(f"box {row['box']}, {row['particles']:.0e} particles",
                [row[stage]["sums_bytes"] / 1e9, row[stage]["expectation_seconds"],
                 *(row[stage][f"transfer_seconds_{link}"] for link in LINKS), row[stage]["solve_seconds"],
                 *(100 * row[stage][f"efficiency_{link}"] for link in LINKS)], ".2f") for row in rows],
              ["sums GB", "images s", *(f"transfer s, {link} Gbit/s" for link in LINKS), "solve s",
               *(f"efficiency %, {link}" for link in LINKS)],
              f"Model: {stage} iteration, {processes} processes of {THREADS} threads")


def main() -> None:
    """Measure, model, print, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("particles_file", type=Path, metavar="particles.star")
    parser.add_argument("--map", type=Path, required=True)
    parser.add_argument("--diameter", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--particles", type=int, default=500, help="of each process in the weak scaling")
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--processes", type=int, default=64, help="of the model")
    parser.add_argument("--layouts", nargs="+", metavar="PROCESSESxTHREADS")
    parser.add_argument("--result", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    record = circumstances()
    count = options.particles
    if options.layouts:
        layouts = [[int(part) for part in layout.split("x")] for layout in options.layouts]
        runs = [refined("layout", processes, count, options, threads) for processes, threads in layouts]
        show_runs(runs)
        record |= {"load_after": os.getloadavg()[0], "runs": runs}
        write_record(options.result or RESULTS / "layouts.json", record)
        return
    runs = [refined("small", 1, count, options), refined("large", 1, 2 * count, options),
            refined("large", 2, 2 * count, options)]
    show_runs(runs)
    small, alone, both = runs
    ratios = {"strong_wall": alone.wall / (2 * both.wall), "strong_cpu": alone.cpu / both.cpu,
              "weak_wall": small.wall / both.wall, "weak_cpu": 2 * small.cpu / both.cpu}
    print("efficiency of two processes: " + ", ".join(f"{name} {value:.2f}" for name, value in ratios.items()))
    speed = measured_speed(THREADS)
    rows = [modelled(box, particles, options.processes, speed) for box in BOXES for particles in PARTICLES]
    show_model(rows, options.processes)
    write_record(options.result or RESULTS / "scaling.json", record | {
        "load_after": os.getloadavg()[0], "runs": runs, "efficiency": ratios, "model": rows,
        "threads_of_a_process": THREADS, "processes_of_a_machine": ON_MACHINE})


if __name__ == "__main__":
    main()
