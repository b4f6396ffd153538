"""The simulated particle: a rigid part, chains that swing on hinges, and a belt of detergent drawn for each one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.geometry.rotations import rotation_vector_to_matrix
from halfmap.imaging.density import Cloud, Placed
from halfmap.particles.model import Atoms, centred, scattering

CONTACT = 6.0  # A: atoms of two parts that are this close are in contact
BELT_GRID = 2.0  # A: spacing of the points where detergent may lie
PROTEIN_REACH = 3.5  # A: least distance of detergent from an atom's centre
BLOB_VOLUME = 250.0  # cubic A of detergent in one blob, about a third of a molecule
BLOB_SPREAD = 2.5  # A: standard deviation of a blob
RIM = 18.0  # A: width of the belt around the membrane domain, about the length of a detergent molecule


@dataclass(frozen=True)
class BeltShape:
    """A micelle as an oblate spheroid, its axis along z.

    radius in A, None for that of the membrane domain plus 18 A; thickness along z in A; centre: height of its middle
    in the model's own coordinates, in A; contrast: its mean density as a fraction of the protein's.
    """

    radius: float | None
    thickness: float
    centre: float
    contrast: float


@dataclass(frozen=True)
class Belt:
    """The volume that detergent fills: points[v,3] (A) outside the protein, `step` A apart.

    A particle has `count` blobs in it, each with the scattering length `weight`.
    """

    points: Tensor
    step: float
    count: int
    weight: float

    def draw(self, random: np.random.Generator) -> Cloud:
        """Draw one arrangement of the blobs: their places are independent and uniform over the belt."""
        chosen = random.integers(len(self.points), size=self.count)
        jitter = random.uniform(-0.5, 0.5, (self.count, 3)) * self.step
        return self._blobs(self.points[chosen] + torch.from_numpy(jitter), self.weight)

    def mean(self) -> Cloud:
        """The average of all arrangements."""
        return self._blobs(self.points, self.weight * self.count / len(self.points))

    @staticmethod
    def _blobs(xyz: Tensor, weight: float) -> Cloud:
        size = (len(xyz), 1)
        return Cloud(xyz.float(), torch.full(size, weight), torch.full(size, 0.5 / BLOB_SPREAD ** 2))


@dataclass(frozen=True)
class Hinge:
    """A chain that swings about `point` [3] (A), around a random axis, by an angle of standard deviation `spread`
    (radians)."""

    cloud: Cloud
    point: Tensor
    spread: float

    def draw(self, random: np.random.Generator) -> Tensor:
        """Draw one swing, a rotation [3,3]."""
        axis = random.normal(size=3)
        vector = axis / np.linalg.norm(axis) * random.normal(0.0, self.spread)
        return rotation_vector_to_matrix(torch.from_numpy(vector)[None])[0]


@dataclass(frozen=True)
class Specimen:
    """The particle: a rigid part around the origin, chains on hinges of their own, and a belt or none."""

    rigid: Cloud
    hinges: tuple[Hinge, ...]
    belt: Belt | None

    def place(self, rotation: Tensor, shift: Tensor, random: np.random.Generator) -> list[Placed]:
        """One particle at rotation[3,3] and shift[2] (A), with swings and a belt drawn for it."""
        scene = [Placed(self.rigid, rotation, shift)]
        for hinge in self.hinges:
            swung = rotation @ hinge.draw(random)
            offset = (rotation - swung) @ hinge.point
            scene.append(Placed(hinge.cloud, swung, shift + offset[:2]))
        if self.belt is not None:
            scene.append(Placed(self.belt.draw(random), rotation, shift))
        return scene

    def fragment(self, rotation: Tensor, shift: Tensor, random: np.random.Generator) -> list[Placed]:
        """A broken particle: the protein on one side of a random plane through the centre, without belt."""
        normal = torch.from_numpy(random.normal(size=3)).float()
        return [Placed(part.select(part.xyz @ normal > 0), rotation, shift) for part in self._protein()]

    def average(self) -> list[Cloud]:
        """The average particle: rigid part, hinged chains at rest, and mean belt."""
        return self._protein() + ([self.belt.mean()] if self.belt is not None else [])

    @property
    def radius(self) -> float:
        """Distance in A of the outermost scatterer from the origin."""
        return max(float(cloud.xyz.norm(dim=1).max()) for cloud in self.average())

    def _protein(self) -> list[Cloud]:
        return [self.rigid, *(hinge.cloud for hinge in self.hinges)]


def prepare(atoms: Atoms, bfactor: float, hinge: str | None, belt: BeltShape | None) -> Specimen:
    """Make the specimen of a model, centred on the mean of its atoms.

    bfactor (A^2): added to that of every atom; hinge: CHAIN:DEGREES, several of them with commas between. Raises
    InputError where the model lacks a chain, a chain is named twice, or the belt has no place.
    """
    atoms, mean = centred(atoms)
    cloud = scattering(atoms, bfactor)
    swings = _parse_hinges(hinge, atoms) if hinge is not None else {}
    moving = torch.zeros(len(atoms), dtype=torch.bool)
    for chain in swings:
        moving |= atoms.in_chain(chain)
    if bool(moving.all()):
        raise InputError(f"--hinge {hinge}: every chain would swing; leave one out that they swing about")
    hinges = []
    for chain, degrees in swings.items():
        own = atoms.in_chain(chain)
        point = _contact(atoms.xyz[own], atoms.xyz[~moving])
        hinges.append(Hinge(cloud.select(own), point, math.radians(degrees)))
    room = None
    if belt is not None:
        density = float(cloud.weight.sum()) / atoms.volume
        room = _belt(atoms.xyz, belt, float(mean[2]), density)
    return Specimen(cloud.select(~moving), tuple(hinges), room)


def _parse_hinges(hinge: str, atoms: Atoms) -> dict[str, float]:
    """Chain -> spread in degrees, from CHAIN:DEGREES,CHAIN:DEGREES; chains that the atoms have."""
    found: dict[str, float] = {}
    for word in hinge.split(","):
        chain, _, degrees = word.strip().rpartition(":")
        try:
            value = float(degrees)
        except ValueError:
            value = math.nan
        if not chain or not value >= 0:
            raise InputError(f"--hinge {hinge}: write the chain and the spread of its swing in degrees, as B:10, and "
                             "commas between several")
        if chain in found:
            raise InputError(f"--hinge {hinge}: names chain {chain} twice")
        if not bool(atoms.in_chain(chain).any()):
            raise InputError(f"--hinge {hinge}: there is no chain {chain}; the model's chains are "
                             + " ".join(dict.fromkeys(atoms.chain)))
        found[chain] = value
    return found


def _contact(moving: Tensor, still: Tensor) -> Tensor:
    """The point [3] (A) where two sets of atoms touch.

    It is the mean of the moving atoms within 6 A of the others, or else the nearest moving atom.
    """
    from scipy.spatial import cKDTree

    distance = torch.from_numpy(cKDTree(still.numpy()).query(moving.numpy())[0])
    return moving[distance <= max(CONTACT, float(distance.min()))].mean(0)


def _belt(xyz: Tensor, shape: BeltShape, below: float, density: float) -> Belt:
    """Make the belt around centred atoms xyz[a,3] (A).

    below: height of the atoms' mean in the model's own coordinates (A), so that the model's origin lies at -below;
    density: the protein's mean density (scattering length per cubic A), which shape.contrast multiplies.
    """
    from scipy.spatial import cKDTree

    height, half = shape.centre - below, 0.5 * shape.thickness
    # Only the middle half of the slab counts, because parts of the soluble domains lie near its faces.
    inside = xyz[(xyz[:, 2] - height).abs() < 0.5 * half]
    if len(inside) == 0:
        raise InputError(f"--micelle-centre {shape.centre:g}: no atom lies in the membrane there; give the "
                         "height z of its middle in the model's coordinates")
    middle = torch.cat([inside[:, :2].mean(0), torch.tensor([height], dtype=torch.float64)])
    radius = shape.radius or float(torch.quantile((inside - middle)[:, :2].norm(dim=1), 0.9)) + RIM
    reach = math.ceil(max(radius, half) / BELT_GRID)
    axis = torch.arange(-reach, reach + 1, dtype=torch.float64) * BELT_GRID
    grid = torch.cartesian_prod(axis, axis, axis)
    extent = torch.tensor([radius, radius, half], dtype=torch.float64)
    grid = grid[(grid / extent).square().sum(1) <= 1.0] + middle
    nearest = cKDTree(xyz.numpy()).query(grid.numpy(), distance_upper_bound=PROTEIN_REACH)[0]
    points = grid[torch.from_numpy(nearest) > PROTEIN_REACH]
    if len(points) == 0:
        raise InputError(f"--micelle-radius {radius:g}: leaves no room around the protein; make it larger")
    volume = len(points) * BELT_GRID ** 3
    count = max(1, round(volume / BLOB_VOLUME))
    return Belt(points, BELT_GRID, count, shape.contrast * density * volume / count)
