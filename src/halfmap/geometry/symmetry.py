"""Point groups of proper rotations in RELION's orientations.

A group acts on the reference: R and R @ g are equivalent orientations for every g in it.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.geometry.rotations import matrix_to_rotation_vector, rotation_vector_to_matrix

GOLDEN = (1.0 + math.sqrt(5.0)) / 2.0

# (fold, axis) of rotations that generate the group. I1, I2: two-folds on x, y, z; I3, I4: a five-fold on z.
GENERATORS: dict[str, tuple[tuple[int, tuple[float, float, float]], ...]] = {
    "T": ((3, (0.0, 0.0, 1.0)), (2, (0.0, math.sqrt(2.0), 1.0))),
    "O": ((4, (0.0, 0.0, 1.0)), (3, (1.0, 1.0, 1.0))),
    "I1": ((2, (1.0, 0.0, 0.0)), (5, (GOLDEN, 0.0, -1.0)), (3, (GOLDEN**2, 1.0, 0.0))),
    "I2": ((2, (0.0, 0.0, 1.0)), (5, (1.0, 0.0, GOLDEN)), (3, (0.0, 1.0, GOLDEN**2))),
    "I3": ((5, (0.0, 0.0, 1.0)), (2, (-1.0, 0.0, GOLDEN))),
    "I4": ((5, (0.0, 0.0, 1.0)), (2, (1.0, 0.0, GOLDEN))),
}

# No rotation of any group above leaves this direction where it is, or nearly so.
GENERIC_DIRECTION = (0.36, 0.22, 0.91)


def canonical_name(name: str) -> str:
    """The point group's name in this program's spelling: "c4" becomes C4, and plain "I" becomes I2, as in RELION.

    Raises InputError for a name that is no group of proper rotations.
    """
    canonical = name.strip().upper()
    canonical = "I2" if canonical == "I" else canonical
    if canonical not in GENERATORS and not re.fullmatch(r"[CD][1-9][0-9]?", canonical):
        raise InputError(
            f"symmetry '{name}' is unknown; use C1 to C99, D1 to D99, T, O, I (= I2), I1, I2, I3 or I4"
        )
    return canonical


def symmetry_group(name: str) -> Tensor:
    """All rotations g[o,3,3] (float64) of the point group `name`, the identity first.

    Cn turns about z. Dn has a two-fold axis on x too. O has its four-fold axes on x, y and z, T a three-fold axis on z.
    Raises InputError for an unknown name.
    """
    name = canonical_name(name)
    if name in GENERATORS:
        group = _closure(torch.stack([_axis_rotation(fold, axis) for fold, axis in GENERATORS[name]]))
    else:
        turns = 2.0 * math.pi / int(name[1:]) * torch.arange(int(name[1:]), dtype=torch.float64)
        group = rotation_vector_to_matrix(turns[:, None] * torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
        if name[0] == "D":
            group = torch.cat([group, group * torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)])
    # Entries such as cos(90 degrees) become exact zeros.
    return torch.round(group, decimals=15) + 0.0


def coset_representatives(group: Tensor, subgroup: Tensor) -> Tensor:
    """One element r [m, 3, 3] of each left coset r H of a subgroup H [o, 3, 3] in group [n, 3, 3], the identity first.

    A map with the symmetry H shows the same at R and R h, so that R r are the poses which the group makes of R and H
    does not. Raises ValueError where H is not in the group.
    """
    if not bool(_is_among(subgroup, group).all()):
        raise ValueError("the subgroup has elements that the group has not")
    chosen = group[:1]
    for element in group[1:]:
        if not bool(_is_among(element.T @ chosen, subgroup).any()):
            chosen = torch.cat([chosen, element[None]])
    return chosen


def _is_among(rotations: Tensor, group: Tensor) -> Tensor:
    """Which of rotations [r, 3, 3] are elements of group [n, 3, 3]: bool [r]."""
    return ((rotations[:, None] - group).abs().amax((-1, -2)) < 1e-6).any(dim=1)


def asymmetric_unit(directions: Tensor, group: Tensor) -> Tensor:
    """Which of the view directions[r,3] lie in the asymmetric unit of group[o,3,3]: bool [r].

    The unit is the Dirichlet domain of a generic direction: a view belongs to it if no equivalent view is nearer to
    that direction. Views on its border are kept, so that each view has at least one equivalent in the unit.
    """
    generic = torch.tensor(GENERIC_DIRECTION, dtype=torch.float64, device=directions.device)
    nearness = directions.double() @ (group.to(generic) @ generic).T
    return nearness[:, 0] >= nearness.amax(1) - 1e-9


def normaliser(group: Tensor) -> Tensor:
    """All rotations n[m,3,3] with n G n^T = G, for a group[o,3,3] that has more than one axis.

    Turned by one of them a map with this symmetry has it still. n takes a pair of axes of the group to such a pair.
    """
    group = group.double()
    vectors = matrix_to_rotation_vector(group[1:])
    axes = vectors / vectors.norm(dim=1, keepdim=True)
    axes = torch.cat([axes, -axes])
    apart = (axes @ axes[0]).abs()
    second = int(torch.where(apart < 1 - 1e-6, apart, -1.0).argmax())
    one, other = torch.cartesian_prod(torch.arange(len(axes)), torch.arange(len(axes))).unbind(1)
    alike = ((axes[one] * axes[other]).sum(dim=1) - axes[0] @ axes[second]).abs() < 1e-6
    found = _frame(axes[one[alike]], axes[other[alike]]) @ _frame(axes[:1], axes[second, None]).mT
    turned = (found[:, None] @ group @ found.mT[:, None]).flatten(2)
    holds = (torch.cdist(turned, group.flatten(1).expand(len(found), -1, -1)).amin(dim=2) < 1e-5).all(dim=1)
    return _distinct(found[holds])


def _frame(first: Tensor, second: Tensor) -> Tensor:
    """Right-handed frames [b,3,3], as columns, of two directions first, second[b,3] that are not parallel."""
    normal = torch.linalg.cross(first, second)
    normal = normal / normal.norm(dim=1, keepdim=True)
    return torch.stack([first, torch.linalg.cross(normal, first), normal], dim=-1)


def _distinct(rotations: Tensor) -> Tensor:
    """Each of rotations[r,3,3] once."""
    same = (rotations[:, None] - rotations).abs().amax((-1, -2)) < 1e-6
    return rotations[same.int().argmax(1) == torch.arange(len(rotations))]


def _axis_rotation(fold: int, axis: tuple[float, float, float]) -> Tensor:
    """The rotation [3,3] by 360/fold degrees about an axis of any length."""
    vector = torch.tensor(axis, dtype=torch.float64)
    return rotation_vector_to_matrix(vector * (2.0 * math.pi / fold / vector.norm()))


def _closure(generators: Tensor) -> Tensor:
    """The group [o,3,3] that generators[j,3,3] generate: products are added until nothing new appears."""
    elements = torch.eye(3, dtype=torch.float64)[None]
    while True:
        found = _distinct(torch.cat([elements, (elements[:, None] @ generators).flatten(0, 1)]))
        if len(found) == len(elements):
            return elements
        elements = found
