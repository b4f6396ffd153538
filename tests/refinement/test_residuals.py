"""What a batch says about noise and contrast is what its definition says, coefficient by coefficient in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.expectation.posterior import Poses
from halfmap.expectation.search import Reference
from halfmap.fourier.transform import half_volume
from halfmap.imaging.forward import BandImages, ImagingGeometry, NoiseCount, SignalLeft
from halfmap.imaging.optics import OpticsGroup
from halfmap.refinement.tally import Residuals

BOX, LIMIT, ALIGNED, COUNT = 20, 9, 7, 6
GROUPS = torch.tensor([4, 2, 4, 4, 2, 2])
PRESENT = torch.tensor([1.0, 0.3, 0.0, 0.8, 0.5, 1.0], dtype=torch.float64)
GEOMETRY = ImagingGeometry.build(OpticsGroup("1", 300.0, 2.7, 0.1, 2.0, BOX), BOX, 2.0, LIMIT)
BAND = GEOMETRY.band


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(fine: bool, left: bool, counted: bool, several: bool) -> BandImages:
    """Images that have what a batch can have."""
    y = torch.view_as_complex(random(COUNT, len(BAND), 2, seed=1)) * 30
    sigma2 = 500 * (1 + random(COUNT, LIMIT + 1, seed=2).square())[:, BAND.shell]
    shares = torch.rand(3, COUNT, LIMIT + 1, generator=torch.Generator().manual_seed(3)) * 0.7 + 0.3
    return BandImages(
        GEOMETRY, y, y, random(COUNT, len(BAND), seed=4), sigma2 if several else sigma2[0],
        torch.linspace(0.5, 2, COUNT), 0.4, BAND.count(4) if fine else 0,
        torch.linspace(0.5, 0.9, COUNT).double() if fine else None, SignalLeft(*shares) if left else None,
        NoiseCount(random(COUNT, len(BAND), seed=5).square(), torch.rand(COUNT, len(BAND))) if counted else None)


def poses_of(rotations: Tensor, shifts: Tensor) -> Poses:
    """With a second mode that must not be looked at."""
    return Poses(torch.stack([rotations, rotations.roll(1, 0)], 1), torch.stack([shifts, shifts + 1], 1),
                 torch.zeros(COUNT, 2), torch.zeros(COUNT, 2, 5, 5))


def defined(images: BandImages, slices: np.ndarray, shifts: np.ndarray) -> dict[str, np.ndarray]:
    """Power and count by group and shell, cross and norm by image, and those by the CTF's sign."""
    found = {name: np.zeros(shape) for name, shape in (
        ("power", (5, LIMIT + 1)), ("count", (5, LIMIT + 1)), ("cross", COUNT), ("norm", COUNT), ("signs", (2, 2)))}
    sigma2 = images.sigma2.expand(COUNT, -1).double().numpy()
    for b in range(COUNT):
        g, present, s = int(GROUPS[b]), float(PRESENT[b]), float(images.scale[b])
        for k, ((kx, ky), shell) in enumerate(zip(BAND.kxy.tolist(), BAND.shell.tolist(), strict=True)):
            y = complex(images.scored[b, k]) * np.exp(2j * np.pi * (kx * shifts[b, 0] + ky * shifts[b, 1]) / BOX)
            c, wide = float(images.ctf[b, k]), images.fine_power is not None and shell > 4
            m = c * slices[b, k]
            share, weight, noise = 1.0, 1.0, 1.0
            if images.left is not None:
                share = float((images.left.fine if wide else images.left.coarse)[b, shell])
            if images.counted is not None:
                weight, noise = float(images.counted.weight[b, k]), float(images.counted.noise[b, k])
            product, square = (y.conjugate() * m).real, share * abs(m) ** 2
            under = float(images.fine_power[b]) if wide else images.mask_power
            found["power"][g, shell] += present * weight * (abs(y) ** 2 - 2 * s * product + s * s * square) / under
            found["count"][g, shell] += present * noise
            if shell <= ALIGNED:
                for name, value in (("cross", product), ("norm", square)):
                    found[name][b] += present * value / sigma2[b, k]
                    found["signs"][int(name == "norm"), int(c <= 0)] += present * value / sigma2[b, k]
    return found


@pytest.mark.parametrize(("fine", "left", "counted", "several"), [
    (False, False, False, False), (True, True, False, False), (False, True, False, True), (True, False, True, True),
    (True, True, True, True)])
def test_residuals_are_what_their_definition_says(random_poses, scipy_slices, fine, left, counted, several):
    (rotations, shifts), images = random_poses(COUNT), batch(fine, left, counted, several)
    reference = Reference(half_volume(random(BOX, BOX, BOX, seed=7), 2, LIMIT), 2)
    slices = scipy_slices(reference.volume, BAND.kxy.double() * 2, rotations).numpy()
    wanted = defined(images, slices, shifts.numpy())
    found = Residuals.of(images, poses_of(rotations, shifts), PRESENT, GROUPS, reference, ALIGNED)
    assert found.groups == [2, 4] and torch.equal(found.present, PRESENT)

    def close(value: Tensor, truth: np.ndarray) -> None:
        assert value.dtype == torch.float64
        assert float(np.abs(value.numpy() - truth).max()) < 2e-5 * np.abs(truth).max()

    for at, group in enumerate(found.groups):
        close(found.power[at], wanted["power"][group])
        close(found.count[at], wanted["count"][group])
    close(found.cross, wanted["cross"])
    close(found.norm, wanted["norm"])
    close(torch.stack([found.signs.cross, found.signs.norm]), wanted["signs"])


def test_images_without_a_particle_do_not_count(random_poses):
    images = batch(True, True, True, True)
    reference = Reference(half_volume(random(BOX, BOX, BOX, seed=7), 2, LIMIT), 2)
    poses, nowhere = poses_of(*random_poses(COUNT)), torch.zeros(COUNT).double()
    found = Residuals.of(images, poses, nowhere, GROUPS, reference, ALIGNED)
    every = [*found.power, *found.count, found.cross, found.norm, found.signs.cross, found.signs.norm]
    assert all(float(values.abs().max()) == 0.0 for values in every)
