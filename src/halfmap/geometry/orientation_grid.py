"""Regular grids of orientations: HEALPix view directions times in-plane angles, as RELION samples SO(3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from halfmap.geometry.rotations import euler_to_matrix
from halfmap.geometry.symmetry import asymmetric_unit


def angular_step(order: int) -> float:
    """Step in degrees of the grid of this order, 60 / 2^order: close to the spacing of its directions."""
    return 60.0 / 2**order


def healpix_directions(order: int) -> Tensor:
    """Unit vectors [d,3] to the 12 * 4^order HEALPix pixel centres, in nested numbering.

    Gorski et al. 2005, Astrophys. J. 622, 759, by way of the planar projection of Calabretta & Roukema 2007, Mon. Not.
    R. Astron. Soc. 381, 865: twelve squares that stand on a corner, each cut into 4^order pixels, with the caps
    squeezed towards the poles.
    """
    pixel, bits = torch.arange(12 * 4**order), torch.arange(order)
    face, inside = pixel >> 2 * order, pixel & (4**order - 1)
    # Nested numbering interleaves the bits of the two coordinates within the face.
    u = ((((inside[:, None] >> 2 * bits) & 1) << bits).sum(1) + 0.5) / 2**order
    v = ((((inside[:, None] >> (2 * bits + 1)) & 1) << bits).sum(1) + 0.5) / 2**order
    row, column = face >> 2, face & 3
    # In units of pi/4: face centres at heights 1, 0, -1 and longitudes odd, even, odd.
    x = (2 * column + (row != 1) + u - v).double() % 8.0
    y = (1 - row + u + v - 1.0).double()
    squeeze = 2.0 - y.abs()
    cap = squeeze < 1.0
    z = torch.where(cap, torch.sign(y) * (1.0 - squeeze.square() / 3.0), y * (2.0 / 3.0))
    middle = 2.0 * torch.floor(x / 2.0) + 1.0
    longitude = math.pi / 4 * torch.where(cap, middle + (x - middle) / squeeze, x)
    radius = torch.sqrt((1.0 - z) * (1.0 + z))
    return torch.stack([radius * torch.cos(longitude), radius * torch.sin(longitude), z], -1)


def direction_grid(order: int, group: Tensor, perturbation: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Angles rot[d] and tilt[d] in degrees of the HEALPix directions in the asymmetric unit of group[o,3,3].

    `perturbation` [3,3] turns the whole grid (R -> R @ perturbation) before the asymmetric unit is cut out.
    """
    directions = healpix_directions(order).to(group.device)
    if perturbation is not None:
        directions = directions @ perturbation.to(directions)
    x, y, z = directions[asymmetric_unit(directions, group)].unbind(-1)
    return torch.rad2deg(torch.atan2(y, x)), torch.rad2deg(torch.atan2(torch.hypot(x, y), z))


def orientation_grid(
    order: int, group: Tensor, half_turn: bool = True, perturbation: Tensor | None = None
) -> Tensor:
    """Rotations R[r,3,3] that cover SO(3) modulo group[o,3,3] in steps of `angular_step(order)` degrees.

    Directions run slowest, in-plane angles fastest. With `half_turn` only in-plane angles in [0, 180) are listed: an
    image turned by 180 degrees has conjugate coefficients, so the other half costs no projection. Without it the second
    half of the list is the first turned by 180 degrees, R[r + half] = diag(-1, -1, 1) @ R[r]. `perturbation` [3,3] is
    that of `direction_grid`.
    """
    rot, tilt = direction_grid(order, group, perturbation)
    psi = angular_step(order) * torch.arange(3 * 2**order, dtype=torch.float64, device=rot.device)
    directions = torch.stack([rot, tilt], -1).repeat_interleave(len(psi), 0)
    first = euler_to_matrix(torch.cat([directions, psi.repeat(len(rot))[:, None]], -1))
    if half_turn:
        return first
    return torch.cat([first, first * first.new_tensor([-1.0, -1.0, 1.0])[:, None]])
