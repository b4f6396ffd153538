"""An image is judged against the others of its stack, and only what no microscope makes is absurd."""

from pathlib import Path

import numpy as np
import pytest
import torch

from halfmap.imaging.ctf import Defocus
from halfmap.imaging.optics import OpticsGroup
from halfmap.particles.outliers import ABSURD, DOUBTFUL, TRAITS, odd_ones, traits
from halfmap.particles.table import ParticleTable


def table(stack: np.ndarray) -> ParticleTable:
    count = len(stack)
    zero, none = torch.zeros(count, dtype=torch.float64), np.zeros(count, np.int64)
    return ParticleTable(
        {}, (OpticsGroup("one", 300.0, 2.7, 0.1, 1.0, 16),), none, (Path("a.mrcs"), Path("b.mrcs"), Path("c.mrcs")),
        stack, np.arange(count), Defocus(zero, zero, zero, zero, zero, zero), None,
        torch.zeros(count, 2, dtype=torch.float64), None, none, Path("p.star"))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(60, 16, 16, generator=torch.Generator().manual_seed(1))


def odd(images: torch.Tensor, stack: np.ndarray, sound: np.ndarray | None = None):
    seen = traits(images, (images - images.mean((1, 2), keepdim=True)) / images.std((1, 2), keepdim=True))
    return odd_ones(table(stack), seen, np.ones(len(images), bool) if sound is None else sound)


def test_ordinary_images_do_not_stand_out(images):
    assert odd(images, np.repeat([0, 1], 30)).deviation.max() < DOUBTFUL


@pytest.mark.parametrize(("change", "trait"), [
    (lambda image: image + 50, "brightness"),
    (lambda image: image * 1e3, "contrast"),
    (lambda image: torch.where(torch.arange(256).view(16, 16) == 77, 1e9, image), "contrast"),
])
def test_an_absurd_image_is_found_by_what_is_wrong_with_it(change, trait, images):
    images[17] = change(images[17])
    found = odd(images, np.repeat([0, 1], 30))
    assert np.flatnonzero(found.deviation > ABSURD).tolist() == [17]
    assert TRAITS[found.trait[17]] == trait


def test_stacks_may_differ_from_each_other_as_they_like(images):
    images[30:] = 1e4 + 300 * images[30:]
    assert odd(images, np.repeat([0, 1], 30)).deviation.max() < DOUBTFUL


def test_images_of_small_stacks_are_compared_with_their_optics_group(images):
    images[59] += 50
    found = odd(images, np.repeat([0, 1, 2], [30, 25, 5]))
    assert found.deviation[:59].max() < DOUBTFUL
    few = odd(images[[59, *range(40, 59)]], np.repeat([2, 0, 1], [1, 10, 9]))
    assert few.deviation[0] > ABSURD


def test_faulty_images_neither_count_nor_are_judged(images):
    images[:14] = float("nan")
    sound = np.arange(60) >= 14
    found = odd(images, np.repeat([0, 1], 30), sound)
    assert (found.deviation[:14] == 0).all() and found.deviation.max() < DOUBTFUL
