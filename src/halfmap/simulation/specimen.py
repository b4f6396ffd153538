"""What lies in the ice: a rigid part, a chain that swings on its hinge, and a detergent belt that no two
particles share."""

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

CONTACT = 6.0  # A: atoms of two parts this close touch each other
BELT_GRID = 2.0  # A: spacing of the points where detergent may be
PROTEIN_REACH = 3.5  # A: detergent keeps this far from an atom's centre
BLOB_VOLUME = 250.0  # cubic A that one blob of detergent stands for, about a third of a molecule
BLOB_SPREAD = 2.5  # A: standard deviation of a blob
RIM = 18.0  # A: width of a belt around the membrane domain, about the length of a detergent


@dataclass(frozen=True)
class BeltShape:
    """A micelle as an oblate spheroid, its axis along z: radius in A (None: the membrane domain's radius and
    18 A), thickness along z in A, height of its middle in the model's own coordinates in A, and mean density
    as a fraction of protein's."""

    radius: float | None
    thickness: float
    centre: float
    contrast: float


@dataclass(frozen=True)
class Belt:
    """Room for detergent: points[v,3] (A) outside the protein, `step` A apart, filled by `count` blobs of the
    scattering `weight` each."""

    points: Tensor
    step: float
    count: int
    weight: float

    def draw(self, random: np.random.Generator) -> Cloud:
        """One arrangement of the blobs: independent places, uniform over the belt."""
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
    """A chain that swings about `point` [3] (A) by an angle of standard deviation `spread` (radians) around
    any axis."""

    cloud: Cloud
    point: Tensor
    spread: float

    def draw(self, random: np.random.Generator) -> Tensor:
        """One swing [3,3]."""
        axis = random.normal(size=3)
        vector = axis / np.linalg.norm(axis) * random.normal(0.0, self.spread)
        return rotation_vector_to_matrix(torch.from_numpy(vector)[None])[0]


@dataclass(frozen=True)
class Specimen:
    """The particle: rigid scatterers around the origin, with or without a hinged chain and a belt."""

    rigid: Cloud
    hinge: Hinge | None
    belt: Belt | None

    def place(self, rotation: Tensor, shift: Tensor, random: np.random.Generator) -> list[Placed]:
        """One particle seen by rotation[3,3], moved by shift[2] (A): its own swing and its own belt."""
        scene = [Placed(self.rigid, rotation, shift)]
        if self.hinge is not None:
            swung = rotation @ self.hinge.draw(random)
            offset = (rotation - swung) @ self.hinge.point
            scene.append(Placed(self.hinge.cloud, swung, shift + offset[:2]))
        if self.belt is not None:
            scene.append(Placed(self.belt.draw(random), rotation, shift))
        return scene

    def fragment(self, rotation: Tensor, shift: Tensor, random: np.random.Generator) -> list[Placed]:
        """A broken particle: what lies on one side of a random plane through the centre, without the belt."""
        normal = torch.from_numpy(random.normal(size=3)).float()
        return [Placed(part.select(part.xyz @ normal > 0), rotation, shift) for part in self._protein()]

    def average(self) -> list[Cloud]:
        """Rigid part, hinged chain at rest, and the mean belt."""
        return self._protein() + ([self.belt.mean()] if self.belt is not None else [])

    @property
    def radius(self) -> float:
        """Distance in A of the outermost scatterer from the origin."""
        return max(float(cloud.xyz.norm(dim=1).max()) for cloud in self.average())

    def _protein(self) -> list[Cloud]:
        return [self.rigid] + ([self.hinge.cloud] if self.hinge is not None else [])


def prepare(atoms: Atoms, bfactor: float, hinge: str | None, belt: BeltShape | None) -> Specimen:
    """The specimen of a model, moved so that the mean of its atoms is the origin.

    `bfactor` (A^2) adds to every atom's own; `hinge` is CHAIN:DEGREES. Raises InputError where a part is not
    there.
    """
    atoms, mean = centred(atoms)
    cloud = scattering(atoms, bfactor)
    moving = torch.zeros(len(atoms), dtype=torch.bool)
    part = None
    if hinge is not None:
        chain, degrees = _parse_hinge(hinge)
        moving = atoms.in_chain(chain)
        if not bool(moving.any()) or bool(moving.all()):
            raise InputError(f"--hinge {hinge}: chain {chain} must be one of several; the model's chains are "
                             + " ".join(dict.fromkeys(atoms.chain)))
        point = _contact(atoms.xyz[moving], atoms.xyz[~moving])
        part = Hinge(cloud.select(moving), point, math.radians(degrees))
    room = None
    if belt is not None:
        density = float(cloud.weight.sum()) / atoms.volume
        room = _belt(atoms.xyz, belt, float(mean[2]), density)
    return Specimen(cloud.select(~moving), part, room)


def _parse_hinge(hinge: str) -> tuple[str, float]:
    chain, _, degrees = hinge.rpartition(":")
    try:
        value = float(degrees)
    except ValueError:
        value = math.nan
    if not chain or not value >= 0:
        raise InputError(f"--hinge {hinge}: write the chain and the spread of its swing in degrees, as B:10")
    return chain, value


def _contact(moving: Tensor, still: Tensor) -> Tensor:
    """The point [3] (A) where two sets of atoms touch: the mean of the moving atoms within 6 A of the others,
    or the nearest one."""
    from scipy.spatial import cKDTree

    distance = torch.from_numpy(cKDTree(still.numpy()).query(moving.numpy())[0])
    return moving[distance <= max(CONTACT, float(distance.min()))].mean(0)


def _belt(xyz: Tensor, shape: BeltShape, below: float, density: float) -> Belt:
    """The belt around the atoms xyz[a,3] (A, centred; the model's origin lies at height -below), with the
    mean density shape.contrast * density (scattering length per cubic A)."""
    from scipy.spatial import cKDTree

    height, half = shape.centre - below, 0.5 * shape.thickness
    # only the middle of the slab: its edges hold parts of the soluble domains
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
