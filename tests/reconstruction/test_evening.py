"""Where images show some directions more than others, the evened map's noise does not stand out by direction."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from halfmap.fourier.shells import frequency_length, half_volume_radius
from halfmap.fourier.transform import half_volume, half_volume_extent
from halfmap.reconstruction.inverse import evening, reconstruct, reconstruct_evened, reconstructed_difference
from halfmap.reconstruction.statistics import Backprojection

BOX, LIMIT = 32, 14


def uneven_sums(seed: int, noise: float = 1.0) -> tuple[Tensor, Backprojection]:
    """A transform of unit power, and finished sums for it whose weight is 1.9 in a part of each shell and 0.1 in the
    rest, with noise of variance noise / weight."""
    random = torch.Generator().manual_seed(seed)
    m, texture = half_volume_extent(2, LIMIT), torch.Generator().manual_seed(99)
    truth = half_volume(torch.randn(BOX, BOX, BOX, generator=texture).double(), 2, LIMIT)
    truth /= truth.abs().square().mean().sqrt()
    q = torch.arange(-m, m + 1)
    weight = torch.where((q.abs()[:, None, None] > q[:, None].square().add(q[m:].square()).sqrt()), 0.1, 1.9).double()
    values = torch.randn(*truth.shape, 2, generator=random, dtype=torch.float64)
    shaken = truth * weight + torch.view_as_complex(values) * (0.5 * noise * weight).sqrt()
    sums = torch.cat([torch.view_as_real(shaken), weight.expand(truth.shape)[..., None]], -1)
    return truth, Backprojection(sums, BOX, 2, LIMIT, True)


@pytest.mark.parametrize("agreement", [0.1, 0.5, 0.9])
def test_evened_directions_of_little_weight_are_what_a_wiener_filter_makes_of_them(agreement, monkeypatch):
    """They are so relative to a coefficient of mean weight, and no amplitude is smaller than that filter makes it. By
    brute force in float64."""
    kept = []

    def keep(ratio: Tensor, *_: int) -> Tensor:
        kept.append(ratio)
        return torch.zeros(BOX, BOX, BOX)

    monkeypatch.setattr("halfmap.reconstruction.inverse.from_half_volume", keep)
    statistics = uneven_sums(0)[1]
    reconstruct_evened(statistics, evening(statistics, torch.full((LIMIT + 1,), agreement, dtype=torch.float64)))
    reconstruct(statistics)
    evened, plain = kept
    mean, weight = statistics.shell_weight(), statistics.weight.double()
    radius = half_volume_radius(half_volume_extent(2, LIMIT)) / 2
    inside, low = (radius < LIMIT) & (radius > 1), statistics.weight < 0.5
    torch.testing.assert_close(evened[inside & ~low], plain[inside & ~low])
    rows = torch.nonzero(inside & low & (radius == radius.round()))  # between shells profiles are linear
    for z, y, x in rows[::29].tolist():
        w, here = float(weight[z, y, x]), float(mean[int(radius[z, y, x])])
        noise = float((1 / weight[radius.round() == radius[z, y, x]]).mean())  # of the half maps, which the FSC knows
        ridge = (1 - agreement) / (agreement * noise)
        wanted = plain[z, y, x] * (w / (w + ridge)) / (here / (here + ridge))
        assert abs(evened[z, y, x] - wanted) < 1e-9 * abs(wanted)


def test_an_evened_difference_is_the_noise_of_the_evened_map():
    """The mean of two maps and half their difference, both evened, have the same noise in every direction, and it is
    independent; truth cancels in the difference though the parts' weights differ."""
    found = []
    for noise in (0.0, 1.0):
        parts = [uneven_sums(seed, noise)[1] for seed in (1, 2)]
        if not noise:  # then weights need not be the same
            factor = 1 + torch.rand(parts[1].sums.shape[:3], generator=torch.Generator().manual_seed(5))
            parts[1] = replace(parts[1], sums=parts[1].sums * factor[..., None])
        weight = parts[0].shell_weight()
        both = replace(parts[0], sums=parts[0].sums + parts[1].sums)
        profiles = evening(both, torch.full((LIMIT + 1,), 0.4))
        difference = reconstructed_difference(*parts, weight, BOX, profiles)
        assert noise or float(difference.abs().max()) < 1e-12
        found.append((reconstruct_evened(both, profiles), difference))
    transform = torch.fft.rfftn(found[1][0] - found[0][0]), torch.fft.rfftn(found[1][1] / 2)
    radius = frequency_length(BOX)
    kz, ky, kx = torch.meshgrid(torch.fft.fftfreq(BOX), torch.fft.fftfreq(BOX), torch.fft.rfftfreq(BOX), indexing="ij")
    steep = kz.abs() > (ky.square() + kx.square()).sqrt()
    shell = (radius > 4) & (radius < LIMIT - 1)
    for direction in (steep, ~steep):
        a, b = (t[shell & direction] for t in transform)
        assert float(a.abs().square().mean() / b.abs().square().mean()) == pytest.approx(1.0, rel=0.1)
        assert abs(float((a * b.conj()).real.mean() / (a.abs().square().mean()))) < 0.1
