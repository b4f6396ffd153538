"""Many optics groups cost no more than one: memory and time of a global search.

python benchmarks/claims/optics_groups.py --out FOLDER [--groups 1 25 243] [--n 240] [--threads 1] [--result FILE.json]

The demo's molecule is simulated once. Its images are then divided among so many optics groups, image by image in turn,
each with a beam tilt of its own, as microscopes that shift the beam leave them. (The tilt is not in the images: it is
the cost that is looked at, not the map. Groups beyond the number of images stay empty.) From a start at 15 A every
image is searched on the grid of the global stage; the last of three iterations is the final pass.
Prints a table and writes benchmarks/results/optics_groups.json (or --result).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from evidence import RESULTS, CommandFailed, circumstances, write_record
from halfmap_run import refine, simulate
from judge import shown

from halfmap.errors import InputError
from halfmap.imaging.optics import BeamTilt
from halfmap.particles.model import write_pdb
from halfmap.particles.star import read_star, write_star
from halfmap.simulation.demo_molecule import demo_molecule

DIAMETER = 156  # A: the demo's molecule and the spread of its place
START = 15  # A, as fine as the grid ever scores
TILT = 0.3  # mrad, the largest beam tilt along an axis: a phase of 0.2 at 5 A
ROWS = [
    ("CPU seconds", "cpu_seconds", ",.1f"),
    ("wall seconds", "wall_seconds", ",.1f"),
    ("CPU seconds of a global iteration", "iteration_cpu_seconds", ",.1f"),
    ("peak memory, MB", "peak_rss_mb", ",.0f"),
    ("planned, MB", "planned_mb", ",.0f"),
    ("resolution, A", "resolution", ".2f"),
]


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Memory and time of a refinement by its number of optics groups.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 25, 243])
    parser.add_argument("--n", type=int, default=240, help="number of images")
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--apix", type=float, default=2.8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--result", type=Path, default=RESULTS / "optics_groups.json", metavar="FILE.json")
    return parser.parse_args()


def simulated(given: argparse.Namespace) -> Path:
    """The folder of the images, made if it is not there."""
    folder: Path = given.out / f"images_{given.n}_{given.box}"
    if not (folder / "particles.star").exists():
        given.out.mkdir(parents=True, exist_ok=True)
        model = given.out / "molecule.pdb"
        write_pdb(model, demo_molecule())
        simulate([model, "--n", given.n, "--box", given.box, "--apix", given.apix, "--snr", 0.1,
                  "--initial-resolution", START, "--seed", 1], folder)
    return folder


def divided(particles: Path, groups: int) -> Path:
    """A STAR file of the same images in so many optics groups (those beyond the number of images stay empty)."""
    table = read_star(particles)
    side = max(2, round(groups**0.5))
    tilts = [BeamTilt(TILT * (g % side / (side - 1) * 2 - 1), TILT * (g // side / (side - 1) * 2 - 1))
             for g in range(groups)]
    optics = tuple(replace(table.optics[0], name=f"tilt{g + 1}", number=g + 1, beam_tilt=tilt)
                   for g, tilt in enumerate(tilts))
    path = particles.with_name(f"particles_{groups}.star")
    write_star(path, replace(table, optics=optics, optics_index=np.arange(len(table)) % groups))
    return path


def refined(given: argparse.Namespace, folder: Path, groups: int) -> dict[str, Any]:
    """What a refinement of the images in so many optics groups costs."""
    run = given.out / f"groups_{groups}"
    cost = refine([divided(folder / "particles.star", groups), "--map", folder / "initial.mrc", "--diameter", DIAMETER,
                   "--ini-high", START, "--max-iterations", 3, "--threads", given.threads], run)
    records = [json.loads(line) for line in (run / "iterations.jsonl").read_text().splitlines()]
    planned = re.search(r"memory: up to ([0-9.]+) GB", (run / "log.txt").read_text())
    assert planned is not None
    searches = [record["cpu_seconds"] for record in records if record["search"] != "final"]
    return {"command": cost.command, "cpu_seconds": cost.cpu_seconds, "wall_seconds": cost.wall_seconds,
            "peak_rss_mb": cost.peak_rss_mb, "planned_mb": 1000 * float(planned[1]),
            "iteration_cpu_seconds": sum(searches) / len(searches), "resolution": records[-1]["resolution_A"]}


def main() -> int:
    """Divide, refine, print and write."""
    given = options()
    record = circumstances()
    try:
        folder = simulated(given)
        results = {groups: refined(given, folder, groups) for groups in given.groups}
    except (InputError, CommandFailed) as error:
        print(f"optics_groups: error: {error}", file=sys.stderr)
        return 2
    shown([(label, [result[key] for result in results.values()], style) for label, key, style in ROWS],
          [f"{groups} group{'s' * (groups > 1)}" for groups in results], f"{given.n} images of {given.box} px")
    write_record(given.result, record | {
        "images": given.n, "box": given.box, "threads": given.threads, "groups": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
