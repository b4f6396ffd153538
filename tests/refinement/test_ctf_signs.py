"""Images that have the opposite sign of their CTF are told from those that have the right one, and noise from both."""

import numpy as np
import pytest
import torch

from halfmap.refinement.ctf_signs import SignSums

IMAGES, COEFFICIENTS = 60, 400


def sums(data_ctf: str, seed: int = 0) -> SignSums:
    """Of images with power 1 of whitened noise, whose signal went through the CTF that ``data_ctf`` names."""
    random = np.random.default_rng(seed)
    normal = random.normal(0, 0.5**0.5, (4, IMAGES, COEFFICIENTS))
    slices, noise = 0.3 * (normal[0] + 1j * normal[1]), normal[2] + 1j * normal[3]
    ctf = np.sin(np.linspace(0.1, 14, COEFFICIENTS)) * np.ones((IMAGES, 1))
    seen = {"right": ctf, "flipped": np.abs(ctf), "inverted": -ctf, "none": 0 * ctf}[data_ctf]
    model, data = ctf * slices, seen * slices + noise
    products = (data.conj() * model).real, np.abs(model) ** 2
    total = SignSums.zeros()
    for part in (slice(0, 20), slice(20, IMAGES)):
        total.add_(SignSums(*(torch.tensor([(values * lobe)[part].sum() for lobe in (ctf > 0, ctf <= 0)])
                              for values in products)))
    return total


def test_where_the_ctf_is_right_both_kinds_of_lobes_say_the_contrast() -> None:
    found = sums("right")
    error = (0.5 / found.norm).sqrt()
    assert bool(((found.cross / found.norm - 1).abs() < 4 * error).all()) and float(error.max()) < 0.1
    assert found.contradicted() == []


@pytest.mark.parametrize(("data_ctf", "slopes"), [("flipped", (1.0, -1.0)), ("inverted", (-1.0, -1.0))])
def test_a_sign_that_is_wrong_is_said_with_what_may_be_the_cause(data_ctf, slopes) -> None:
    found = sums(data_ctf)
    assert (found.cross / found.norm).tolist() == pytest.approx(slopes, abs=0.4)
    (said,) = found.contradicted()
    assert said.level == "warning" and "--phase-flipped" in said.text and "defocus" in said.text


def test_noise_says_nothing_and_has_the_variance_that_it_is_judged_by() -> None:
    found = [sums("none", seed) for seed in range(60)]
    assert not any(one.contradicted() for one in found)
    deviation = torch.stack([one.cross / (0.5 * one.norm).sqrt() for one in found])
    assert float(deviation.std()) == pytest.approx(1.0, abs=0.2)
