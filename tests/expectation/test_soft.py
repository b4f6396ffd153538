"""Soft assignment against float64 sums that are written out image by image, slice by slice and shift by shift."""

from __future__ import annotations

import math

import pytest
import torch

from halfmap import kernels
from halfmap.expectation import soft
from halfmap.expectation.score import ReferenceSlices, shift_phases
from halfmap.expectation.soft import GridSums, Softness, assign_
from halfmap.fourier.band import Band


def _complex(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.view_as_complex(torch.randn(*shape, 2, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("sharp", [False, True])
def test_soft_assignment_is_the_posterior_and_its_sums_in_float64(monkeypatch, sharp):
    monkeypatch.setattr(soft, "WEIGHTS_AT_ONCE", 100)  # several parts
    monkeypatch.setattr(soft, "SPARSE_IMAGES", 2)
    monkeypatch.setattr(soft, "MANY_ACTIVE", 2.0)
    generator = torch.Generator().manual_seed(3)
    band = Band.to_shell(16, 4)
    k, images, count = len(band), 7, 5
    slices = _complex(generator, count, k)
    y, c = _complex(generator, images, k), torch.rand(images, k, generator=generator, dtype=torch.float64)
    y[0] += 2 * c[0] * slices[3].conj()
    shifts = torch.tensor([[0.0, 0.0], [1.0, -1.0], [2.0, 0.5]])
    log_prior = torch.tensor([0.0, -0.3, -2.0], dtype=torch.float64)
    log_share = torch.randn(count, generator=generator, dtype=torch.float64)
    softness = Softness(0.4, share=0.6, sharp=sharp)
    held = ReferenceSlices(torch.eye(3).expand(count, 3, 3), *(t.float().contiguous() for t in
                           (slices.real, slices.imag, slices.abs().square())))
    sums = GridSums.zeros(count, k)
    found = assign_(y.to(torch.complex64), c.float(), held, shift_phases(band.kxy, shifts, 16), log_prior, sums,
                    softness, log_share)

    numerator = torch.zeros(count, k, dtype=torch.complex128)
    weight = torch.zeros(count, k, dtype=torch.float64)
    prior_t, prior_r = log_prior.softmax(0), log_share.softmax(0) / 2
    for b in range(images):
        terms = {}
        for t in range(3):
            turn = torch.exp(2j * math.pi * (band.kxy.double() @ shifts[t].double()) / 16)
            for r in range(2 * count):
                model = slices[r] if r < count else slices[r - count].conj()
                score = 2 * (c[b] * y[b] * turn * model.conj()).real.sum() - (c[b] * model).abs().square().sum()
                terms[t, r] = (float(score), float(prior_t[t] * prior_r[r % count]), turn)
        evidence = sum(math.exp(0.4 * score) * prior for score, prior, _ in terms.values())
        present = 0.6 * evidence / (0.6 * evidence + 0.4)
        assert math.isclose(float(found.log_evidence[b]), math.log(evidence), abs_tol=1e-4)
        assert math.isclose(float(found.present[b]), present, abs_tol=1e-5)
        best = max(terms, key=lambda one: 0.4 * terms[one][0] + math.log(terms[one][1]))
        assert (int(found.shift[b]), int(found.index[b])) == best
        assert math.isclose(float(found.score[b]), terms[best][0] + math.log(terms[best][1]), abs_tol=1e-3)
        for (_, r), (score, prior, turn) in terms.items():
            w = present * math.exp(0.4 * score) * prior / evidence
            value = c[b] * y[b] * turn
            numerator[r % count] += w * (value if r < count else value.conj())
            weight[r % count] += w * c[b].square()
    found_sums = torch.complex(sums.real, sums.imag).to(torch.complex128)
    torch.testing.assert_close(found_sums, numerator, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sums.weight.double(), weight, rtol=1e-4, atol=1e-5)
    assert math.isclose(float(sums.mass.sum()), float(found.present.sum()), rel_tol=1e-5)


def test_in_noise_alone_the_mean_evidence_is_one():
    generator = torch.Generator().manual_seed(1)
    band = Band.to_shell(16, 3)
    slices = 0.15 * _complex(generator, 6, len(band))
    held = ReferenceSlices(torch.eye(3).expand(6, 3, 3), *(t.float().contiguous() for t in
                           (slices.real, slices.imag, slices.abs().square())))
    y = _complex(generator, 20_000, len(band)).to(torch.complex64) / math.sqrt(2)
    shifts = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    found = assign_(y, torch.ones(len(y), len(band)), held, shift_phases(band.kxy, shifts, 16), torch.zeros(2),
                    GridSums.zeros(6, len(band)))
    assert abs(float(found.log_evidence.exp().mean()) - 1) < 0.05


@pytest.mark.parametrize("sharp", [False, True])
def test_the_number_of_threads_changes_no_bit(sharp):
    """Also where an image is alone, and arrays end in the midst of what a processor does at once."""
    generator = torch.Generator().manual_seed(5)
    k, count, shifts = 701, 1101, 53
    real, imag = torch.randn(2, count, k, generator=generator)
    slices = ReferenceSlices(torch.eye(3).expand(count, 3, 3), real, imag, real.square() + imag.square())
    phases = torch.exp(1j * torch.randn(shifts, k, generator=generator))
    y, c = _complex(generator, 3, k).to(torch.complex64), torch.rand(3, k, generator=generator)

    def found(threads: int, images: int) -> list[torch.Tensor]:
        torch.set_num_threads(threads)
        kernels.set_threads(threads)
        sums = GridSums.zeros(count, k)
        softness = Softness(0.02, share=0.5, sharp=sharp)
        poses = assign_(y[:images], c[:images], slices, phases, torch.zeros(shifts), sums, softness)
        return [*vars(poses).values(), *vars(sums).values()]

    before = torch.get_num_threads(), kernels.thread_count()
    try:
        for images in (1, 3):
            alone = found(1, images)
            for threads in (2, 3):
                assert all(map(torch.equal, alone, found(threads, images)))
    finally:
        torch.set_num_threads(before[0])
        kernels.set_threads(before[1])
