"""Sums over a point group of inserted slices: the map of slices inserted at every mate of their poses, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from halfmap.fourier.band import Band
from halfmap.fourier.shells import frequency_length
from halfmap.fourier.transform import volume_fft
from halfmap.geometry.symmetry import symmetry_group
from halfmap.kernels.poses import Samples
from halfmap.maps.masks import spherical_mask
from halfmap.reconstruction.inverse import reconstruct
from halfmap.reconstruction.statistics import Backprojection

BOX, LIMIT = 24, 10
C1 = torch.eye(3, dtype=torch.float64)[None]


def both_maps(band: Band, values: Tensor, weights: Tensor, rotations: Tensor, group: Tensor, padding: int):
    """Maps [z, y, x] of symmetrised sums, and of sums of all mates, within the sphere that holds a particle."""
    once, every = (Backprojection.zeros(BOX, padding, band.limit, weights) for _ in range(2))
    count = len(rotations)
    for statistics, elements in ((once, C1), (every, group)):
        for g in elements:
            samples = Samples(torch.arange(count), rotations @ g, rotations.new_zeros(count, 2), torch.ones(count))
            statistics.insert_(values, weights, band.kxy.double(), band, samples)
    sphere = spherical_mask(BOX, 0.42 * BOX, 2.0).double()
    return reconstruct(once.finished(group)) * sphere, reconstruct(every.finished(C1)) * sphere


def images_of_all_mates(specimen, band: Band, rotations: Tensor, group: Tensor) -> Tensor:
    """Slices [b, k] of the specimen's mean over the group."""
    unmoved = rotations.new_zeros(len(rotations), 2)
    return torch.stack([specimen.images(band.kxy, rotations @ g, unmoved) for g in group]).mean(0)


def rim(found: Tensor, expected: Tensor, first: int, last: int) -> tuple[float, float]:
    """Correlation, and amplitude found over the expected, within shells first...last."""
    a, b = volume_fft(found), volume_fft(expected)
    shells = frequency_length(BOX).round()[..., : BOX // 2 + 1]
    a, b = (v[(shells >= first) & (shells <= last)] for v in (a, b))
    product, power = float((a * b.conj()).real.sum()), float(b.abs().square().sum())
    return product / (float(a.norm()) * power**0.5), product / power


@pytest.mark.parametrize(("symmetry", "padding"), [
    ("C3", 2), ("D3", 2), ("C5", 2), ("T", 2), ("I1", 2), ("C3", 1), ("D3", 1), ("T", 1)])
def test_many_slices_symmetrised_are_the_map_of_all_mates_to_a_thousandth_at_the_rim(
    blobs, random_poses, symmetry, padding
):
    """The rim: the last third of the shells. Without padding interpolation errs more, in these sums and in those."""
    group, band = symmetry_group(symmetry), Band.to_shell(BOX, LIMIT)
    rotations, _ = random_poses(400 if symmetry == "I1" else 1500)
    y = images_of_all_mates(blobs(BOX, width=0.8), band, rotations, group)
    found, expected = both_maps(band, y, torch.ones(y.shape, dtype=torch.float64), rotations, group, padding)
    correlation, amplitude = rim(found, expected, 6, 9)
    assert correlation > (0.9999 if padding == 2 else 0.999)
    assert amplitude == pytest.approx(1, abs=1e-3 if padding == 2 else 3e-3)
    assert float((found - expected).norm() / expected.norm()) < (0.006 if padding == 2 else 0.03)


@pytest.mark.parametrize("views", ["all", "within 20 degrees of the axis"])
@pytest.mark.parametrize("padding", [1, 2])
@pytest.mark.parametrize("symmetry", ["C3", "T", "I1"])
def test_few_noisy_slices_symmetrised_are_near_the_map_of_all_mates_and_never_stronger(
    blobs, random_poses, symmetry, padding, views
):
    """As much noise as signal. A spline that overshoots at the border of what slices fill would blow it up there."""
    group, band = symmetry_group(symmetry), Band.to_shell(BOX, LIMIT)
    rotations, _ = random_poses(30 if views == "all" else 1600)
    rotations = rotations if views == "all" else rotations[rotations[:, 2, 2] > 0.94]
    y = images_of_all_mates(blobs(BOX, width=0.8), band, rotations, group)
    noise = torch.randn(*y.shape, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = y + float(y.abs().square().mean().sqrt()) * torch.view_as_complex(noise)
    found, expected = both_maps(band, y, torch.ones(y.shape, dtype=torch.float64), rotations, group, padding)
    assert float((found - expected).norm() / expected.norm()) < (0.2 if padding == 2 else 0.5)
    assert 0.85 < float(found.norm() / expected.norm()) < 1.03
