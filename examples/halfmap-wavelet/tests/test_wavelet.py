"""The wavelet regulariser: what every regulariser must do, and what its own equations say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pywt
import torch
from halfmap_wavelet.shrinkage import Wavelet

from halfmap.settings.regularisers import DECLARED, PLUGS
from halfmap.workflows.regulariser_claims import CLAIMS

BOX = 32
PLACE = torch.arange(BOX, dtype=torch.float32) - BOX // 2


def blob(width: float) -> torch.Tensor:
    square = PLACE[:, None, None] ** 2 + PLACE[:, None] ** 2 + PLACE**2
    return torch.exp(-square / (2 * width**2))


def noise(seed: int) -> torch.Tensor:
    return torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(seed))


def test_it_is_installed_under_its_name() -> None:
    assert not PLUGS.broken and DECLARED["wavelet"].package.startswith("halfmap-wavelet ")


@pytest.mark.parametrize("claim", CLAIMS)
def test_it_does_what_every_regulariser_must(claim: str, tmp_path: Path) -> None:
    CLAIMS[claim]("wavelet", tmp_path)


@pytest.mark.parametrize("basis", ["haar", "sym4", "coif2"])
@pytest.mark.parametrize("turns", [1, 4])
def test_without_noise_a_map_stays_as_it_is(basis: str, turns: int) -> None:
    found = Wavelet(basis, turns=turns).shrunk(blob(2.0), torch.zeros(BOX, BOX, BOX), 2.0)
    torch.testing.assert_close(found.map, blob(2.0), rtol=0, atol=1e-5)


def test_of_noise_alone_little_is_left_but_what_is_coarser_than_all_wavelets() -> None:
    v = noise(1)
    found = Wavelet(window=2.0).shrunk(v, noise(2), 2.0)
    coarse = pywt.wavedecn(v.numpy(), "sym4", mode="periodization", level=pywt.dwt_max_level(BOX, "sym4"))
    kept = pywt.waverecn([coarse[0], *({k: 0 * c for k, c in one.items()} for one in coarse[1:])], "sym4",
                         mode="periodization")
    power = float(found.map.square().mean()) - float((kept**2).mean())
    assert power < 0.05  # of 1
    assert all(share < 0.6 for share in found.left)


def test_detail_is_kept_where_the_signal_is_and_lost_where_it_is_not() -> None:
    truth = 8 * blob(1.5)
    found = Wavelet().shrunk(truth + noise(1), noise(2), 2.0).map
    inside = blob(3.0) > 0.5
    assert float((found - truth)[inside].square().mean()) < 0.5
    assert float((found - truth)[~inside].square().mean()) < 0.1


def test_thresholds_follow_noise_that_differs_from_place_to_place() -> None:
    """Noise of one half of the box is thirty times stronger; one threshold for all takes weak detail of the other."""
    random = torch.Generator().manual_seed(3)
    strength = torch.where(torch.arange(64) < 32, 3.0, 0.1)[:, None, None].expand(64, 64, 64)
    first, second = (torch.randn(64, 64, 64, generator=random) for _ in (0, 1))
    truth = torch.zeros(64, 64, 64)
    truth[32:, 16:48, 16:48] = 1.5 * blob(1.0)
    quiet = truth > 0.2
    method = Wavelet("haar", coarsest=8.0)  # of short wavelets, which end where the noise changes
    local, same = (method.shrunk(truth + strength * first, power * second, 2.0).map
                   for power in (strength, strength.square().mean().sqrt()))
    assert float((local - truth)[quiet].square().mean()) < 0.5 * float((same - truth)[quiet].square().mean())
    assert float(local[:28].square().mean()) < 0.3 * 3.0**2


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_of_coefficients_from_the_prior_the_usual_threshold_makes_the_least_error(power: float) -> None:
    """A Laplacian of this power in noise of power 1, both measured in a wide window."""
    rng = np.random.default_rng(0)
    x = rng.laplace(scale=power / np.sqrt(2), size=(48, 48, 48))

    def error(strength: float) -> float:
        bands = {"ddd": (x + rng.normal(size=x.shape)).astype(np.float32)}
        Wavelet(strength=strength, window=4.0)._shrink(bands, {"ddd": rng.normal(size=x.shape).astype(np.float32)})
        return float(((bands["ddd"] - x) ** 2).mean())

    least = error(1.0)
    assert least < error(0.5) and least < error(1.5) and least < min(power**2, 1.0)


def test_it_turns_with_the_grid_less_than_one_transform_does() -> None:
    """The mean over shifts of the grid hardly depends on where the grid lies."""
    v, n = 8 * blob(1.5) + noise(1), noise(2)

    def change(turns: int) -> float:
        here = Wavelet(turns=turns).shrunk(v, n, 2.0).map
        there = Wavelet(turns=turns).shrunk(v.roll((1, 2, 3), (0, 1, 2)), n.roll((1, 2, 3), (0, 1, 2)), 2.0).map
        return float((here - there.roll((-1, -2, -3), (0, 1, 2))).square().mean())

    assert change(8) < 0.5 * change(1)
