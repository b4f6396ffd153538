"""Data sets with known truth: one that is given, and simulated ones that are made once for a seed and kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from halfmap_run import simulate
from molecules import MOLECULES, PAPER_SCALE, Molecule

from halfmap.errors import InputError

MARGIN = 12.0  # A: what a simulated particle's diameter grows by, twice a common shift to each side
SIMULATION_SEED = 1000  # images of seed s are simulated with 1000 + s, so that they share no random numbers with refine


@dataclass(frozen=True)
class DataSet:
    """What a refinement needs, and what it is judged by. `origin` says in words where the images come from."""

    name: str
    particles: Path
    map: Path
    diameter: float
    symmetry: str
    truth: Path
    model: Path
    rigid_out: str
    origin: str


def simulated(name: str, seed: int, count: int, more: list[str], out: Path) -> DataSet:
    """`count` images of one of our molecules in out/NAME_seedN, simulated there unless that was done before; `more`
    options of halfmap simulate come last and win.

    Raises InputError where the folder holds images made with other options.
    """
    molecule = (MOLECULES | PAPER_SCALE)[name]
    model, folder = out / f"{name}.pdb", out / f"{name}_seed{seed}"
    if not model.exists():
        molecule.write(model)
    words = ["--symmetry", molecule.symmetry, "--n", str(count), *molecule.options, *more,
             "--seed", str(SIMULATION_SEED + seed)]
    note = folder / "options.txt"
    if not note.exists():
        simulate([model, *words], folder)
        note.write_text(" ".join(words) + "\n", encoding="utf-8")
    elif note.read_text(encoding="utf-8").split() != words:
        raise InputError(f"{folder}: its images were simulated with other options (options.txt); name another --out")
    record = json.loads((folder / "simulation.json").read_text(encoding="utf-8"))
    settings = record["settings"]
    diameter = min(record["diameter_A"] + MARGIN, settings["box"] * settings["apix"])
    return DataSet(name, folder / "particles.star", folder / "initial.mrc", diameter, molecule.symmetry,
                   folder / "particles_truth.star", model, swinging(molecule), f"simulated: {name} {' '.join(words)}")


def swinging(molecule: Molecule) -> str:
    """The letters of the chains that `options` lets swing."""
    words = molecule.options
    hinges = words[words.index("--hinge") + 1] if "--hinge" in words else ""
    return "".join(one.partition(":")[0] for one in hinges.split(",") if one)
