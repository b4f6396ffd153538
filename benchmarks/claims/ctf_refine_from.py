"""From which resolution on it is worth fitting the optics inside a refinement.

python benchmarks/claims/ctf_refine_from.py --out FOLDER [--sets 250:0.05,500:0.05,1500:0.05,1500:0.2]
    [--result FILE.json]

Images of a simulated transporter (128 px of 1.5 A) are described by defocus values that are off by 300 A (sd) and
without their beam tilt. Sets of them (images:SNR) are refined locally from their true poses and a 30 A map, until poses
stand still: each set stops at another resolution. Without --ctf-refine, and with it as soon as they stand still,
whatever the resolution. Where the second run is better than the first, --ctf-refine-from should let it happen.
Prints the resolution at which optics were fitted first, what was left of their errors, and the FSC with the truth, and
writes benchmarks/results/ctf_refine_from.json (or --result). Runs that are finished are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from ctf_refine import DIAMETER, Microscope, errors, images_of
from evidence import RESULTS, CommandFailed, circumstances, write_record
from halfmap_run import refine
from judge import Truth, judge, rigid_part, shown

from halfmap.errors import InputError
from halfmap.particles.star import read_star, write_star

MICROSCOPE = Microscope(trefoil_sin=0.0, trefoil_cos=0.0, stretch=0.0)
ROWS = [
    ("CPU seconds", "cpu_seconds", ",.0f"),
    ("resolution of the half maps before optics were fitted, A", "stood_at", ".2f"),
    ("defocus error, sd, A", "defocus_sd", ".0f"),
    ("beam tilt error, mrad", "tilt", ".3f"),
    ("pose error, median, deg", "pose_median", ".3f"),
    ("half maps, FSC 0.143 in the rigid part, A", "half_0143_rigid", ".2f"),
    ("mean map against truth, FSC 0.5, A", "truth_mean_05", ".2f"),
    ("mean map against truth, average FSC beyond 12 A", "truth_mean_average", ".4f"),
]


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="From which resolution on the optics should be fitted.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", default="250:0.05,500:0.05,1500:0.05,1500:0.2", help="images:SNR, from most noise on")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--defocus-sd", type=float, default=300.0)
    parser.add_argument("--result", type=Path, default=RESULTS / "ctf_refine_from.json", metavar="FILE.json")
    return parser.parse_args()


def sets_of(words: str) -> dict[str, list[int]]:
    """Numbers of images by SNR."""
    sets: dict[str, list[int]] = {}
    for word in words.split(","):
        count, snr = word.split(":")
        sets.setdefault(snr, []).append(int(count))
    return sets


def stood_at(run: Path) -> float | None:
    """Resolution in A of the iteration before the first one whose optics were fitted; None where none were."""
    records = [json.loads(line) for line in (run / "iterations.jsonl").read_text(encoding="utf-8").splitlines()]
    for before, after in pairwise(records):
        if "optics" in after:
            return float(before["resolution_A"])
    return None


def main() -> None:
    """Run the benchmark."""
    given = options()
    results: dict[str, Any] = {}
    record = {**circumstances(), "defocus_sd": given.defocus_sd, "results": results}
    for snr, counts in sets_of(given.sets).items():
        place = given.out / f"snr{snr}"
        folder = images_of(argparse.Namespace(out=place, count=max(counts), seed=given.seed, box=128, apix=1.5,
                                              snr=float(snr), defocus_sd=given.defocus_sd), MICROSCOPE)
        truth = read_star(folder / "true.star")
        known = Truth(truth, "C1", rigid_part(place / "transporter.pdb", "", 30.0))
        for count in counts:
            chosen = np.arange(max(counts))[:: max(counts) // count][:count]
            star = folder / f"wrong_{count}.star"
            write_star(star, read_star(folder / "wrong.star").select(chosen))
            for name, words in (("", []), (", fitted", ["--ctf-refine", "defocus,tilt", "--ctf-refine-from", 30])):
                run = place / f"runs_seed{given.seed}" / f"{count}{name}".replace(", ", "_")
                kept = run.with_suffix(".json")
                if not kept.exists():
                    cost = refine([star, "--map", folder / "initial.mrc", "--search", "local", "--diameter",
                                   f"{DIAMETER:g}", "--seed", given.seed, "--threads", 1, *words], run)
                    kept.write_text(json.dumps(cost.cpu_seconds), encoding="utf-8")
                found = read_star(run / "particles.star")
                results[f"{count}:{snr}{name}"] = {
                    "cpu_seconds": json.loads(kept.read_text(encoding="utf-8")), "stood_at": stood_at(run),
                    **errors(found, truth.select(chosen), MICROSCOPE),
                    **judge(found, run / "half1_unfil.mrc", run / "half2_unfil.mrc", known),
                }  # fmt: skip
                write_record(given.result, record)
    rows = [(title, [one.get(key) for one in results.values()], style) for title, key, style in ROWS]
    shown(rows, list(results), f"images:SNR, seed {given.seed}")


if __name__ == "__main__":
    try:
        main()
    except (CommandFailed, InputError) as error:
        sys.exit(f"ctf_refine_from: {error}")
