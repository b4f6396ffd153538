"""Sums of millions of images: no weight is rounded away, and it does not matter when the sums are completed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from halfmap.fourier.band import Band
from halfmap.geometry.rotations import random_rotations
from halfmap.kernels.poses import Samples
from halfmap.reconstruction.statistics import CORE, Backprojection

BATCH, DIFFERENT = 50_000, 8  # slices at once, and sets of so many orientations, used again and again


def batches(band: Band, count: int) -> Iterator[tuple[Tensor, Samples]]:
    """Weights [1, k] of an image, and the slices in which it is inserted."""
    generator = torch.Generator().manual_seed(1)
    rotations = [random_rotations(BATCH, generator) for _ in range(DIFFERENT)]
    still, same = torch.zeros(BATCH, 2, dtype=torch.float64), torch.zeros(BATCH, dtype=torch.int64)
    for i in range(count // BATCH):
        weights = 0.01 + torch.rand(1, len(band), generator=generator)
        yield weights, Samples(same, rotations[i % DIFFERENT], still, torch.ones(BATCH))


def inserted(statistics: Backprojection, band: Band, count: int) -> float:
    """Insert so many slices and return the weight of all of them, added up exactly."""
    total = 0.0
    for weights, samples in batches(band, count):
        statistics.insert_(weights.to(torch.complex64), weights, band.kxy.double(), band, samples)
        total += BATCH * float(weights.double().sum())
    return total


def lost(statistics: Backprojection, total: float) -> float:
    """The part of the weight that is missing. The eight shares of a coefficient add up to 1, wherever it falls."""
    return 1 - float(statistics.weight.double().sum()) / total


def test_three_million_slices_lose_no_weight_near_the_origin():
    band = Band.to_shell(8, 1)
    plain, guarded = (Backprojection.zeros(8, 2, 1, torch.zeros(())) for _ in range(2))
    guarded = guarded.with_core()
    total = inserted(guarded, band, 3_000_000)
    assert abs(lost(guarded.completed_(), total)) < 1e-6
    assert lost(plain, inserted(plain, band, 3_000_000)) > 2e-4  # what float32 alone makes of them


def test_sums_beyond_the_core_and_within_it_are_those_of_float64_whenever_they_are_completed():
    limit = CORE // 2 + 3
    band = Band.to_shell(2 * limit + 4, limit)
    generator = torch.Generator().manual_seed(2)
    weights = torch.rand(40, len(band), generator=generator)
    values = torch.randn(40, len(band), generator=generator, dtype=torch.complex64)
    shifts = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    samples = Samples(torch.arange(40), random_rotations(40, generator), shifts, torch.ones(40))
    exact = Backprojection.zeros(band.box, 2, limit, torch.zeros(()).double())
    found = Backprojection.zeros(band.box, 2, limit, torch.zeros(())).with_core()
    for looked_at in (False, True, False):  # on the way, as a chain of growing subsets is
        exact.insert_(values.to(torch.complex128), weights.double(), band.kxy.double(), band, samples)
        found.insert_(values, weights, band.kxy.double(), band, samples)
        if looked_at:
            found.completed_()
    complete = found.completed_()
    assert complete.core is None and float(found.core.abs().max()) == 0
    torch.testing.assert_close(complete.sums.double(), exact.sums, rtol=3e-5, atol=3e-5)
    assert torch.equal(found.completed_().sums, complete.sums)


def test_what_is_done_to_a_copy_does_not_reach_the_sums_it_was_made_of():
    sums = Backprojection.zeros(8, 2, 3, torch.zeros(())).with_core()
    sums.sums.fill_(1.0)
    sums.core.fill_(2.0)
    complete = sums.copied().completed_()
    assert float(complete.sums.max()) == 3.0
    assert bool((sums.sums == 1.0).all()) and bool((sums.core == 2.0).all())
