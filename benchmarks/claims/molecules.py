"""Proteins that nobody determined, for refinements and starts whose truth is known.

python benchmarks/claims/molecules.py FOLDER      writes all of them as PDB files

Three membrane proteins:

- transporter: C1, about 85 kDa. Ten helices in a nanodisc far wider than they are, and an antibody fragment whose
  constant half swings at its elbow: after PfCRT with its Fab, the hardest case of Punjani et al. 2020.
- dimer: C2, about 170 kDa, in a nanodisc; two peripheral domains swing.
- channel: C4, about 240 kDa, in a belt that is small beside it; a bundle of four helices on the axis swings.

Membranes lie across z with their middle at z = 0. Chain F is what swings, as one body. Symmetric copies in it swing
together about a point on the axis, so that a particle that swings out has no symmetry left.

A larger one for the paper's scale (`paper_scale.py`):

- fab_channel: C2, 245 kDa: four domains alike in a belt that is small beside them, antibody fragments on two opposite
  ones, and the bundle; after Nav1.7. The bundle and the fragments' constant halves (chains G and H) swing, each by
  itself.

Two soluble ones, rigid, which starts are tried on (`SOLUBLE`):

- tetramer: D2, about 105 kDa, four tangles of twelve helices.
- half_tetramer: C2, the two of them that lie on one side.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from folds import (
    Array,
    Segment,
    about,
    built,
    bundle,
    copies,
    helix_piece,
    immunoglobulin,
    joined,
    packed,
    tangle,
    threaded,
)

from halfmap.maps.grid import Angstroms
from halfmap.particles.model import Atoms, write_pdb
from halfmap.simulation.demo_molecule import Helix

CORE_B, SOLUBLE_B, SWINGING_B = 20.0, 35.0, 50.0
SWINGING = "F"


@dataclass(frozen=True)
class Molecule:
    """How a molecule is made and how its images are: `options` of halfmap simulate, and its point group."""

    make: Callable[[], Atoms]
    symmetry: str
    options: tuple[str, ...]

    def write(self, path: Path) -> None:
        """Write it as a PDB file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_pdb(path, self.make())


def transporter() -> Atoms:
    """Chain A: ten helices across the membrane and five along it; B and C: the variable half of an antibody fragment,
    bound to it; F: the constant half."""
    inner = [(6.5 * math.cos(a), 6.5 * math.sin(a)) for a in np.radians([20, 110, 200, 290])]
    outer = [(18.0 * math.cos(a), 14.0 * math.sin(a)) for a in np.radians([0, 62, 118, 178, 243, 302])]
    across = packed(bundle(inner + outer, (26, 30, 27, 33, 29, 25, 34, 28, 31, 27), 3, CORE_B), flat=True)
    along = packed([Helix(n, Angstroms(*place), tilt, azimuth, SOLUBLE_B) for n, place, tilt, azimuth in (
        (18, (12.0, -8.0, -26.0), 84.0, 40.0), (14, (-11.0, 6.0, -27.0), 95.0, 130.0),
        (16, (-2.0, -13.0, -25.0), 88.0, 160.0), (17, (-9.0, 7.0, 25.0), 80.0, 75.0),
        (13, (6.0, -10.0, 25.0), 98.0, 200.0))], across)
    bound, constant = _fragment(about("z", 35.0) @ about("y", 24.0), np.array([2.0, 0.0, 27.0]))
    return built({"A": [joined(threaded(across + along))], "B": bound[:1], "C": bound[1:], SWINGING: constant})


def _fragment(lean: Array, foot: Array) -> tuple[list[Segment], list[Segment]]:
    """An antibody fragment that stands on `foot` [3] (A) along lean[3,3]'s z: its variable and its constant half."""
    def domain(x: float, y: float, z: float, turn: float, bfactor: float) -> Segment:
        # the strands of a variable domain run along the fragment
        stand = about("z", turn) @ about("x", 78.0)
        return joined(immunoglobulin(lean @ stand, lean @ np.array([x, y, z]) + foot, bfactor))

    return ([domain(-10.5, 1.0, 20.0, 10.0, SOLUBLE_B), domain(10.5, -1.0, 21.0, 150.0, SOLUBLE_B)],
            [domain(-8.0, -9.5, 56.0, 80.0, SWINGING_B), domain(10.0, 7.5, 57.0, 230.0, SWINGING_B)])


def dimer() -> Atoms:
    """Chains A and B: thirteen helices across the membrane and nine below it each; F: the two peripheral domains."""
    grid = [(9.0 + 10.0 * i + 5.0 * (j % 2), 9.0 * (j - 1.5)) for j in range(4) for i in range(3)] + [(40.0, 0.0)]
    across = packed(bundle(grid, (26, 30, 24, 28, 33, 25, 29, 27, 23, 31, 26, 28, 30), 5, CORE_B), fold=2, flat=True,
                    inward=8.0)
    below = packed(tangle((15.0, 4.0, -34.0), (17, 21, 15, 19, 14, 18, 22, 16, 20), 8, SOLUBLE_B), across, fold=2,
                   inward=4.0)
    swinging = packed(tangle((24.0, -8.0, -64.0), (19, 24, 16, 22, 18, 26, 15, 20, 17, 21), 13, SWINGING_B),
                      across + below, fold=2)
    first, second = copies(joined(threaded(across + below)), 2)
    return built({"A": [first], "B": [second], SWINGING: copies(joined(threaded(swinging)), 2)})


def channel() -> Atoms:
    """Chains A to D: four outer and two pore-lining helices, a pore helix, a linker and a skirt of fifteen helices;
    F: the bundle on the axis."""
    subunits, floppy = _tetramer_in_membrane((18, 14, 20, 16, 22, 17, 15, 19, 16, 21, 14, 18, 20, 15, 17), -66.0)
    return built({**dict(zip("ABCD", ([s] for s in subunits), strict=True)), SWINGING: floppy})


def fab_channel() -> Atoms:
    """Chains A to D: the domains, as those of `channel` with a skirt of eight helices; I and J: variable halves of the
    antibody fragments on A and C; G and H: their constant halves; F: the bundle on the axis."""
    domains, floppy = _tetramer_in_membrane((18, 14, 20, 16, 22, 17, 15, 19), -56.0)
    bound, constant = _fragment(about("z", 5.0) @ about("y", 38.0), np.array([31.0, 4.0, 19.0]))  # out over the rim

    def opposite(segments: list[Segment]) -> list[Segment]:
        return [copies(segment, 2)[1] for segment in segments]

    return built({**dict(zip("ABCD", ([s] for s in domains), strict=True)), "I": bound, "J": opposite(bound),
                  "G": constant, "H": opposite(constant), SWINGING: floppy})


def _tetramer_in_membrane(lengths: tuple[int, ...], bundle_at: float) -> tuple[list[Segment], list[Segment]]:
    """Four subunits about z, each with a skirt of helices of these lengths, and the bundle on the axis, its middle at
    the height `bundle_at` (A)."""
    pore = [Helix(34, Angstroms(9.5, 2.0, -4.0), 18.0, 100.0, CORE_B),
            Helix(30, Angstroms(17.5, 9.0, 0.0), 24.0, 160.0, CORE_B),
            Helix(12, Angstroms(9.0, -7.0, 10.0), 55.0, 250.0, CORE_B),
            Helix(16, Angstroms(22.0, -4.0, -21.0), 88.0, 70.0, CORE_B)]
    pore = packed(pore, fold=4, flat=True, keep_out=6.0)
    outer = packed(bundle([(30.0, 2.0), (38.0, -2.0), (32.0, 12.0), (40.0, 9.0)], (27, 25, 29, 24), 4, CORE_B, 15.0),
                   pore, fold=4, flat=True, inward=12.0)
    floppy = [Helix(40, Angstroms(6.8, 0.0, bundle_at), 14.0, 90.0, SWINGING_B)]
    skirt = packed(tangle((31.0, 3.0, -44.0), lengths, 6, SOLUBLE_B), [*pore, *outer, *floppy], fold=4, keep_out=22.0)
    subunits = copies(joined(threaded([*outer, pore[3], pore[1], pore[2], pore[0], *skirt])), 4)
    return subunits, copies(joined([helix_piece(floppy[0])]), 4)


def half_tetramer() -> Atoms:
    """Chains A and B: twelve helices each."""
    first, second = _tangles()
    return built({"A": [first], "B": [second]})


def tetramer() -> Atoms:
    """Chains A to D: twelve helices each."""
    half = _tangles()
    turned = [[(name, atoms @ about("x", 180.0).T, b) for name, atoms, b in one] for one in half]
    return built({chain: [one] for chain, one in zip("ABCD", [*half, *turned], strict=True)})


def _tangles() -> list[Segment]:
    lengths = (22, 17, 25, 19, 15, 21, 18, 24, 16, 20, 14, 19)
    return copies(joined(threaded(packed(tangle((15.0, 6.0, 22.0), lengths, 21, 30.0), fold=2, inward=3.0))), 2)


BELT = ("--micelle", "--micelle-thickness", "46", "--micelle-contrast", "0.9")
# Noise is chosen so that 500 to 2,000 images end between 5 and 9 A under the uniform filter: poses are what limits.
MOLECULES = {
    "transporter": Molecule(transporter, "C1", (
        "--box", "72", "--apix", "2.4", "--snr", "0.04", "--hinge", f"{SWINGING}:10", *BELT, "--micelle-radius", "50")),
    "dimer": Molecule(dimer, "C2", (
        "--box", "80", "--apix", "2.4", "--snr", "0.03", "--hinge", f"{SWINGING}:10", *BELT, "--micelle-radius", "62")),
    "channel": Molecule(channel, "C4", (
        "--box", "72", "--apix", "2.4", "--snr", "0.022", "--hinge", f"{SWINGING}:10", *BELT,
        "--micelle-radius", "64")),
}
# As many particles as the sets of Punjani et al. 2020, as finely sampled, and what makes real ones hard: contrasts that
# differ (as the scale factors of a real cryoSPARC job do), one image in twenty of no whole particle, high defocus.
REAL = (*BELT, "--contrast-sd", "0.25", "--junk", "0.05", "--defocus-min", "0.6", "--defocus-max", "2.4",
        "--dtype", "int8")
PAPER_SCALE = {
    "pfcrt-like": Molecule(transporter, "C1", (
        "--box", "192", "--apix", "1.15", "--snr", "0.003", "--hinge", f"{SWINGING}:10", *REAL,
        "--micelle-radius", "50")),
    "stra6-like": Molecule(dimer, "C2", (
        "--box", "192", "--apix", "1.15", "--snr", "0.004", "--hinge", f"{SWINGING}:10", *REAL,
        "--micelle-radius", "62")),
    "nav-like": Molecule(fab_channel, "C2", (
        "--box", "224", "--apix", "1.2", "--snr", "0.005", "--hinge", f"{SWINGING}:10,G:8,H:8", *REAL,
        "--micelle-radius", "64")),
}
SOLUBLE = {
    "tetramer": Molecule(tetramer, "D2", ("--box", "64", "--apix", "2.6", "--snr", "0.04")),
    "half_tetramer": Molecule(half_tetramer, "C2", ("--box", "56", "--apix", "2.6", "--snr", "0.05")),
}


def main() -> int:
    """Write all of them."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    for name, molecule in (MOLECULES | PAPER_SCALE | SOLUBLE).items():
        molecule.write(folder / f"{name}.pdb")
        print(folder / f"{name}.pdb")
    return 0


if __name__ == "__main__":
    sys.exit(main())
