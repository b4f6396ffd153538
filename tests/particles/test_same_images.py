"""Copies of an image are found by its pixels, however they were stored; different images are not, noise-free or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.particles.preprocess import normalise
from halfmap.particles.same_images import first_alike, signatures
from halfmap.particles.star import read_star
from halfmap.particles.table import ParticleTable

BOX = 48


def pictures(count: int, noise: float, seed: int = 0) -> Tensor:
    """A disc with one of two blobs, the same in every image but for a shift of a pixel, in white noise."""
    axis = torch.arange(BOX).float() - BOX // 2
    y, x = axis[:, None], axis
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randint(-1, 2, (count, 2, 1, 1), generator=generator)
    r2 = (x - shift[:, 0]) ** 2 + (y - shift[:, 1]) ** 2
    blob = (x - shift[:, 0] - 6) ** 2 + (y - shift[:, 1]) ** 2
    return torch.exp(-r2 / 120) + torch.exp(-blob / 8) + noise * torch.randn(count, BOX, BOX, generator=generator)


def table_of(star: Path, count: int) -> ParticleTable:
    """A table that names as many images, all by different names."""
    table = read_star(star)
    table = table.select(np.flatnonzero(table.optics_index == 0)[np.zeros(count, int)])
    return replace(table, image_index=np.arange(count))


def found(star: Path, images: Tensor) -> list[int]:
    ready, sound = normalise(images, 0.4 * BOX)
    return first_alike(signatures(ready) * sound[:, None], table_of(star, len(images))).tolist()


def int8(images: Tensor) -> Tensor:
    return (20 * images / images.std()).round().clamp(-127, 127)


def ramped(images: Tensor) -> Tensor:
    return images + 0.02 * torch.arange(BOX)


@pytest.mark.parametrize("change", [
    lambda x: x, lambda x: x.half().float(), int8, ramped, lambda x: 3.7 * x + 250, lambda x: (x + 100).half().float(),
])  # fmt: skip
def test_a_copy_is_found_whatever_its_grey_scale_and_type(change: Callable[[Tensor], Tensor], star: Path) -> None:
    images = pictures(60, 1.0)
    copies = change(images[[3, 41, 7]])
    first = found(star, torch.cat([images, copies]))
    assert first == [*range(60), 3, 41, 7]


def test_different_images_of_one_particle_are_not_taken_for_copies(star: Path) -> None:
    for noise in (0.1, 1.0, 5.0):  # signal to noise, as powers, of 20 to 0.01
        assert found(star, pictures(500, noise)) == list(range(500))


def test_all_images_the_same_are_one_in_every_grey_scale(star: Path) -> None:
    one = pictures(1, 1.0)
    scales = torch.linspace(0.5, 20, 300)[:, None, None]
    assert set(found(star, one * scales + scales.square())) == {0}


def test_a_million_copies_do_not_make_a_list_of_pairs(star: Path) -> None:
    one = torch.nn.functional.normalize(torch.randn(1, 32, generator=torch.Generator().manual_seed(0)))
    many = one + 1e-6 * torch.randn(20_000, 32, generator=torch.Generator().manual_seed(1))
    assert set(first_alike(many, table_of(star, len(many))).tolist()) == {0}


def test_images_that_are_none_are_compared_by_name(star: Path) -> None:
    images = pictures(4, 1.0)
    images[1:3] = torch.nan
    assert found(star, images) == [0, 1, 2, 3]
