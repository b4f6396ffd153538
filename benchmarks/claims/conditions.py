"""Does a refinement say what is wrong, and keep silent where nothing is?

python benchmarks/claims/conditions.py --out FOLDER [--only NAME ...] [--count 500] [--seed 1]
    [--result benchmarks/results/conditions.json]

Small simulated sets (four molecules with C1, C2, D2 and O) are refined as they are, and again with what goes wrong in
practice done to them: copies, noise images, half sets that share filaments, starts off their axis, masks and diameters
that miss the molecule, wrong optics. Beside the true errors stands what the program reported and said: the names of
the warnings of the run, or the line with which it refused. A result is wrong where most poses are, or where half maps
claim a resolution that the truth does not confirm by a fifth. Wrong and silent, or sound and warned, is marked.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import damaged
import numpy as np
from damaged import Given
from evidence import RESULTS, CommandFailed, circumstances, write_record
from folds import built, joined, packed, tangle, threaded
from halfmap_run import refine, simulate
from judge import Truth, judge, rigid_part
from molecules import SOLUBLE_B

from halfmap.errors import InputError
from halfmap.finding import Finding
from halfmap.geometry.symmetry import symmetry_group
from halfmap.maps.mrc import read_map
from halfmap.particles.model import Atoms, write_pdb
from halfmap.particles.star import read_star
from halfmap.refinement.told import spells
from halfmap.simulation.demo_molecule import demo_molecule
from halfmap.validation.fsc import fsc, resolution
from halfmap.validation.model_map import COARSEST

LOST = 10.0  # degrees: median error of poses that are wrong
OVERSTATED = 1.2  # resolution by the truth over the resolution reported


def assembly(group: str, distance: float) -> Atoms:
    """A soluble complex: one small domain at a distance (A) from the centre, and its mates under the point group."""
    place = distance * np.array([0.62, 0.34, 0.71])
    domain = joined(threaded(packed(tangle(tuple(place), (18, 15, 21, 13, 17, 16), 4, SOLUBLE_B))))
    mates = [[(name, atoms @ turn.T, b) for name, atoms, b in domain] for turn in symmetry_group(group).numpy()]
    return built({"A": mates})


@dataclass(frozen=True)
class Specimen:
    """A molecule and how its images are made."""

    make: Callable[[], Atoms]
    symmetry: str
    options: tuple[str, ...]


SPECIMENS = {
    "micelle": Specimen(demo_molecule, "C1", ("--box", "64", "--apix", "2.8", "--snr", "0.1", "--micelle",
                                              "--micelle-contrast", "1")),
    "dimer": Specimen(lambda: assembly("C2", 26.0), "C2", ("--box", "64", "--apix", "2.4", "--snr", "0.06")),
    "tetramer": Specimen(lambda: assembly("D2", 28.0), "D2", ("--box", "64", "--apix", "2.4", "--snr", "0.05")),
    "shell": Specimen(lambda: assembly("O", 52.0), "O", ("--box", "64", "--apix", "2.8", "--snr", "0.02")),
}


@dataclass(frozen=True)
class Condition:
    """Something done to a set. clean: nothing is wrong with it, so nothing may be said."""

    specimen: str
    make: Callable[[Given, Path], Given]
    clean: bool = False


def as_is(*words: object) -> Callable[[Given, Path], Given]:
    """The set as it is, with options."""
    return lambda given, folder: given.with_words(*words)


def with_true_poses(*words: object) -> Callable[[Given, Path], Given]:
    """The set with its true poses, as another program hands it over."""
    return lambda given, folder: replace(given, particles=given.truth).with_words(*words)


CONDITIONS = {
    "clean C1, uniform": Condition("micelle", as_is(), clean=True),
    "clean C1, nonuniform": Condition("micelle", as_is("--regulariser", "nonuniform"), clean=True),
    "clean C1, joined": Condition("micelle", as_is("--join-halves", 40), clean=True),
    "clean C1, local": Condition("micelle", with_true_poses("--search", "local"), clean=True),
    "clean C1, focused": Condition("micelle", damaged.focused, clean=True),
    "clean C2": Condition("dimer", as_is(), clean=True),
    "clean C2 in C1": Condition("dimer", as_is("--symmetry", "C1"), clean=True),
    "clean D2, nonuniform": Condition("tetramer", as_is("--regulariser", "nonuniform"), clean=True),
    "clean O": Condition("shell", as_is(), clean=True),
    "copies of all in the other half": Condition("micelle", lambda g, f: damaged.copied(g, f, 1.0)),
    "copies of a fifth": Condition("micelle", lambda g, f: damaged.copied(g, f, 0.2)),
    "copies of a fifth in other greys": Condition("micelle", lambda g, f: damaged.copied_in_other_greys(g, f, 0.2)),
    "one image in place of all": Condition("micelle", damaged.identical),
    "half noise images": Condition("micelle", lambda g, f: damaged.mixed_with_noise(g, f, 0.5)),
    "filaments divided": Condition("micelle", damaged.of_filaments),
    "symmetry-expanded, halves drawn by row": Condition("dimer", lambda g, f: damaged.expanded(g, f, "C2")),
    "half sets of 10 and the rest": Condition("micelle", damaged.uneven_halves),
    "phase-flipped, not said": Condition("micelle", damaged.phase_flipped),
    "C2 start 45 deg off its axis": Condition("dimer", lambda g, f: damaged.off_axis(g, f, "y", 45.0)),
    "D2 start 45 deg about z": Condition("tetramer", lambda g, f: damaged.off_axis(g, f, "z", 45.0)),
    "start 28 A off centre": Condition("micelle", lambda g, f: damaged.off_centre(g, f, 28.0)),
    "start without features": Condition("micelle", damaged.featureless),
    "C2 imposed on C1": Condition("micelle", as_is("--symmetry", "C2")),
    "D2 imposed on C2": Condition("dimer", as_is("--symmetry", "D2")),
    "mask inverted": Condition("micelle", lambda g, f: damaged.masked(g, f, "inverted")),
    "mask of 1 % beside the molecule": Condition("micelle", lambda g, f: damaged.masked(g, f, "small")),
    "diameter of 40 A": Condition("micelle", as_is("--diameter", 40)),
    "diameter of 2 A": Condition("micelle", as_is("--diameter", 2)),
    "defocus half of the true one": Condition("micelle", lambda g, f: damaged.with_wrong_optics(g, f, defocus=0.5)),
    "images in which protein is dark": Condition("micelle", lambda g, f: g.rewritten(f, images=-g.images())),
    "no more than 60 particles": Condition("micelle", lambda g, f: g.rewritten(f, rows=np.arange(60))),
}


def made(name: str, out: Path, count: int, seed: int) -> Given:
    """Images of a specimen, simulated unless they are there."""
    specimen = SPECIMENS[name]
    model, folder = out / f"{name}.pdb", out / f"{name}_seed{seed}_{count}"
    if not model.exists():
        model.parent.mkdir(parents=True, exist_ok=True)
        write_pdb(model, specimen.make())
    if not (folder / "simulation.json").exists():
        words = ["--symmetry", specimen.symmetry, "--n", count, *specimen.options, "--seed", 1000 + seed]
        simulate([model, *words], folder)
    record = json.loads((folder / "simulation.json").read_text(encoding="utf-8"))
    diameter = min(record["diameter_A"] + 12.0, record["settings"]["box"] * record["settings"]["apix"])
    return Given(folder / "particles.star", folder / "particles_truth.star", folder / "initial.mrc", round(diameter, 1),
                 specimen.symmetry)


def measured(condition: Condition, given: Given, model: Path, folder: Path) -> dict[str, Any]:
    """One refinement: its true errors, what it reports, and what it says."""
    words = {"--diameter": f"{given.diameter:g}", "--symmetry": given.symmetry}
    more = list(given.words)
    for name in [word for word in more if word in words]:
        place = more.index(name)
        words[name] = more[place + 1]
        del more[place : place + 2]
    more += [word for pair in words.items() for word in pair]
    try:
        cost = refine([given.particles, "--map", given.map, "--threads", 1, *more], folder)
    except CommandFailed:
        (line,) = folder.with_name(f"{folder.name}.log").read_text(encoding="utf-8").strip().splitlines()[-1:]
        return {"refused": line.removeprefix("halfmap: error: ")}
    records = [json.loads(line) for line in (folder / "iterations.jsonl").read_text(encoding="utf-8").splitlines()]
    truth = Truth(read_star(given.truth), SPECIMENS[condition.specimen].symmetry, rigid_part(model))
    found = judge(read_star(folder / "particles.star"), folder / "half1_unfil.mrc", folder / "half2_unfil.mrc", truth)
    one, two = (read_map(folder / f"half{h}_unfil.mrc") for h in (1, 2))
    said = spells(records)
    return {
        "command": cost.command, "cpu_seconds": cost.cpu_seconds, "iterations": len(records),
        "pose_median": found["pose_median"], "truth_05": found["truth_mean_05"], "truth_0143": found["truth_mean_0143"],
        "half_maps": resolution(fsc(one.data, two.data), one.data.shape[-1], one.pixel_size),
        "warnings": _names([spell.finding for spell in said], "warning"),
        "notes": _names([spell.finding for spell in said], "note"),
        "texts": [spell.finding.text for spell in said],
    }


def _names(found: list[Finding], level: str) -> list[str]:
    return [one.name for one in found if one.level == level]


def verdict(result: dict[str, Any], clean: bool) -> str:
    """`silent` where a wrong result goes without a warning, `false alarm` where a clean run is warned of."""
    if "refused" in result:
        return "refused" if not clean else "FALSE ALARM"
    told = bool(result["warnings"])
    overstated = result["half_maps"] * OVERSTATED < min(result["truth_0143"] or COARSEST, COARSEST)
    wrong = result["pose_median"] > LOST or overstated
    if clean:
        return "false alarm" if told else "wrong" if wrong else "ok"
    return "warned" if told else "SILENT" if wrong else "harmless"


def main() -> int:
    """Refine under every condition and print the table."""
    parser = argparse.ArgumentParser(description="Does a refinement say what is wrong?")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--result", type=Path, default=RESULTS / "conditions.json", metavar="FILE.json")
    parser.add_argument("--only", nargs="+", default=[], help="words that names of conditions hold")
    parser.add_argument("--count", type=int, default=500, help="images of a set")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    chosen = {name: one for name, one in CONDITIONS.items() if not asked.only or any(w in name for w in asked.only)}
    try:
        for name, condition in chosen.items():
            given = made(condition.specimen, asked.out, asked.count, asked.seed)
            label = "".join(c if c.isalnum() else "_" for c in name)
            spoilt = condition.make(given, asked.out / "data" / label)
            result = measured(condition, spoilt, asked.out / f"{condition.specimen}.pdb",
                              asked.out / f"runs_seed{asked.seed}" / label)
            results[name] = result | {"verdict": verdict(result, condition.clean)}
            write_record(asked.result, circumstances() | {"results": results})
            print(_line(name, results[name]), flush=True)
    except (InputError, CommandFailed) as error:
        print(f"conditions: error: {error}", file=sys.stderr)
        return 2
    print("\n" + "\n".join(_line(name, result) for name, result in results.items()))
    return 0


def _line(name: str, result: dict[str, Any]) -> str:
    """A row of the table, as Markdown."""
    if "refused" in result:
        return f"| {name} | - | - | - | {result['verdict']} | {result['refused']} |"
    said = ", ".join([*result["warnings"], *(f"({note})" for note in result["notes"])])
    return (f"| {name} | {result['pose_median']:.1f} | {result['truth_05']:.1f} | {result['half_maps']:.1f} | "
            f"{result['verdict']} | {said} |")


if __name__ == "__main__":
    sys.exit(main())
