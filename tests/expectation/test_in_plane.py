"""Slices of class means are transforms at turned coordinates: compared with the analytic transform of Gaussians."""

from __future__ import annotations

import math

import torch

from halfmap.expectation.in_plane import in_plane_rotations, turned_slices
from halfmap.fourier.band import Band
from halfmap.reconstruction.class_means import Plane, PlaneSums, divided, folded, images_of, insert_, moved

BOX = 64
PLACE = torch.tensor([[5.0, 2.0], [-7.0, 4.0], [1.0, -8.0]], dtype=torch.float64)  # x, y in pixels off the centre
WIDTH = torch.tensor([3.0, 2.5, 3.5], dtype=torch.float64)
MASS = torch.tensor([1.0, 0.7, 0.5], dtype=torch.float64)


def picture(side: int, by: tuple[float, float] = (0.0, 0.0)) -> torch.Tensor:
    """Gaussians on ``side`` pixels over the box."""
    axis = (torch.arange(side, dtype=torch.float64) - side // 2) * BOX / side
    blobs = [m / (2 * math.pi * w**2)
             * torch.exp(-((axis - x - by[0]) ** 2 + (axis[:, None] - y - by[1]) ** 2) / 2 / w**2)
             for m, w, (x, y) in zip(MASS, WIDTH, PLACE, strict=True)]
    return torch.stack(blobs).sum(dim=0)


def transform(q: torch.Tensor) -> torch.Tensor:
    """Their transform at q [k, 2], cycles per box."""
    envelope = torch.exp(-2 * math.pi**2 * WIDTH**2 * (q / BOX).square().sum(dim=1, keepdim=True))
    return (MASS * envelope * torch.exp(-2j * math.pi * (q @ PLACE.T) / BOX)).sum(dim=1)


def test_a_turned_slice_is_the_analytic_transform_at_turned_coordinates_and_sums_on_slices_give_the_picture_back():
    plane, classes, angles = Plane(BOX, 16), 2, 20
    coords = Band.to_shell(BOX, plane.limit).kxy.double()
    rotations = in_plane_rotations(angles)
    means = torch.stack([picture(plane.side), 2 * picture(plane.side)]).float()
    slices = turned_slices(means, BOX, coords, rotations)
    values = torch.complex(slices.real, slices.imag).view(classes, angles, -1)
    for a in (0, 7, 19):
        psi = math.pi * a / angles
        # The image is the reference turned: it has at k what the reference has at R^T k, R = [[c, s], [-s, c]].
        turned = torch.stack([coords[:, 0] * math.cos(psi) - coords[:, 1] * math.sin(psi),
                              coords[:, 0] * math.sin(psi) + coords[:, 1] * math.cos(psi)], dim=1)
        torch.testing.assert_close(values[0, a].to(torch.complex128), transform(turned), rtol=0, atol=2e-6)
    torch.testing.assert_close(values[1], 2 * values[0], rtol=0, atol=2e-6)

    weight = torch.rand(classes, angles, len(coords), generator=torch.Generator().manual_seed(1)) + 0.5
    sums = PlaneSums.zeros(classes, plane)
    insert_(sums, values * weight, weight, coords, rotations)
    back = divided(folded(sums), plane)
    top = float(means[0].max())
    assert float((images_of(back, plane, BOX)[0] - picture(BOX)).abs().max()) < 0.03 * top
    shifted = moved(back, plane, torch.tensor([[3.0, -2.0]] * classes))
    assert float((images_of(shifted, plane, BOX)[0] - picture(BOX, (3.0, -2.0))).abs().max()) < 0.03 * top
