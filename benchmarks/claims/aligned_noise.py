"""Quarter maps share the reference their images were aligned to: does cross-validation take aligned noise for signal?

python benchmarks/claims/aligned_noise.py model.pdb --diameter 170 --out FOLDER [--starts 30 10]

Images of pure noise are refined with the non-uniform regulariser, from the model's map low-passed at each of --starts.
Then one half set is split in two quarters, each is reconstructed from the poses that were found and from random ones,
and the local cut-off is searched between them. Noise that does not correlate gets the lowest cut-off everywhere. Both
half sets are also solved at these poses as in a refinement, with --nu-aligned-noise corrected and ignored. With
--refined RUN the same is done for the images of a real refinement: there, quarters that share nothing but signal
predict the FSC of the half maps, 2 F / (1 + F).
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence import RESULTS, CommandFailed, circumstances, write_record
from halfmap_run import refine, regularise, simulate
from judge import shown
from torch import Tensor

from halfmap.errors import InputError
from halfmap.maps.masks import spherical_mask
from halfmap.maps.mrc import read_map
from halfmap.particles.star import read_star, write_star
from halfmap.particles.table import ParticleTable
from halfmap.validation.fsc import fsc
from halfmap.validation.halfmaps import null_band

EDGE_SHELLS = 2
ROWS = [
    ("local cut-off, median, A", "theta_median", ".1f"),
    ("local cut-off, finest 5 %, A", "theta_finest", ".1f"),
    ("share of the sphere at the lowest cut-off", "lowest", ".1%"),
    ("in a refinement, corrected: median, A", "corrected_median", ".1f"),
    ("share at the lowest cut-off", "corrected_lowest", ".1%"),
    ("in a refinement, ignored: median, A", "ignored_median", ".1f"),
    ("share at the lowest cut-off", "ignored_lowest", ".1%"),
    ("quarter maps beyond the start: mean FSC", "fsc_mean", ".4f"),
    ("the same in standard deviations of chance", "fsc_sd", ".1f"),
    ("FSC predicted by quarters less FSC of half maps", "excess", ".3f"),
]


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Local cut-offs of aligned noise.")
    parser.add_argument("model", type=Path, help="atomic model of the reference")
    parser.add_argument("--diameter", type=float, required=True, help="particle diameter [A]")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--result", type=Path, default=RESULTS / "aligned_noise.json", metavar="FILE.json")
    parser.add_argument("--starts", type=float, nargs="+", default=[30.0, 10.0], help="low-pass of the reference [A]")
    parser.add_argument("--n", type=int, default=2000, help="number of images")
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--apix", type=float, default=3.0)
    parser.add_argument("--refined", type=Path, metavar="RUN", help="folder of a refinement of images of something")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def quarters(table: ParticleTable, seed: int) -> ParticleTable:
    """The first half set of a table, split in two."""
    assert table.half is not None
    members = np.flatnonzero(np.asarray(table.half) == 0)
    part = table.select(members)
    half = np.zeros(len(members), np.int64)
    half[np.random.default_rng(seed).permutation(len(members))[::2]] = 1
    return replace(part, half=half)


def compared(given: argparse.Namespace, table: ParticleTable, start: float, half_fsc: Tensor | None, name: str
             ) -> dict[str, Any]:
    """Quarter maps of one half set with the poses of a table: their FSC and the local cut-off between them."""
    folder = given.out / name
    star = given.out / f"{name}.star"
    write_star(star, quarters(table, given.seed))
    pixel, box = table.optics[0].pixel_size, table.optics[0].box
    blank = given.out / f"{name}_start"
    at_these_poses = ["--map", given.out / "reference.mrc", "--diameter", f"{given.diameter:g}", "--search", "fixed",
                      "--threads", given.threads, "--seed", given.seed]
    refine([star, *at_these_poses], folder)
    regularise([folder / "half1_unfil.mrc", folder / "half2_unfil.mrc"], ["--regulariser", "nonuniform", "--diameter",
               f"{given.diameter:g}"], blank)
    first, second = (read_map(folder / f"half{q}_unfil.mrc").data for q in (1, 2))
    theta = read_map(blank / "theta.mrc").data
    sphere = spherical_mask(box, given.diameter / (2 * pixel), 0) > 0.5
    beyond = math.floor(box * pixel / start) + EDGE_SHELLS + 1
    curve = fsc(first, second)
    z = (curve / null_band(box))[beyond:]
    inside = theta[sphere]
    found = {
        "theta_median": float(inside.median()), "theta_finest": float(torch.quantile(inside, 0.05)),
        "lowest": float((inside > 0.99 * inside.max()).float().mean()), "fsc_mean": float(curve[beyond:].mean()),
        "fsc_sd": float(z.mean()) * math.sqrt(len(z)), "quarter_fsc": curve.tolist()}
    whole = given.out / f"{name}_halves.star"
    write_star(whole, table)
    for noise in ("corrected", "ignored"):
        solved = given.out / f"{name}_{noise}"
        refine([whole, *at_these_poses, "--regulariser", "nonuniform", "--nu-aligned-noise", noise], solved)
        inside = read_map(solved / "theta.mrc").data[sphere]
        found |= {f"{noise}_median": float(inside.median()),
                  f"{noise}_lowest": float((inside > 0.99 * inside.max()).float().mean())}
    if half_fsc is not None:
        last = int(torch.nonzero(half_fsc > 0.143)[-1]) + 1
        predicted = 2 * curve / (1 + curve)
        found["excess"] = float((predicted - half_fsc)[beyond:last].mean())
    return found


def main() -> int:
    """Align noise, split, compare with poses that nothing aligned."""
    given = options()
    record, results = circumstances(), {}
    try:
        for start in given.starts:
            data, run = given.out / f"images_{start:g}", given.out / f"aligned_{start:g}"
            simulate([given.model, "--n", given.n, "--box", given.box, "--apix", given.apix, "--noise-only",
                      "--initial-resolution", start, "--seed", given.seed], data)
            (given.out / "reference.mrc").write_bytes((data / "initial.mrc").read_bytes())
            refine([data / "particles.star", "--map", data / "initial.mrc", "--diameter", f"{given.diameter:g}",
                    "--ini-high", f"{start:g}", "--regulariser", "nonuniform", "--threads", given.threads, "--seed",
                    given.seed], run)
            aligned, drawn = read_star(run / "particles.star"), read_star(data / "particles_truth.star")
            results[f"aligned, {start:g} A"] = compared(given, aligned, start, None, f"quarters_{start:g}")
            random = replace(drawn.select(aligned.image_index), half=aligned.half)
            results[f"random, {start:g} A"] = compared(given, random, start, None, f"random_{start:g}")
        if given.refined is not None:
            table = read_star(given.refined / "particles.star")
            halves = fsc(*(read_map(given.refined / f"half{h}_unfil.mrc").data for h in (1, 2)))
            (given.out / "reference.mrc").write_bytes((given.refined / "map.mrc").read_bytes())
            results["refined images"] = compared(given, table, 30.0, halves, "refined")
    except (InputError, CommandFailed) as error:
        print(f"aligned_noise: error: {error}", file=sys.stderr)
        return 2
    shown([(row, [result.get(key) for result in results.values()], style) for row, key, style in ROWS],
          list(results), f"Local cut-offs between two quarters of {given.n} images of noise")
    write_record(given.result, record | {"results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
