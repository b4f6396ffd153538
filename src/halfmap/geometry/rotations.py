"""Rotations as matrices R that map the reference frame to the image frame (RELION's matrix A).

All functions work in float64. Angles are in degrees where they face a user or a file, radians elsewhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def euler_to_matrix(angles: Tensor) -> Tensor:
    """Matrices R[b,3,3] of the Euler angles (rot, tilt, psi)[b,3] in degrees.

    Intrinsic ZYZ, R = Rz(psi) Ry(tilt) Rz(rot) of frame rotations, as in RELION (Heymann et al. 2005, J. Struct. Biol.
    151, 196). The third row of R is the view direction.
    """
    cosine = torch.cos(torch.deg2rad(angles.double()))
    sine = torch.sin(torch.deg2rad(angles.double()))
    (ca, cb, cg), (sa, sb, sg) = cosine.unbind(-1), sine.unbind(-1)
    rows = [
        torch.stack([cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb], -1),
        torch.stack([-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb], -1),
        torch.stack([sb * ca, sb * sa, cb], -1),
    ]
    return torch.stack(rows, -2)


def matrix_to_euler(rotations: Tensor) -> Tensor:
    """(rot, tilt, psi)[b,3] in degrees of R[b,3,3]; tilt lies in [0, 180], the others in [-180, 180].

    At tilt 0 only rot + psi is defined, at tilt 180 only rot - psi. The angles still give the same matrix back, because
    psi is read from a column that never vanishes once rot is chosen.
    """
    r = rotations.double()
    rot = torch.atan2(r[..., 2, 1], r[..., 2, 0])
    tilt = torch.atan2(torch.hypot(r[..., 2, 0], r[..., 2, 1]), r[..., 2, 2])
    ca, sa = torch.cos(rot), torch.sin(rot)
    psi = torch.atan2(r[..., 0, 1] * ca - r[..., 0, 0] * sa, r[..., 1, 1] * ca - r[..., 1, 0] * sa)
    return torch.rad2deg(torch.stack([rot, tilt, psi], -1))


def quaternion_to_matrix(quaternions: Tensor) -> Tensor:
    """Matrices R[b,3,3] of the quaternions (w, x, y, z)[b,4]. They need not have unit length."""
    q = quaternions.double()
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    entries = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]
    return torch.stack(entries, -1).unflatten(-1, (3, 3))


def matrix_to_quaternion(rotations: Tensor) -> Tensor:
    """Unit quaternions (w, x, y, z)[b,4] with w >= 0 of R[b,3,3].

    Each is the column of the matrix 4 q q^T with the largest diagonal element, so that no angle leads to a division by
    a small number.
    """
    r = rotations.double()
    xx, yy, zz = r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]
    wx, wy, wz = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]
    xy, xz, yz = r[..., 0, 1] + r[..., 1, 0], r[..., 0, 2] + r[..., 2, 0], r[..., 1, 2] + r[..., 2, 1]
    outer = torch.stack([
        torch.stack([1 + xx + yy + zz, wx, wy, wz], -1),
        torch.stack([wx, 1 + xx - yy - zz, xy, xz], -1),
        torch.stack([wy, xy, 1 - xx + yy - zz, yz], -1),
        torch.stack([wz, xz, yz, 1 - xx - yy + zz], -1),
    ], -2)
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    q = torch.take_along_dim(outer, best[..., None, None], dim=-2).squeeze(-2)
    q = q / q.norm(dim=-1, keepdim=True)
    return torch.where(q[..., :1] < 0, -q, q)


def random_rotations(count: int, generator: torch.Generator | None = None) -> Tensor:
    """`count` rotations R[r,3,3] uniform on SO(3), on the generator's device.

    Four normal numbers give a uniform direction in four dimensions, and uniform unit quaternions give uniform rotations
    (Shoemake 1992, Graphics Gems III, 124).
    """
    device = generator.device if generator is not None else None
    quaternions = torch.randn(count, 4, generator=generator, dtype=torch.float64, device=device)
    return quaternion_to_matrix(quaternions)


def rotation_vector_to_matrix(vectors: Tensor) -> Tensor:
    """Matrices exp([w]x)[b,3,3] of the rotation vectors w[b,3] = axis * angle in radians (Rodrigues)."""
    w = vectors.double()
    half = 0.5 * w.norm(dim=-1, keepdim=True)
    # sin(x)/x by torch.sinc stays exact through zero.
    return quaternion_to_matrix(torch.cat([torch.cos(half), 0.5 * w * torch.sinc(half / math.pi)], -1))


def matrix_to_rotation_vector(rotations: Tensor) -> Tensor:
    """Rotation vectors w[b,3] in radians, |w| <= pi, of R[b,3,3]: inverse of `rotation_vector_to_matrix`."""
    q = matrix_to_quaternion(rotations)
    sine = q[..., 1:].norm(dim=-1, keepdim=True)
    half = torch.atan2(sine, q[..., :1])
    return 2.0 * q[..., 1:] / torch.sinc(half / math.pi)


def angular_distance(first: Tensor, second: Tensor, symmetry: Tensor | None = None) -> Tensor:
    """Angles[b] in degrees between the rotations first[b,3,3] and second[b,3,3] (they broadcast).

    symmetry[o,3,3] are rotations of the reference, R and R @ g being equivalent: the angle is then the smallest between
    first @ g and second over the group.
    """
    first, second = first.double(), second.double()
    if symmetry is not None:
        # trace(second^T first g) for all g at once; the largest trace is the smallest angle.
        products = (second.transpose(-1, -2) @ first).flatten(-2)
        best = (products @ symmetry.to(products).transpose(-1, -2).flatten(-2).T).argmax(-1)
        first = first @ symmetry.to(products)[best]
    # The chord |A - B| = 2 sqrt(2) sin(angle / 2) keeps small angles that arccos of the trace would lose.
    chord = (first - second).flatten(-2).norm(dim=-1)
    return torch.rad2deg(2.0 * torch.asin((chord / math.sqrt(8.0)).clamp(max=1.0)))


def view_directions(rotations: Tensor) -> Tensor:
    """Unit vectors d[b,3] in the reference frame along which R[b,3,3] looks: the third rows."""
    return rotations[..., 2, :]
