"""The difference of two classes is seen where it is, and noise is not taken for one."""

from __future__ import annotations

import torch

from halfmap.maps.filters import lowpass
from halfmap.validation.class_differences import class_difference

BOX, PIXEL, RESOLUTION = 32, 3.0, 15.0


def half_maps(seed: int, molecule: torch.Tensor, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    first, second = (molecule + noise * torch.randn(molecule.shape, generator=random) for _ in range(2))
    return first, second


def test_only_a_real_difference_stands_out_of_noise_and_it_is_found_where_it_is():
    axis = torch.arange(BOX) - BOX // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    whole = 3.0 * torch.exp(-(x**2 + y**2 + z**2) / 50.0)
    domain = torch.exp(-((x - 6) ** 2 + (y + 2) ** 2 + (z - 3) ** 2) / 8.0)
    mask = (x**2 + y**2 + z**2 < 12**2).float()
    same = class_difference(half_maps(1, whole, 0.5), half_maps(2, whole, 1.0), mask, PIXEL, RESOLUTION)
    other = class_difference(half_maps(1, whole + domain, 0.5), half_maps(2, whole, 1.0), mask, PIXEL, RESOLUTION)
    assert same.share == 0 and 0.8 < float(same.sds[mask > 0].std()) < 1.25  # it is in standard deviations
    assert other.share > 0 and other.peak > 8
    assert (other.strongest - torch.tensor([6, -2, 3])).abs().max() <= 1
    truth = lowpass(domain, PIXEL, RESOLUTION)
    assert float((other.sds * truth).sum()) > 0
