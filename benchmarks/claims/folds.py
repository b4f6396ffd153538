"""What the benchmark molecules are built of: helices packed side by side, beta sandwiches, and the loops between them.

Bond lengths, angles and side chains are those of the demo's molecule. Nothing here is a known structure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap.maps.grid import Angstroms
from halfmap.particles.model import Atoms
from halfmap.simulation.demo_molecule import (
    ATOM_NAMES,
    LOOP_B,
    Helix,
    helix_frame,
    ideal_chain,
    ideal_helix,
    loop_between,
)

RISE = 1.5  # A along a helix for each residue
HELIX_CONTACT = 9.0  # A between the axes of helices that touch
STEPS = 300  # of packing
# Antiparallel sheets (Richardson 1981, Adv. Protein Chem. 34, 167): torsions in degrees, spacings in A.
STRAND_PHI, STRAND_PSI, STRAND_OMEGA = -119.0, 133.0, 178.0
BETWEEN_STRANDS, BETWEEN_SHEETS = 4.8, 10.0
SHEET_TWIST, SANDWICH_ANGLE = -18.0, -30.0  # degrees from strand to strand, and from sheet to sheet
# An immunoglobulin domain: sheet (+1 or -1), place in it, and residues of each strand in the order of the chain.
IMMUNOGLOBULIN = ((1, -1.0, 9), (1, 0.0, 10), (-1, 1.0, 10), (-1, 2.0, 9), (-1, 3.0, 6), (1, 2.0, 9), (1, 1.0, 10),
                  (-1, 0.0, 11), (-1, -1.0, 10))

Array = NDArray[np.float64]
Residue = tuple[str, Array]
Segment = list[tuple[str, Array, float]]


@dataclass(frozen=True)
class Piece:
    """A straight stretch of chain: residues (name, atoms[a,3] in A, N CA C O first), all with one B factor (A^2)."""

    residues: list[Residue]
    bfactor: float

    @property
    def start(self) -> Array:
        """The first alpha carbon [3] (A)."""
        return self.residues[0][1][1]

    @property
    def end(self) -> Array:
        """The last alpha carbon [3] (A)."""
        return self.residues[-1][1][1]


def helix_piece(helix: Helix) -> Piece:
    """The atoms of a helix."""
    turned, offset = helix_frame(helix)
    return Piece([(name, atoms @ turned.T + offset) for name, atoms in ideal_helix(helix.residues)], helix.bfactor)


def direction(helix: Helix) -> Array:
    """The unit vector [3] along a helix's axis."""
    return helix_frame(helix)[0] @ np.array([0.0, 0.0, 1.0])


def bundle(places: Sequence[tuple[float, float]], lengths: Sequence[int], seed: int, bfactor: float,
           lean: float = 22.0) -> list[Helix]:
    """Helices across the membrane at the given places x, y (A), leaning by up to `lean` degrees to random sides."""
    random = np.random.default_rng(seed)
    return [Helix(n, Angstroms(x, y, float(random.uniform(-3, 3))), float(random.uniform(0.3, 1.0) * lean),
                  float(random.uniform(0, 360)), bfactor) for (x, y), n in zip(places, lengths, strict=True)]


def tangle(centre: tuple[float, float, float], lengths: Sequence[int], seed: int, bfactor: float) -> list[Helix]:
    """Helices of a soluble domain: random places around a centre (A), three main directions with some scatter."""
    random = np.random.default_rng(seed)
    spread = 4.0 * len(lengths) ** (1 / 3)
    axes = np.linalg.qr(random.normal(size=(3, 3)))[0]
    helices = []
    for i, n in enumerate(lengths):
        along = axes[i % 3] + random.normal(0.0, 0.25, 3)
        along /= np.linalg.norm(along)
        middle = np.array(centre) + random.normal(0.0, spread, 3)
        helices.append(Helix(n, Angstroms(float(middle[0]), float(middle[1]), float(middle[2])),
                             math.degrees(math.acos(along[2])), math.degrees(math.atan2(along[1], along[0])), bfactor))
    return helices


def packed(helices: Sequence[Helix], around: Sequence[Helix] = (), fold: int = 1, flat: bool = False,
           keep_out: float = 0.0, inward: float = 0.0) -> list[Helix]:
    """The helices moved, not turned, until they touch but do not overlap: each other, those `around`, and the copies of
    all that an n-fold axis on z makes.

    They are drawn to their own mean place, moved towards the axis by `inward` (A); `flat` moves them in x and y only;
    `keep_out` (A) is the radius of a channel along z that stays free.
    """
    own = [_axis_points(h) for h in helices]
    still = [_axis_points(h) for h in around]
    middles = np.array([h.middle for h in helices])
    centre, moved = middles.mean(0), np.zeros_like(middles)
    centre[:2] *= 1 - inward / max(float(np.linalg.norm(centre[:2])), inward, 1e-6)
    free = np.array([1.0, 1.0, 0.0 if flat else 1.0])
    for step in range(STEPS):
        pull = 0.25 if step < 0.8 * STEPS else 0.0
        placed = [points + moved[i] for i, points in enumerate(own)]
        obstacles = _all_placed(placed, fold) + [copy for h in still for copy in _turned(h, fold)]
        change = np.zeros_like(moved)
        for i, points in enumerate(placed):
            for j, other in enumerate(obstacles):
                if j != i:
                    change[i] += 0.5 * _apart(points, other)
            nearest = points[np.hypot(points[:, 0], points[:, 1]).argmin()] * [1.0, 1.0, 0.0]
            radius = float(np.linalg.norm(nearest))
            change[i] += max(0.0, keep_out - radius) * nearest / max(radius, 1e-6)
        offset = centre - (middles + moved)
        change += pull * offset / np.maximum(np.linalg.norm(offset, axis=1, keepdims=True), 1.0)
        moved += np.clip(change, -2.0, 2.0) * free
    return [replace(h, middle=Angstroms(float(m[0]), float(m[1]), float(m[2])))
            for h, m in zip(helices, middles + moved, strict=True)]


def threaded(helices: Sequence[Helix]) -> list[Piece]:
    """The helices in an order and with directions that keep loops short: from the first, always to the nearest free
    end."""
    left = list(helices)
    chain = [left.pop(0)]
    while left:
        tip = np.array(chain[-1].middle) + 0.5 * RISE * chain[-1].residues * direction(chain[-1])
        choices = [(np.linalg.norm(np.array(h.middle) - 0.5 * RISE * h.residues * direction(h) - tip), i, h)
                   for i, helix in enumerate(left) for h in (helix, _reversed(helix))]
        _, i, chosen = min(choices, key=lambda choice: choice[0])
        left.pop(i)
        chain.append(chosen)
    return [helix_piece(h) for h in chain]


def immunoglobulin(rotation: Array, offset: Array, bfactor: float) -> list[Piece]:
    """Nine strands in two sheets, about 11 kDa: strands along y and sheets across z before the rotation[3,3] and the
    offset[3] (A)."""
    pieces = []
    for i, (sheet, place, residues) in enumerate(IMMUNOGLOBULIN):
        lie = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])  # strand along y, side chains along z
        flip = about("z", 180.0 * (i % 2))  # neighbours in a sheet run against each other
        whole = about("z", 0.5 * sheet * SANDWICH_ANGLE)
        turned = whole @ about("x", SHEET_TWIST * place) @ flip @ lie
        middle = whole @ [BETWEEN_STRANDS * (place - 0.5), 0.0, 0.5 * sheet * BETWEEN_SHEETS]
        strand = [(name, (atoms @ turned.T + middle) @ rotation.T + offset)
                  for name, atoms in _ideal_strand(residues)]
        pieces.append(Piece(strand, bfactor))
    return pieces


def about(axis: str, degrees: float) -> Array:
    """The rotation [3,3] about x, y or z."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    i = "xyz".index(axis)
    j, k = (i + 1) % 3, (i + 2) % 3
    turned = np.eye(3)
    turned[j, j], turned[j, k], turned[k, j], turned[k, k] = c, -s, s, c
    return turned


def joined(pieces: Sequence[Piece]) -> Segment:
    """One stretch of chain: the pieces with loops between them, each residue with its B factor (A^2)."""
    segment: Segment = []
    for i, piece in enumerate(pieces):
        if i and np.linalg.norm(piece.start - pieces[i - 1].end) > 5.0:
            loop = loop_between(pieces[i - 1].end, piece.start, 1 if i % 2 else -1)
            segment += [(name, atoms, LOOP_B) for name, atoms in loop]
        segment += [(name, atoms, piece.bfactor) for name, atoms in piece.residues]
    return segment


def copies(segment: Segment, fold: int) -> list[Segment]:
    """The segment and its copies by an n-fold axis on z. Loops must be in place: they are no function of the frame."""
    return [[(name, atoms @ about("z", 360.0 * i / fold).T, b) for name, atoms, b in segment] for i in range(fold)]


def built(chains: dict[str, list[Segment]]) -> Atoms:
    """The atoms of chains, each of one or more segments."""
    rows: list[tuple[str, str, int, str, float]] = []
    xyz: list[Array] = []
    for chain, segments in chains.items():
        for number, (residue, atoms, b) in enumerate(itertools.chain.from_iterable(segments), 1):
            for name, place in zip(ATOM_NAMES[residue], atoms, strict=True):
                rows.append((chain, residue, number, name, b))
                xyz.append(place)
    return Atoms(
        xyz=torch.from_numpy(np.stack(xyz)), bfactor=torch.tensor([row[4] for row in rows], dtype=torch.float64),
        occupancy=torch.ones(len(rows), dtype=torch.float64), element=tuple(row[3][0] for row in rows),
        chain=tuple(row[0] for row in rows), residue=tuple(row[1] for row in rows),
        number=tuple(row[2] for row in rows), name=tuple(row[3] for row in rows))


def _ideal_strand(residues: int) -> list[Residue]:
    """Residue names and atoms[a,3] (A) of an extended strand along +z, its middle at the origin and its side chains
    along x."""
    made = ideal_chain(residues, (STRAND_PHI, STRAND_PSI, STRAND_OMEGA))
    alpha = np.stack([atoms[1] for _, atoms in made])
    axis = alpha[-1] - alpha[0]
    axis /= np.linalg.norm(axis)
    side = sum(((-1) ** i * (atoms[4] - atoms[1]) for i, (_, atoms) in enumerate(made)), np.zeros(3))
    side -= axis * (axis @ side)
    side /= np.linalg.norm(side)
    frame = np.stack([side, np.cross(axis, side), axis])
    return [(name, (atoms - alpha.mean(0)) @ frame.T) for name, atoms in made]


def _axis_points(helix: Helix) -> Array:
    """Points [p,3] (A), about 3 A apart, along a helix's axis."""
    half = 0.5 * RISE * helix.residues - 2.0
    along = np.linspace(-half, half, max(3, round(2 * half / 3.0) + 1))
    return np.array(helix.middle) + along[:, None] * direction(helix)


def _turned(points: Array, fold: int) -> list[Array]:
    return [points @ about("z", 360.0 * i / fold).T for i in range(fold)]


def _all_placed(placed: Sequence[Array], fold: int) -> list[Array]:
    """The helices themselves first, then their symmetric copies."""
    others = [copy for points in placed for copy in _turned(points, fold)[1:]]
    return [*placed, *others]


def _apart(points: Array, other: Array) -> Array:
    """The move [3] (A) of one helix that frees it of another: along the line between their nearest points."""
    between = points[:, None] - other[None]
    distance = np.sqrt(np.square(between).sum(-1))
    nearest = np.unravel_index(distance.argmin(), distance.shape)
    d = float(distance[nearest])
    return max(0.0, HELIX_CONTACT - d) * between[nearest] / max(d, 1e-6)


def _reversed(helix: Helix) -> Helix:
    return replace(helix, tilt=180.0 - helix.tilt, azimuth=helix.azimuth + 180.0)
