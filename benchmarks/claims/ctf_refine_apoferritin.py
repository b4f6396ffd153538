"""Real particles of a known structure: what `halfmap ctf-refine` says of their optics, and what the map gains by it.

python benchmarks/claims/ctf_refine_apoferritin.py particles.star --map initial_20A.mrc --diameter 140 --symmetry O
    --model apoferritin_7a4m.cif --assembly --out FOLDER [--fit NAMES] [--alone NAME ..] [--result FILE.json]

The particles are refined from the map at 20 A, and from there locally:
    further         as they are: what more iterations do
    after           with what halfmap ctf-refine finds
    inside          with --ctf-refine
    NAME            with what it finds when one kind of values alone is fitted (--alone)
Maps are compared with the atomic model as claims/apoferritin.py does. Prints a table and writes
benchmarks/results/ctf_refine_apoferritin.json (or --result) with all values of optics groups. Finished runs are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from evidence import RESULTS, CommandFailed, circumstances, write_record
from halfmap_run import ctf_refine, iterations, refine
from judge import against_map, rigid_part, shown
from torch import Tensor

from halfmap.errors import InputError
from halfmap.imaging.density import Cloud
from halfmap.maps.mrc import read_map
from halfmap.validation.fsc import fsc, resolution
from halfmap.validation.model_map import density_mask, moved_map

FIT = "defocus,astigmatism,bfactor,tilt,trefoil,tetrafoil,cs,amplitude-contrast,magnification"
ROWS = [
    ("CPU seconds", "cpu_seconds", ",.0f"),
    ("iterations", "iterations", "d"),
    ("half maps, FSC 0.143 unmasked, A", "half_0143_unmasked", ".2f"),
    ("half maps, FSC 0.143 corrected, A", "half_0143_corrected", ".2f"),
    ("mean map against model, FSC 0.5, A", "model_mean_05", ".2f"),
    ("mean map against model, FSC 0.143, A", "model_mean_0143", ".2f"),
    ("mean map against model, average FSC beyond 12 A", "model_mean_average", ".3f"),
]


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="What fitting the optics of real particles says and gains.")
    parser.add_argument("particles", type=Path, help="STAR file of the particles")
    parser.add_argument("--map", type=Path, required=True, help="initial map, in the model's frame")
    parser.add_argument("--diameter", type=float, required=True, help="particle diameter [A]")
    parser.add_argument("--symmetry", default="O")
    parser.add_argument("--model", type=Path, required=True, help="atomic model, its centre in the box's centre")
    parser.add_argument("--assembly", action="store_true", help="build the model's biological assembly")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fit", default=FIT)
    parser.add_argument("--alone", nargs="*", default=["bfactor", "magnification", "tilt"], metavar="NAME")
    parser.add_argument("--fit-from", type=float, default=8.0, help="resolution for --ctf-refine to begin at [A]")
    parser.add_argument("--ini-high", type=float, default=20.0, help="low-pass of the initial map [A]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--result", type=Path, default=RESULTS / "ctf_refine_apoferritin.json", metavar="FILE.json")
    return parser.parse_args()


class Judge:
    """Compares the maps of runs with an atomic model."""

    def __init__(self, model: Cloud, coarsest: float) -> None:
        self._model, self._coarsest = model, coarsest
        self._expected: Tensor | None = None
        self._mask: Tensor | None = None

    def judged(self, run: Path) -> dict[str, Any]:
        """Resolutions of the run's half maps, and of their mean against the model."""
        first, second = (read_map(run / f"half{h}_unfil.mrc") for h in (1, 2))
        box, pixel_size = first.data.shape[-1], first.pixel_size
        if self._expected is None:
            eye, nowhere = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
            self._expected = moved_map(self._model, eye, nowhere, box, pixel_size)
            self._mask = density_mask(self._expected, pixel_size)
        assert self._mask is not None
        halves = fsc(first.data, second.data)
        last = json.loads((run / "iterations.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        return {
            "iterations": iterations(run), "half_0143_unmasked": resolution(halves, box, pixel_size),
            "half_0143_corrected": last["resolution_corrected_A"], "half_fsc": halves.tolist(),
            **against_map((first.data + second.data) / 2, self._expected, self._mask, pixel_size, "model_mean",
                          coarsest=self._coarsest),
        }  # fmt: skip


def values(folder: Path) -> list[dict[str, Any]]:
    """What `halfmap ctf-refine` found: of each kind how many values were changed, and those of optics groups."""
    told = json.loads((folder / "ctf_refine.json").read_text(encoding="utf-8"))
    kept = ("name", "components", "units", "verdict", "of", "applied", "gain_nats", "change_rms", "error_median")
    return [{name: one[name] for name in kept}
            | ({"values": one["values"]} if one["one_value_per"] == "optics group" else {})
            for one in told["parameters"]]


def main() -> None:
    """Run the benchmark."""
    given = options()
    judge = Judge(rigid_part(given.model, assembly=given.assembly), given.ini_high)
    runs: Path = given.out / "runs"
    common = ["--diameter", f"{given.diameter:g}", "--symmetry", given.symmetry, "--threads", 1, "--seed", given.seed]
    results: dict[str, Any] = {}
    record: dict[str, Any] = {**circumstances(), "fit": given.fit, "found": {}, "results": results}

    def run(name: str, words: list[object]) -> Path:
        place = runs / name
        kept = place.with_suffix(".json")
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(refine([*words, *common], place).cpu_seconds), encoding="utf-8")
        results[name] = {"cpu_seconds": json.loads(kept.read_text(encoding="utf-8")), **judge.judged(place)}
        write_record(given.result, record)
        return place

    def further(particles: Path) -> list[object]:
        return [particles, "--map", refined / "map.mrc", "--search", "local", "--ini-high", 8]

    def fitted(name: str, kinds: str) -> Path:
        place = runs / name
        if not (place / "particles.star").exists():
            ctf_refine([refined, "--fit", kinds, "--threads", 1], place)
        record["found"][name] = values(place)
        return place / "particles.star"

    refined = run("refined", [given.particles, "--map", given.map, "--ini-high", f"{given.ini_high:g}"])
    run("further", further(refined / "particles.star"))
    run("after", further(fitted("fitted", given.fit)))
    run("inside", [*further(refined / "particles.star"), "--ctf-refine", given.fit, "--ctf-refine-from",
                   given.fit_from])
    for kind in given.alone:
        run(f"after_{kind}", further(fitted(f"fitted_{kind}", kind)))
    rows = [(title, [one[key] for one in results.values()], style) for title, key, style in ROWS]
    shown(rows, list(results), f"{given.particles.name} against {given.model.name}")


if __name__ == "__main__":
    try:
        main()
    except (CommandFailed, InputError) as error:
        sys.exit(f"ctf_refine_apoferritin: {error}")
