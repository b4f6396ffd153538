"""Contrast of single particles: as near to the truth as their noise allows, and no worse than one contrast for all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from halfmap.refinement import contrast
from halfmap.refinement.contrast import Contrast
from halfmap.refinement.tally import Tally


@dataclass(frozen=True)
class Drawn:
    """Images with true contrasts (log-normal about 1) and their sums: cross is normal with variance norm / 2."""

    truth: Tensor
    cross: Tensor
    norm: Tensor

    def error(self, found: Tensor) -> float:
        """Root mean square error, once the mean that is left to the map is taken off."""
        found = found * (self.truth * self.norm).sum() / (found * self.norm).sum()
        return float((found - self.truth).square().mean().sqrt())


def contrast_of(cross: Tensor, norm: Tensor, present: Tensor | None = None) -> Contrast:
    """Of single images whose sums are these if there is a particle, which is so with the probability ``present``."""
    one = torch.ones_like(cross)
    present = one if present is None else present
    return contrast.contrast_of(Tally([], [], present * cross, present * norm, present, one), one)


def seeming(cross: Tensor, norm: Tensor) -> Tensor:
    """Probability of a particle of contrast 1, against noise alone in all poses that were searched."""
    return torch.sigmoid(2 * cross - norm - 12.0)


def drawn(count: int, information: float, sd: float, seed: int = 0) -> Drawn:
    generator = torch.Generator().manual_seed(seed)
    one, two, three = (torch.randn(count, generator=generator, dtype=torch.float64) for _ in range(3))
    truth, norm = torch.exp(sd * one), information * torch.exp(0.4 * two)
    return Drawn(truth, norm * truth + (norm / 2).sqrt() * three, norm)


def posterior_mean(images: Drawn, sd: float) -> Tensor:
    """The best that can be known of each contrast under the prior they were drawn from, by numerical integration."""
    logs = torch.linspace(-6, 6, 241, dtype=torch.float64) * sd
    s = logs.exp()
    likelihood = 2 * images.cross[:, None] * s - images.norm[:, None] * s**2
    return torch.softmax(likelihood - 0.5 * (logs / sd) ** 2, dim=1) @ s


@pytest.mark.parametrize("information", [2.0, 10.0, 50.0])
@pytest.mark.parametrize("sd", [0.05, 0.25])
def test_contrasts_under_the_prior_are_as_good_as_can_be_and_far_better_than_without(information, sd):
    images = drawn(20_000, information, sd)
    found = contrast_of(images.cross, images.norm)
    error = images.error(found.values)
    assert error < 1.02 * images.error(posterior_mean(images, sd)) + 0.002
    plain = images.cross / images.norm
    assert error < images.error(plain.clamp(0.2, 5.0))
    # the spread's own standard error, of its square, from the noise of the images
    noise = 0.5 / information
    assert abs(found.spread**2 - sd**2) < 5 * math.sqrt(2 / 20_000) * (noise + sd**2) + 0.05 * sd**2


def test_each_contrast_is_the_most_probable_one():
    """Against a search over a fine grid, with the prior that was found. An image that says nothing shows its middle."""
    images = drawn(400, 5.0, 0.4)
    cross, norm = (torch.cat([t, torch.zeros(1, dtype=torch.float64)]) for t in (images.cross, images.norm))
    found = contrast_of(cross, norm)
    middle = found.values[-1]
    s = middle * torch.linspace(-1.5, 1.5, 6001, dtype=torch.float64).exp()
    posterior = 2 * cross[:, None] * s - norm[:, None] * s**2 - 0.5 * ((s / middle).log() / found.spread) ** 2
    best = s[posterior.argmax(dim=1)]
    torch.testing.assert_close(found.values, best, rtol=2e-3, atol=0)


def test_contrasts_that_are_all_the_same_are_found_the_same():
    norm = torch.rand(50, dtype=torch.float64) + 0.1
    assert contrast_of(1.7 * norm, norm).spread < 1e-4
    torch.testing.assert_close(contrast_of(1.7 * norm, norm).values, torch.full_like(norm, 1.7), rtol=1e-6, atol=0)
    noisy = drawn(5000, 5.0, 0.0)
    assert noisy.error(contrast_of(noisy.cross, noisy.norm).values) < 0.02  # of cross / norm alone: 0.34


def test_groups_of_many_images_keep_what_they_measure():
    groups = drawn(40, 20_000.0, 0.3)
    found = contrast_of(groups.cross, groups.norm)
    torch.testing.assert_close(found.values, groups.cross / groups.norm, rtol=2e-3, atol=0)  # their noise is 5e-3


def test_images_that_are_no_particles_and_a_few_absurd_ones_leave_the_others_alone():
    images = drawn(2000, 10.0, 0.2)
    alone = contrast_of(images.cross, images.norm)
    nothing = torch.zeros(1500, dtype=torch.float64)
    absurd = torch.full((5,), 10.0, dtype=torch.float64)
    beside = contrast_of(torch.cat([images.cross, nothing, -40 * absurd]), torch.cat([images.norm, nothing, absurd]))
    assert beside.spread == pytest.approx(alone.spread, rel=0.1)
    assert float((beside.values[:2000] / alone.values - 1).abs().max()) < 0.05
    assert float(beside.values[-5:].min()) >= float(beside.values[2000]) / 5 > 0


def test_particles_much_weaker_than_thought_are_told_from_none():
    """At the contrast of the others they fit worse than noise alone, until their own is known."""
    images = drawn(1000, 200.0, 0.1)
    strength = torch.where(torch.arange(1000) % 2 == 0, 1.0, 0.4).double()
    cross = images.norm * images.truth * strength + (images.cross - images.norm * images.truth)
    present = seeming(cross, images.norm)
    assert float(present[1::2].median()) < 1e-6
    found = contrast_of(cross, images.norm, present)
    ratio = found.values / (images.truth * strength)
    assert float((ratio / ratio.mean() - 1).abs().mean()) < 0.08  # noise: 0.05 and 0.12


def test_images_without_a_particle_do_not_widen_the_prior():
    images = drawn(1000, 100.0, 0.1)
    luck = images.norm.sqrt() * 2.2  # what the best of all poses finds in noise
    cross, norm = torch.cat([images.cross, luck]), torch.cat([images.norm, images.norm])
    found = contrast_of(cross, norm, seeming(cross, norm))
    assert found.spread == pytest.approx(contrast_of(images.cross, images.norm).spread, rel=0.02)


def test_where_nothing_correlates_contrast_is_one_for_all():
    zero, one = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for cross, norm in ((zero, zero), (-one, one)):
        found = contrast_of(cross, norm)
        assert isinstance(found, Contrast) and torch.equal(found.values, one) and found.spread == 0
