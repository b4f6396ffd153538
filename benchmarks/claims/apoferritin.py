"""Refinement of real particles of a known structure: how the map agrees with the atomic model, for how many particles.

python benchmarks/claims/apoferritin.py particles.star --map initial_20A.mrc --diameter 140 --model apoferritin_7a4m.cif
    --assembly --out FOLDER [--counts all 300 600 1200] [--symmetries O C1]

Without symmetry a refinement's frame drifts a little from that of its start: the model is turned and moved to where its
low-resolution density fits best before the maps are compared. Prints a table and writes
benchmarks/results/apoferritin.json (or --result).
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence import RESULTS, CommandFailed, circumstances, write_record
from halfmap_run import iterations, refine
from judge import against_map, rigid_part, shown
from subset import subset

from halfmap.errors import InputError
from halfmap.imaging.density import Cloud
from halfmap.maps.mrc import read_map
from halfmap.validation.fsc import fsc, resolution
from halfmap.validation.model_map import density_mask, fitted_pose, moved_map

ROWS = [
    ("particles", "particles", ",d"),
    ("CPU seconds", "cpu_seconds", ",.0f"),
    ("wall seconds", "wall_seconds", ",.0f"),
    ("iterations", "iterations", "d"),
    ("half maps, FSC 0.143 unmasked, A", "half_0143_unmasked", ".2f"),
    ("mean map against model, FSC 0.5, A", "model_mean_05", ".2f"),
    ("mean map against model, FSC 0.143, A", "model_mean_0143", ".2f"),
    ("mean map against model, average FSC beyond 12 A", "model_mean_average", ".3f"),
    ("half map 1 against model, FSC 0.5, A", "model_half1_05", ".2f"),
    ("model turned by, deg", "fit_angle", ".2f"),
    ("model moved by, A", "fit_shift", ".2f"),
]


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Map against atomic model for several numbers of particles.")
    parser.add_argument("particles", type=Path, help="STAR file of the particles")
    parser.add_argument("--map", type=Path, required=True, help="initial map, in the model's frame")
    parser.add_argument("--diameter", type=float, required=True, help="particle diameter [A]")
    parser.add_argument("--model", type=Path, required=True, help="atomic model, its centre in the box's centre")
    parser.add_argument("--assembly", action="store_true", help="build the model's biological assembly")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--result", type=Path, default=RESULTS / "apoferritin.json", metavar="FILE.json")
    parser.add_argument("--counts", nargs="+", default=["all", "300", "600", "1200"], metavar="N",
                        help="numbers of particles, drawn at random; or all")
    parser.add_argument("--symmetries", nargs="+", default=["O", "C1"], metavar="GROUP")
    parser.add_argument("--ini-high", type=float, default=20.0, help="low-pass of the initial map [A]")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--halfmap-options", default="", metavar="'--regulariser ..'", help="more of halfmap refine")
    return parser.parse_args()


def one_run(given: argparse.Namespace, star: Path, symmetry: str, folder: Path, model: Cloud) -> dict[str, Any]:
    """Refine and compare with the model."""
    cost = refine([
        star, "--map", given.map, "--diameter", f"{given.diameter:g}", "--symmetry", symmetry,
        "--ini-high", f"{given.ini_high:g}", "--threads", given.threads, "--seed", given.seed,
        *shlex.split(given.halfmap_options)], folder)
    first, second = (read_map(folder / f"half{h}_unfil.mrc") for h in (1, 2))
    box, pixel_size = first.data.shape[-1], first.pixel_size
    mean = (first.data + second.data) / 2
    halves = fsc(first.data, second.data)
    found = {
        "symmetry": symmetry, "command": cost.command, "cpu_seconds": cost.cpu_seconds,
        "wall_seconds": cost.wall_seconds, "peak_rss_mb": cost.peak_rss_mb, "iterations": iterations(folder),
        "half_0143_unmasked": resolution(halves, box, pixel_size), "half_fsc": halves.tolist()}
    rotation, shift = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    if symmetry == "C1":
        rotation, shift = fitted_pose(mean, moved_map(model, rotation, shift, box, pixel_size), pixel_size)
    cosine = 0.5 * (float(torch.trace(rotation)) - 1)
    found |= {"fit_angle": float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))), "fit_shift": float(shift.norm())}
    expected = moved_map(model, rotation, shift, box, pixel_size)
    mask = density_mask(expected, pixel_size)
    for name, data in (("half1", first.data), ("mean", mean)):
        found |= against_map(data, expected, mask, pixel_size, f"model_{name}", coarsest=given.ini_high)
    return found


def main() -> int:
    """Run the refinements."""
    given = options()
    record: dict[str, Any] = circumstances()
    results: dict[str, dict[str, Any]] = {}
    try:
        model = rigid_part(given.model, assembly=given.assembly)
        given.out.mkdir(parents=True, exist_ok=True)
        for symmetry in given.symmetries:
            for count in given.counts:
                star, number = subset(given.particles, count, given.seed, given.out)
                name = f"{symmetry} {number}"
                results[name] = {"particles": number, **one_run(
                    given, star, symmetry, given.out / f"{symmetry}_{count}", model)}
                write_record(given.result, record | {"results": results})
    except (InputError, CommandFailed) as error:
        print(f"apoferritin: error: {error}", file=sys.stderr)
        return 2
    rows = [(name, [result[key] for result in results.values()], style) for name, key, style in ROWS]
    shown(rows, list(results), f"{given.particles.name} against {given.model.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
