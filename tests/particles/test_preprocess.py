"""Normalised images have the background they should have, and images without signal are told apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from halfmap.particles.outliers import traits
from halfmap.particles.preprocess import background_sd, normalise, soft_circle
from halfmap.particles.stack_reader import KEPT


def _distance(box: int) -> Tensor:
    y, x = np.mgrid[:box, :box] - box // 2
    return torch.from_numpy(np.sqrt(x**2 + y**2))


def _images(box: int, count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(box)
    scale = torch.tensor([1.0, 20.0, 1e-3, 300.0, 1e4]).repeat(count)[:count, None, None]
    blob = torch.exp(-(_distance(box) ** 2) / 8).float()
    return scale * (torch.randn(count, box, box, generator=generator) + 3 * blob) + 50 * scale


@pytest.mark.parametrize("box", [32, 33])
@pytest.mark.parametrize("radius", [0.0, 9.5, 14.0, 15.9, 25.0])
@pytest.mark.parametrize("ramp", [True, False])
def test_the_background_gets_mean_0_and_sd_1_by_least_squares(box: int, radius: float, ramp: bool) -> None:
    images = _images(box)
    slope = torch.linspace(-1, 1, box)
    images = images + images.std((1, 2), keepdim=True) * (slope[:, None] * 2 - slope)
    found, ok = normalise(images, radius, ramp)
    assert bool(ok.all()) and found.dtype == torch.float32
    outside = (_distance(box) > min(radius, box / 2 - 2)).numpy()
    y, x = np.mgrid[:box, :box].astype(float)
    terms = [np.ones_like(x), x, y] if ramp else [np.ones_like(x)]
    plane = np.stack(terms, -1)
    for image, result in zip(images.double().numpy(), found.double().numpy(), strict=True):
        fit, *_ = np.linalg.lstsq(plane[outside], image[outside], rcond=None)
        flat = image - plane @ fit
        np.testing.assert_allclose(result, flat / flat[outside].std(), atol=2e-4)


def test_a_high_pedestal_and_a_steep_ramp_leave_the_signal_as_it_was() -> None:
    images = _images(48)[:1]
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    clean, _ = normalise(images, 15)
    lifted, _ = normalise(images + 20_000 + 40 * x - 25 * y, 15)
    assert float((lifted - clean).abs().max()) < 5e-3


def test_images_without_signal_are_told_apart_and_come_back_as_zeros() -> None:
    images = _images(32, 10)
    images[0] = 3.3
    images[1, 4, 5] = float("nan")
    images[2, 16, 16] = float("inf")
    images[3] = 0.0
    images[4, _distance(32) > 10] = 7.0  # only the background is constant
    images[5] = torch.arange(32.0) * 0.37
    images[6, 16, 16] = 1e6  # a hot pixel is no reason to lose an image
    images[7, 0, 0] = -float("inf")
    expected, _ = normalise(_images(32, 10)[8:], 10)
    found, ok = normalise(images, 10)
    assert ok.tolist() == [False, False, False, False, False, False, True, False, True, True]
    assert not found[~ok].any()
    torch.testing.assert_close(found[8:], expected)


@pytest.mark.parametrize("kind", [kind for kind in KEPT if kind != np.float32], ids=str)
def test_images_of_any_type_that_is_kept_are_prepared_to_the_bits_of_floats(kind: np.dtype[Any]) -> None:
    noise = (20 * torch.randn(3, 24, 24, generator=torch.Generator().manual_seed(0))).round().clamp(-128, 127)
    images = noise.abs() if kind.kind == "u" else noise
    kept = torch.from_numpy(images.numpy().astype(kind))
    prepared, fine = normalise(images, 8)
    assert torch.equal(normalise(kept, 8)[0], prepared) and bool(fine.all())
    assert torch.equal(background_sd(kept, 8), background_sd(images, 8))
    assert torch.equal(traits(kept, prepared), traits(images, prepared))


@given(st.integers(2, 40), st.floats(0, 60), st.integers(0, 3))
def test_every_box_and_radius_has_a_background(box: int, radius: float, count: int) -> None:
    images = torch.randn(count, box, box, generator=torch.Generator().manual_seed(box))
    found, ok = normalise(images, radius)
    assert found.shape == images.shape and ok.shape == (count,)
    assert bool(torch.isfinite(found).all())
    assert box < 5 or bool(ok.all())


def test_images_are_left_as_they_were() -> None:
    images = _images(16)
    copy = images.clone()
    normalise(images, 5)
    assert torch.equal(images, copy)


@pytest.mark.parametrize("box", [32, 33])
def test_the_soft_circle_is_one_inside_zero_outside_and_a_cosine_between(box: int) -> None:
    circle, r = soft_circle(box, 8.0, 5.0), _distance(box)
    assert circle.shape == (box, box) and circle.dtype == torch.float32
    assert bool((circle[r <= 8] == 1).all()) and bool((circle[r >= 13] == 0).all())
    between = (r > 8) & (r < 13)
    expected = 0.5 - 0.5 * torch.cos(np.pi * (13 - r[between]) / 5)
    torch.testing.assert_close(circle[between].double(), expected, atol=1e-6, rtol=0)
    assert circle[box // 2, box // 2] == 1 and set(soft_circle(box, 8, 0).unique().tolist()) == {0.0, 1.0}
