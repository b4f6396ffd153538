"""The area under an FSC: its value for a known curve, and that its standard deviation is the scatter that occurs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from halfmap.maps.masks import spherical_mask
from halfmap.validation.fsc import fsc
from halfmap.validation.fsc_area import fsc_area

BOX, BEYOND, DRAWS = 32, 4.5, 60


def test_the_area_is_the_mean_of_the_shells_beyond_up_to_nyquist() -> None:
    curve = torch.tensor([1.0, 1.0, 0.9, 0.5, 0.1, -0.1, 0.0, 0.2, 0.0], dtype=torch.float64)
    assert fsc_area(curve, 2.4).mean == pytest.approx((0.5 + 0.1 - 0.1 + 0.2) / 6)
    assert fsc_area(curve, 3).mean == pytest.approx(0.2 / 5)
    with pytest.raises(ValueError, match="no shell beyond"):
        fsc_area(curve, 8)


@pytest.mark.parametrize("radius", [None, 9.0])
def test_the_error_bar_is_the_scatter_over_draws_of_the_noise(radius) -> None:
    rng = np.random.default_rng(3)
    signal = 8 * gaussian_filter(rng.standard_normal((BOX,) * 3), 1.0, mode="wrap")  # agrees well, then not at all
    mask = None if radius is None else spherical_mask(BOX, radius, 3.0)
    weights = np.ones((BOX,) * 3) if mask is None else mask.numpy().astype(float)
    areas, bars = [], []
    for _ in range(DRAWS):
        pair = (torch.from_numpy((signal + rng.standard_normal(signal.shape)) * weights) for _ in range(2))
        found = fsc_area(fsc(*pair), BEYOND, mask)
        areas.append(found.mean)
        bars.append(found.sd)
    assert 0.2 < np.mean(areas) < 0.8
    # the standard deviation of 60 draws is itself known to 9 %
    assert np.mean(bars) == pytest.approx(np.std(areas, ddof=1), rel=0.27)
