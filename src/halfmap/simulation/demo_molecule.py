"""An invented membrane protein: a bundle of ideal helices with a soluble domain and an outer arm.

It stands in for a receptor where no model file is at hand. It has about 70 kDa and no symmetry. The membrane's normal
lies along z with z = 0 in its middle. Seven helices cross the membrane, and a lopsided domain below it makes particles
alignable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from halfmap.maps.grid import Angstroms
from halfmap.particles.model import Atoms

# Bond lengths (A) and angles (degrees) are those of Engh & Huber 1991, Acta Cryst. A47, 392. The torsions and N-CA-C
# are chosen so that a residue rises by 1.500 A and turns by 100.0 degrees.
PHI, PSI, OMEGA = -59.8, -44.7, 179.0
LENGTH = {"N-CA": 1.458, "CA-C": 1.525, "C-N": 1.329, "C-O": 1.231, "C-C": 1.53}
ANGLE = {"N-CA-C": 110.4, "CA-C-N": 116.2, "C-N-CA": 121.7, "CA-C-O": 120.5, "tetrahedral": 110.5}
CA_SPACING = 3.8  # A between alpha carbons of neighbouring residues in a loop
CORE_B, DOMAIN_B, LOOP_B, ARM_B = 20.0, 35.0, 60.0, 50.0  # B factors (A^2)


@dataclass(frozen=True)
class Helix:
    """A helix of `residues` residues around `middle` [x, y, z] (A). Its axis is tilted by `tilt` from +z towards
    `azimuth` (degrees). bfactor in A^2."""

    residues: int
    middle: Angstroms
    tilt: float
    azimuth: float
    bfactor: float


class Residue(NamedTuple):
    """The name of a residue and its atoms[a,3] (A), in the order of ATOM_NAMES."""

    name: str
    atoms: np.ndarray


def _bundle() -> list[Helix]:
    """Seven helices across the membrane, alternately up and down: six around a seventh that is off the centre."""
    places = [(10.5, 0.5), (5.0, 9.5), (-5.0, 9.0), (-11.0, -0.5), (-6.0, -9.0), (4.0, -10.5), (0.5, -1.0)]
    lengths, leans = (28, 26, 30, 25, 29, 33, 27), (8, 14, 22, 10, 17, 12, 5)
    return [Helix(length, Angstroms(x, y, 1.5 * (-1) ** i), lean if i % 2 else 180.0 - lean, 51.0 * i, CORE_B)
            for i, ((x, y), length, lean) in enumerate(zip(places, lengths, leans, strict=True))]


def _domain() -> list[Helix]:
    """Four crossed layers of helices below the membrane, each further off the axis."""
    layers = [(-32.0, 25.0, (0.0, 2.0), (22, 26, 24, 19)), (-42.0, 100.0, (7.0, 5.0), (20, 27, 25, 22, 16)),
              (-52.0, 160.0, (16.0, 9.0), (17, 25, 23, 18)), (-62.0, 60.0, (24.0, 13.0), (15, 18, 14))]
    helices = []
    for z, azimuth, (x, y), lengths in layers:
        across = np.array([-math.sin(math.radians(azimuth)), math.cos(math.radians(azimuth))])
        for j, length in enumerate(lengths):
            place = np.array([x, y]) + across * 9.5 * (j - 0.5 * (len(lengths) - 1))
            turn = azimuth + (180.0 if j % 2 else 0.0)
            middle = Angstroms(float(place[0]), float(place[1]), z)
            helices.append(Helix(length, middle, 88.0 + 3.0 * j, turn, DOMAIN_B))
    return helices


def _arm() -> list[Helix]:
    """Three helices of another chain that stick out above the membrane."""
    return [Helix(24, Angstroms(-6.0, 5.0, 30.0), 62.0, 150.0, ARM_B),
            Helix(21, Angstroms(-17.0, -3.0, 30.0), 115.0, 165.0, ARM_B),
            Helix(17, Angstroms(-20.0, 9.0, 38.0), 70.0, 100.0, ARM_B)]


def demo_molecule() -> Atoms:
    """The molecule: chain A (bundle and soluble domain) and chain B (the arm), heavy atoms only.

    Helices have ideal backbones with alanine, leucine, serine and phenylalanine side chains. Loops follow smooth
    curves, and their backbones are only roughly right.
    """
    chains = {"A": _bundle() + _domain(), "B": _arm()}
    chain_of: list[str] = []
    residue_of: list[str] = []
    number_of: list[int] = []
    name_of: list[str] = []
    xyz: list[np.ndarray] = []
    bfactor: list[float] = []
    for chain, helices in chains.items():
        for number, (residue, b) in enumerate(_threaded(helices), 1):
            for name, place in zip(ATOM_NAMES[residue.name], residue.atoms, strict=True):
                chain_of.append(chain)
                residue_of.append(residue.name)
                number_of.append(number)
                name_of.append(name)
                xyz.append(place)
                bfactor.append(b)
    return Atoms(
        xyz=torch.from_numpy(np.stack(xyz)), bfactor=torch.tensor(bfactor, dtype=torch.float64),
        occupancy=torch.ones(len(xyz), dtype=torch.float64), element=tuple(name[0] for name in name_of),
        chain=tuple(chain_of), residue=tuple(residue_of), number=tuple(number_of), name=tuple(name_of))


def _threaded(helices: list[Helix]) -> list[tuple[Residue, float]]:
    """The residues of a chain with their B factors (A^2): the helices in order, joined by loops."""
    chain: list[tuple[Residue, float]] = []
    for helix in helices:
        turned, offset = helix_frame(helix)
        placed = [Residue(name, atoms @ turned.T + offset) for name, atoms in ideal_helix(helix.residues)]
        if chain:
            end, start = chain[-1][0].atoms[1], placed[0].atoms[1]
            chain += [(residue, LOOP_B) for residue in loop_between(end, start, 1 if len(chain) % 2 else -1)]
        chain += [(residue, helix.bfactor) for residue in placed]
    return chain


BACKBONE = ("N", "CA", "C", "O")
ATOM_NAMES = {
    "ALA": (*BACKBONE, "CB"), "SER": (*BACKBONE, "CB", "OG"), "GLY": BACKBONE,
    "LEU": (*BACKBONE, "CB", "CG", "CD1", "CD2"),
    "PHE": (*BACKBONE, "CB", "CG", "CD1", "CD2", "CE1", "CE2", "CZ")}
PATTERN = ("LEU", "ALA", "LEU", "PHE", "SER", "LEU", "ALA", "LEU", "LEU", "SER", "PHE")


def _extend(a: np.ndarray, b: np.ndarray, c: np.ndarray, length: float, angle: float,
            torsion: float) -> np.ndarray:
    """The position d of an atom bonded to c: c-d is `length` (A), b-c-d `angle` and a-b-c-d `torsion` (degrees)."""
    theta, phi = math.radians(angle), math.radians(torsion)
    bc = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, bc)
    normal /= np.linalg.norm(normal)
    across = math.cos(phi) * np.cross(normal, bc) + math.sin(phi) * normal
    return c + length * (math.sin(theta) * across - math.cos(theta) * bc)


def ideal_helix(residues: int) -> list[Residue]:
    """An alpha helix that rises along +z, its middle at the origin."""
    return _upright(ideal_chain(residues, (PHI, PSI, OMEGA)))


def ideal_chain(residues: int, torsions: tuple[float, float, float]) -> list[Residue]:
    """A chain with the same torsions phi, psi, omega (degrees) in every residue."""
    phi, psi, omega = torsions
    backbone = [np.array([0.0, 0.0, 0.0]), np.array([LENGTH["N-CA"], 0.0, 0.0])]
    turn = math.radians(180.0 - ANGLE["N-CA-C"])
    backbone.append(backbone[1] + LENGTH["CA-C"] * np.array([math.cos(turn), math.sin(turn), 0.0]))
    for _ in range(residues - 1):
        for bond, angle, torsion in (
                ("C-N", "CA-C-N", psi), ("N-CA", "C-N-CA", omega), ("CA-C", "N-CA-C", phi)):
            a, b, c = backbone[-3:]
            backbone.append(_extend(a, b, c, LENGTH[bond], ANGLE[angle], torsion))
    built = []
    for i in range(residues):
        n, ca, c = backbone[3 * i:3 * i + 3]
        o = _extend(n, ca, c, LENGTH["C-O"], ANGLE["CA-C-O"], psi + 180.0)
        name = PATTERN[i % len(PATTERN)]
        built.append(Residue(name, np.stack([n, ca, c, o, *_side_chain(name, n, ca, c)])))
    return built


def _side_chain(name: str, n: np.ndarray, ca: np.ndarray, c: np.ndarray) -> list[np.ndarray]:
    """Atoms [3] (A) of a side chain in a common rotamer (chi1 -65, chi2 175 degrees; rings at 90)."""
    bond, tetrahedral = LENGTH["C-C"], ANGLE["tetrahedral"]
    cb = _extend(c, n, ca, bond, tetrahedral, -122.5)
    if name == "ALA":
        return [cb]
    tip = _extend(n, ca, cb, 1.42 if name == "SER" else bond, tetrahedral, -65.0)
    if name == "SER":
        return [cb, tip]
    if name == "LEU":
        return [cb, tip, *(_extend(ca, cb, tip, bond, tetrahedral, chi) for chi in (175.0, -63.0))]
    cd1, cd2 = (_extend(ca, cb, tip, 1.39, 120.0, chi) for chi in (90.0, -90.0))
    ce1, ce2 = _extend(cb, tip, cd1, 1.39, 120.0, 180.0), _extend(cb, tip, cd2, 1.39, 120.0, 180.0)
    return [cb, tip, cd1, cd2, ce1, ce2, _extend(tip, cd1, ce1, 1.39, 120.0, 0.0)]


def _upright(built: list[Residue]) -> list[Residue]:
    """Turn a helix so that its axis lies on z.

    The second differences of the alpha carbons are perpendicular to the axis, so the axis is the direction in which
    they vanish.
    """
    alpha = np.stack([residue.atoms[1] for residue in built])
    inward = alpha[:-2] - 2 * alpha[1:-1] + alpha[2:]
    axis = np.linalg.svd(inward)[2][2]
    axis = axis if axis @ (alpha[-1] - alpha[0]) > 0 else -axis
    x = np.cross(axis, [0.3, 0.5, -0.8])
    x /= np.linalg.norm(x)
    frame = np.stack([x, np.cross(axis, x), axis])
    # The radius of an alpha carbon about the axis is the length of `inward` over 4 sin^2(50 degrees).
    on_axis = alpha[1:-1] + inward / (4 * math.sin(math.radians(50.0)) ** 2)
    middle = on_axis.mean(0)
    return [Residue(name, (atoms - middle) @ frame.T) for name, atoms in built]


def helix_frame(helix: Helix) -> tuple[np.ndarray, np.ndarray]:
    """The rotation [3,3] and the offset [3] (A) that move an upright helix to its place."""
    tilt, azimuth = math.radians(helix.tilt), math.radians(helix.azimuth)
    ct, st, ca, sa = math.cos(tilt), math.sin(tilt), math.cos(azimuth), math.sin(azimuth)
    about_y = np.array([[ct, 0, st], [0, 1, 0], [-st, 0, ct]])
    about_z = np.array([[ca, -sa, 0], [sa, ca, 0], [0, 0, 1]])
    return about_z @ about_y, np.array(helix.middle)


def loop_between(start: np.ndarray, end: np.ndarray, direction: int) -> list[Residue]:
    """The residues between the alpha carbons `start` and `end` (A), on an arc that bulges away from the straight line.

    direction: 1 or -1; loops of opposite directions bulge to different sides.
    """
    gap = end - start
    distance = float(np.linalg.norm(gap))
    side = np.cross(gap, [0.2 * direction, 0.3, 1.0])
    side /= np.linalg.norm(side)
    fine = np.linspace(0.0, 1.0, 400)[:, None]
    path = start + gap * fine + side * (3.0 + 0.15 * distance) * np.sin(math.pi * fine)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    steps = max(2, round(length[-1] / CA_SPACING))
    stations = np.linspace(0, length[-1], steps + 1)
    alpha = np.stack([np.interp(stations, length, path[:, i]) for i in range(3)], 1)
    residues = []
    for i in range(1, steps):
        ahead = alpha[i + 1] - alpha[i]
        back = alpha[i - 1] - alpha[i]
        up = np.cross(ahead, side)
        up *= (-1) ** i / np.linalg.norm(up)
        n, c = alpha[i] + 0.36 * back + 0.4 * up, alpha[i] + 0.37 * ahead + 0.4 * up
        atoms = [n, alpha[i], c, c + LENGTH["C-O"] * up]
        if i % 3 == 0:
            residues.append(Residue("GLY", np.stack(atoms)))
        else:
            cb = alpha[i] - LENGTH["C-C"] * up
            residues.append(Residue("SER", np.stack([*atoms, cb, cb + 1.42 * side])))
    return residues
