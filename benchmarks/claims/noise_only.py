"""Images of nothing, refined from a reference: do the half maps agree beyond what the start put into both?

python benchmarks/claims/noise_only.py model.pdb --diameter 170 --out FOLDER [--n 2000] [--symmetry C1]

Images of pure noise are simulated and refined from the model's map, low-passed. Every image is turned to where it
resembles the reference, so the half maps must show it ("Einstein from noise"), up to the low-pass. Beyond, two half
sets that share nothing agree by chance alone: FSC 0 with the standard deviation `null_band`, and neither resembles the
molecule. Prints how many standard deviations the curves stray, and writes benchmarks/results/noise_only.json
(or --result).
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from evidence import RESULTS, CommandFailed, circumstances, write_record
from halfmap_run import iterations, refine, simulate
from judge import shown
from torch import Tensor

from halfmap.errors import InputError
from halfmap.geometry.symmetry import symmetry_group
from halfmap.maps.mrc import read_map
from halfmap.validation.fsc import fsc, resolution
from halfmap.validation.halfmaps import null_band

EDGE_SHELLS = 2  # the low-pass filter of the start ends this many shells beyond its nominal resolution
LEAK = 2.0  # a mask carries the common low resolution into the next shells: judge masked curves beyond LEAK times it
SINGLE_LIMIT, MEAN_LIMIT = 4.0, 3.0  # standard deviations: one shell out of some fifty, and the mean of all

COLUMNS = {"half_maps": "half maps", "half_maps_masked": "in the mask", "mean_map_and_molecule": "map, molecule"}
ROWS = [
    ("largest of a shell, sd", "largest", ".2f"),
    ("mean of all shells, sd of the mean", "mean", ".2f"),
    ("shells beyond 2 sd", "beyond_two", ".1%"),
    ("shells looked at", "shells", "d"),
    ("mean FSC", "fsc_mean", ".4f"),
    ("largest FSC", "fsc_largest", ".4f"),
]


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Pure noise refined from a reference.")
    parser.add_argument("model", type=Path, help="atomic model of the reference")
    parser.add_argument("--diameter", type=float, required=True, help="particle diameter [A]")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--result", type=Path, default=RESULTS / "noise_only.json", metavar="FILE.json")
    parser.add_argument("--n", type=int, default=2000, help="number of images")
    parser.add_argument("--box", type=int, default=96)
    parser.add_argument("--apix", type=float, default=2.0)
    parser.add_argument("--symmetry", default="C1")
    parser.add_argument("--ini-high", type=float, default=30.0, help="low-pass of the reference [A]")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--posed", action="store_true", help="start from random poses, and search about them")
    parser.add_argument("--halfmap-options", default="", metavar="'--regulariser ..'", help="more of halfmap refine")
    return parser.parse_args()


def stray(curve: Tensor, band: Tensor, start: int) -> dict[str, float]:
    """How far curve[s] strays from 0 beyond the shell `start`, in the standard deviations band[s]: the largest shell,
    the mean of all in its own standard deviation, and the share of shells beyond two."""
    z = curve[start:] / band[start:]
    return {"largest": float(z.abs().max()), "mean": float(z.mean()) * math.sqrt(len(z)),
            "beyond_two": float((z.abs() > 2).double().mean()), "shells": len(z),
            "fsc_mean": float(curve[start:].mean()), "fsc_largest": float(curve[start:].max())}


def main() -> int:
    """Simulate, refine, compare with chance."""
    given = options()
    record: dict[str, Any] = circumstances()
    data, run = given.out / "images", given.out / "halfmap"
    try:
        symmetry = ["--symmetry", given.symmetry] if given.symmetry != "C1" else []
        simulate([given.model, "--n", given.n, "--box", given.box, "--apix", given.apix, "--noise-only",
                  "--initial-resolution", given.ini_high, "--seed", given.seed, *symmetry], data)
        name, search = ("particles_truth.star", ["--search", "local"]) if given.posed else ("particles.star", [])
        cost = refine([data / name, *search, "--map", data / "initial.mrc", "--diameter", f"{given.diameter:g}",
                       "--symmetry", given.symmetry, "--ini-high", f"{given.ini_high:g}", "--threads", given.threads,
                       "--seed", given.seed, *shlex.split(given.halfmap_options)], run)
        results = compared(given, data, run)
    except (InputError, CommandFailed) as error:
        print(f"noise_only: error: {error}", file=sys.stderr)
        return 2
    results |= {"command": cost.command, "cpu_seconds": cost.cpu_seconds, "iterations": iterations(run)}
    names = list(COLUMNS)
    shown([(row, [results[name][key] for name in names], style) for row, key, style in ROWS], list(COLUMNS.values()),
          f"FSC beyond {given.ini_high:g} A of {given.n} images of noise, sd: standard deviations of chance")
    inside = all(results[name]["largest"] < SINGLE_LIMIT and abs(results[name]["mean"]) < MEAN_LIMIT for name in names)
    results["inside_chance"] = inside
    print(f"{'inside' if inside else 'OUTSIDE'} what chance allows; resolution by FSC 0.143, unmasked: "
          f"{results['half_0143_unmasked']:.1f} A (the start's low-pass: {given.ini_high:g} A)")
    write_record(given.result, record | {"results": results})
    return 0 if inside else 1


def compared(given: argparse.Namespace, data: Path, run: Path) -> dict[str, Any]:
    """Half maps with each other, whole and inside the run's mask, and their mean with the molecule."""
    first, second = (read_map(run / f"half{h}_unfil.mrc") for h in (1, 2))
    molecule, mask = read_map(data / "truth.mrc").data, read_map(run / "mask.mrc").data
    box, pixel_size = first.data.shape[-1], first.pixel_size
    start = math.floor(box * pixel_size / given.ini_high) + EDGE_SHELLS + 1
    # symmetrised maps have fewer independent coefficients
    share = math.sqrt(len(symmetry_group(given.symmetry)))
    whole, masked = null_band(box) * share, null_band(box, mask) * share
    late = math.ceil(LEAK * start)
    halves = fsc(first.data, second.data)
    inside = fsc(first.data * mask, second.data * mask)
    known = fsc((first.data + second.data) / 2, molecule)
    return {
        "half_0143_unmasked": resolution(halves, box, pixel_size), "first_shell": start,
        "half_maps": stray(halves, whole, start), "half_maps_masked": stray(inside, masked, late),
        "mean_map_and_molecule": stray(known, whole, start), "half_fsc": halves.tolist(),
        "half_fsc_masked": inside.tolist(), "molecule_fsc": known.tolist(), "null_band": whole.tolist(),
        "null_band_masked": torch.as_tensor(masked).tolist()}


if __name__ == "__main__":
    sys.exit(main())
