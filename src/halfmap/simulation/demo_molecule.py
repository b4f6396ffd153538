"""A membrane protein that nobody determined: ideal helices in a bundle, with a soluble domain and an outer
arm.

It stands in for a receptor where no file is at hand: about 70 kDa, no symmetry, the membrane's normal along z
with z = 0 in its middle, seven helices across it, and a lopsided domain below that makes particles alignable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from halfmap.particles.model import Atoms

# Bonds (A) and angles (degrees) as in Engh & Huber 1991, Acta Cryst. A47, 392; the torsions and N-CA-C are
# chosen so that a residue rises by 1.500 A and turns by 100.0 degrees.
PHI, PSI, OMEGA = -59.8, -44.7, 179.0
LENGTH = {"N-CA": 1.458, "CA-C": 1.525, "C-N": 1.329, "C-O": 1.231, "C-C": 1.53}
ANGLE = {"N-CA-C": 110.4, "CA-C-N": 116.2, "C-N-CA": 121.7, "CA-C-O": 120.5, "tetrahedral": 110.5}
CA_SPACING = 3.8  # A between the alpha carbons of neighbours in a loop
CORE_B, DOMAIN_B, LOOP_B, ARM_B = 20.0, 35.0, 60.0, 50.0


@dataclass(frozen=True)
class Helix:
    """A helix of `residues` residues around `middle` (A), its axis at `tilt` from +z towards `azimuth`
    (degrees)."""

    residues: int
    middle: tuple[float, float, float]
    tilt: float
    azimuth: float
    bfactor: float


def _bundle() -> list[Helix]:
    """Seven helices across the membrane, up and down in turn: six around a seventh that stands off the
    centre."""
    places = [(10.5, 0.5), (5.0, 9.5), (-5.0, 9.0), (-11.0, -0.5), (-6.0, -9.0), (4.0, -10.5), (0.5, -1.0)]
    lengths, leans = (28, 26, 30, 25, 29, 33, 27), (8, 14, 22, 10, 17, 12, 5)
    return [Helix(length, (x, y, 1.5 * (-1) ** i), lean if i % 2 else 180.0 - lean, 51.0 * i, CORE_B)
            for i, ((x, y), length, lean) in enumerate(zip(places, lengths, leans, strict=True))]


def _domain() -> list[Helix]:
    """Three crossed layers of helices below the membrane, each further off the axis."""
    layers = [(-32.0, 25.0, (0.0, 2.0), (22, 26, 24, 19)), (-42.0, 100.0, (7.0, 5.0), (20, 27, 25, 22, 16)),
              (-52.0, 160.0, (16.0, 9.0), (17, 25, 23, 18)), (-62.0, 60.0, (24.0, 13.0), (15, 18, 14))]
    helices = []
    for z, azimuth, (x, y), lengths in layers:
        across = np.array([-math.sin(math.radians(azimuth)), math.cos(math.radians(azimuth))])
        for j, length in enumerate(lengths):
            place = np.array([x, y]) + across * 9.5 * (j - 0.5 * (len(lengths) - 1))
            turn = azimuth + (180.0 if j % 2 else 0.0)
            middle = (float(place[0]), float(place[1]), z)
            helices.append(Helix(length, middle, 88.0 + 3.0 * j, turn, DOMAIN_B))
    return helices


def _arm() -> list[Helix]:
    """Three helices of another chain that lean out above the membrane."""
    return [Helix(24, (-6.0, 5.0, 30.0), 62.0, 150.0, ARM_B),
            Helix(21, (-17.0, -3.0, 30.0), 115.0, 165.0, ARM_B),
            Helix(17, (-20.0, 9.0, 38.0), 70.0, 100.0, ARM_B)]


def demo_molecule() -> Atoms:
    """The molecule: chain A (bundle and soluble domain) and chain B (the arm), heavy atoms only.

    Helices have ideal backbones with alanine, leucine, serine and phenylalanine side chains; loops run along
    smooth curves with their backbones in roughly the right place.
    """
    chains = {"A": _bundle() + _domain(), "B": _arm()}
    names: list[tuple[str, str, int, str]] = []
    xyz: list[np.ndarray] = []
    bfactor: list[float] = []
    for chain, helices in chains.items():
        number = 0
        end: np.ndarray | None = None
        for helix in helices:
            turned, offset = _frame(helix)
            pieces = [(residue, atoms @ turned.T + offset, helix.bfactor)
                      for residue, atoms in _ideal_helix(helix.residues)]
            alpha = pieces[0][1][1]
            if end is not None:
                direction = 1 if number % 2 else -1
                loop = _loop(end, alpha, direction)
                pieces = [(residue, atoms, LOOP_B) for residue, atoms in loop] + pieces
            for residue, atoms, b in pieces:
                number += 1
                for name, place in zip(ATOM_NAMES[residue], atoms, strict=True):
                    names.append((chain, residue, number, name))
                    xyz.append(place)
                    bfactor.append(b)
            end = pieces[-1][1][1]
    return Atoms(
        xyz=torch.from_numpy(np.stack(xyz)), bfactor=torch.tensor(bfactor, dtype=torch.float64),
        occupancy=torch.ones(len(xyz), dtype=torch.float64), element=tuple(name[0] for *_, name in names),
        chain=tuple(n[0] for n in names), residue=tuple(n[1] for n in names),
        number=tuple(n[2] for n in names), name=tuple(n[3] for n in names))


BACKBONE = ("N", "CA", "C", "O")
ATOM_NAMES = {
    "ALA": (*BACKBONE, "CB"), "SER": (*BACKBONE, "CB", "OG"), "GLY": BACKBONE,
    "LEU": (*BACKBONE, "CB", "CG", "CD1", "CD2"),
    "PHE": (*BACKBONE, "CB", "CG", "CD1", "CD2", "CE1", "CE2", "CZ")}
PATTERN = ("LEU", "ALA", "LEU", "PHE", "SER", "LEU", "ALA", "LEU", "LEU", "SER", "PHE")


def _extend(a: np.ndarray, b: np.ndarray, c: np.ndarray, length: float, angle: float,
            torsion: float) -> np.ndarray:
    """The atom bonded to c at `length` (A), `angle` b-c-d and `torsion` a-b-c-d in degrees."""
    theta, phi = math.radians(angle), math.radians(torsion)
    bc = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, bc)
    normal /= np.linalg.norm(normal)
    across = math.cos(phi) * np.cross(normal, bc) + math.sin(phi) * normal
    return c + length * (math.sin(theta) * across - math.cos(theta) * bc)


def _ideal_helix(residues: int) -> list[tuple[str, np.ndarray]]:
    """Residue names and atoms[a,3] (A) of an alpha helix that rises along +z, its middle at the origin."""
    return _upright(ideal_chain(residues, (PHI, PSI, OMEGA)))


def ideal_chain(residues: int, torsions: tuple[float, float, float]) -> list[tuple[str, np.ndarray]]:
    """Residue names and atoms[a,3] (A) of a chain with the same torsions phi, psi, omega (degrees) in every residue."""
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
        built.append((name, np.stack([n, ca, c, o, *_side_chain(name, n, ca, c)])))
    return built


def _side_chain(name: str, n: np.ndarray, ca: np.ndarray, c: np.ndarray) -> list[np.ndarray]:
    """Side-chain atoms in a common rotamer (chi1 -65, chi2 175 degrees; rings at 90)."""
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


def _upright(built: list[tuple[str, np.ndarray]]) -> list[tuple[str, np.ndarray]]:
    """The residues with the helix axis on z. The second differences of the alpha carbons point at the axis,
    so the axis is the direction they lack."""
    alpha = np.stack([atoms[1] for _, atoms in built])
    inward = alpha[:-2] - 2 * alpha[1:-1] + alpha[2:]
    axis = np.linalg.svd(inward)[2][2]
    axis = axis if axis @ (alpha[-1] - alpha[0]) > 0 else -axis
    x = np.cross(axis, [0.3, 0.5, -0.8])
    x /= np.linalg.norm(x)
    frame = np.stack([x, np.cross(axis, x), axis])
    # an alpha carbon lies its radius (inward length over 4 sin^2(50 degrees)) away from the axis
    on_axis = alpha[1:-1] + inward / (4 * math.sin(math.radians(50.0)) ** 2)
    middle = on_axis.mean(0)
    return [(name, (atoms - middle) @ frame.T) for name, atoms in built]


def _frame(helix: Helix) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and offset that put an upright helix in its place."""
    tilt, azimuth = math.radians(helix.tilt), math.radians(helix.azimuth)
    ct, st, ca, sa = math.cos(tilt), math.sin(tilt), math.cos(azimuth), math.sin(azimuth)
    about_y = np.array([[ct, 0, st], [0, 1, 0], [-st, 0, ct]])
    about_z = np.array([[ca, -sa, 0], [sa, ca, 0], [0, 0, 1]])
    return about_z @ about_y, np.array(helix.middle)


def _loop(start: np.ndarray, end: np.ndarray, direction: int) -> list[tuple[str, np.ndarray]]:
    """Residues between the alpha carbons `start` and `end` (A) on an arc that bulges away from the straight
    line."""
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
            residues.append(("GLY", np.stack(atoms)))
        else:
            cb = alpha[i] - LENGTH["C-C"] * up
            residues.append(("SER", np.stack([*atoms, cb, cb + 1.42 * side])))
    return residues
