"""Values of micrographs are found from images whose CTF is written out in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures.ctf_products import FINEST, OPTICS, a_defocus, a_table, seen, true_ctf, with_changes

from halfmap.ctf_refinement.cells import Cells, cell_sums
from halfmap.ctf_refinement.micrograph_values import Units
from halfmap.ctf_refinement.micrographs import MicrographFit
from halfmap.imaging.ctf import Defocus

NAMES = ("mean", "along", "across", "phase", "bfactor", "log_scale")
SPREADS = (120.0, 60.0, 60.0, 0.1, 20.0, 0.1)


def drawn(count: int, seed: int = 3) -> torch.Tensor:
    """Values [micrograph, 6] of so many micrographs."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 6))) * torch.tensor(SPREADS).double()


def of_particles(values: torch.Tensor, in_micrograph: int) -> dict[str, torch.Tensor]:
    return {name: values[:, i].repeat_interleave(in_micrograph) for i, name in enumerate(NAMES)}


def solved(old: Defocus, images, names: list[str], in_micrograph: int, **choices):
    table = a_table(old, in_micrograph)
    fit = MicrographFit(table, FINEST, names, **choices)
    fit.add_(None, images.products(old))
    return fit.solved(table)


def test_the_likelihood_of_a_micrograph_is_that_of_its_images_for_large_changes_too():
    old = a_defocus(8)
    images = seen(with_changes(old, mean=300.0, along=40.0), snr=0.3)
    cells = Cells.of_reach(1000, OPTICS.wavelength, FINEST, 16)
    total = torch.stack([some.sums.sum(dim=0) for some in cell_sums(images.products(old), cells)]).sum(dim=0)
    units = Units(total[None], cells, torch.tensor([OPTICS.wavelength]), torch.zeros(1, 5).double())
    nothing = torch.zeros(1, 6).double()
    for values in ([300, 40, 0, 0, 0, 0], [-400, 0, 30, 0.3, 20, 0.2], [500, -80, 60, -0.2, -30, -0.3]):
        values = torch.tensor([values]).double()
        direct = images.likelihood(with_changes(old, **dict(zip(NAMES, values[0].tolist(), strict=True)))).sum()
        direct -= images.likelihood(old).sum()
        told = units.terms(values).value[0] - units.terms(nothing).value[0]
        assert float(told) == pytest.approx(float(direct), abs=0.02 * abs(float(direct)) + 2)
        terms = units.terms(values)
        for i, step in enumerate((1e-2, 1e-2, 1e-2, 1e-5, 1e-3, 1e-5)):
            ahead, behind = values.clone(), values.clone()
            ahead[0, i] += step
            behind[0, i] -= step
            slope = (units.terms(ahead).value - units.terms(behind).value) / (2 * step)
            assert float(terms.gradient[0, i]) == pytest.approx(float(slope[0]), rel=1e-4, abs=1e-6)


def test_all_values_of_micrographs_are_found_together_with_their_errors():
    values = drawn(40)
    old = a_defocus(40 * 24)
    result = solved(old, seen(with_changes(old, **of_particles(values, 24)), 0.3),
                    ["defocus-micrograph", "astigmatism", "phase-shift", "bfactor"], 24)
    column = 0
    for fitted in result.fitted:
        assert fitted.applied.all()
        for i in range(len(fitted.components)):
            truth = values[fitted.number, column]
            if column >= 4:  # only differences count
                truth = truth - values[:, column].mean()
            off = fitted.change[:, i] - truth
            assert (off / fitted.error[:, i]).std() == pytest.approx(1.0, abs=0.25), fitted.components[i]
            assert off.square().mean().sqrt() < 0.5 * SPREADS[column]
            column += 1
    # The table has the CTFs of the truth, but for a B factor and a scale that all have in common.
    kxy = torch.tensor([[9, 4], [2, 17], [20, 14]])
    truth = with_changes(old, **of_particles(values - values.mean(0) * (torch.arange(6) >= 4), 24))
    before, after = (true_ctf(kxy, one) - true_ctf(kxy, truth) for one in (old, result.table.defocus))
    assert after.square().mean() < 0.06 * before.square().mean()
    change = result.table.defocus.bfactor
    for half in (0, 1):
        assert abs(float(change[half::2].mean())) < 1e-6
        assert abs(float(result.table.defocus.scale[half::2].log().mean())) < 1e-6


def test_right_values_of_micrographs_stay_as_they_are():
    old = a_defocus(400)
    result = solved(old, seen(old, 0.2), ["defocus-micrograph", "phase-shift", "bfactor"], 20)
    for name in Defocus.__dataclass_fields__:
        assert torch.equal(getattr(result.table.defocus, name).double(), getattr(old, name)), name
    for fitted in result.fitted:
        assert not fitted.applied.any()
        assert "not significant" in fitted.verdict


def test_a_wrong_phase_shift_is_not_taken_for_a_wrong_defocus():
    old, values = a_defocus(600), drawn(15)
    images = seen(with_changes(old, phase=(2 * values[:, 3]).repeat_interleave(40)), 0.3)
    defocus, phase = solved(old, images, ["defocus-micrograph", "phase-shift"], 40).fitted
    assert phase.applied.all()
    assert (phase.change[:, 0] - 2 * values[phase.number, 3]).square().mean().sqrt() < 0.06
    assert not defocus.applied.any()


def test_a_micrograph_of_few_particles_keeps_more_of_what_it_had():
    sizes = np.repeat([2, 40], 20)
    micrograph = np.repeat(np.arange(40), sizes)
    old = a_defocus(len(micrograph))
    change = drawn(40)[:, 0] / 3
    table = replace(a_table(old), micrograph=micrograph)
    fit = MicrographFit(table, FINEST, ["defocus-micrograph"])
    fit.add_(None, seen(with_changes(old, mean=change[micrograph]), 0.03).products(old))
    fitted = fit.solved(table).fitted[0]
    few = torch.from_numpy(sizes[fitted.number] == 2)
    slope = [float((fitted.change[some, 0] * change[fitted.number][some]).sum()
                   / change[fitted.number][some].square().sum()) for some in (few, ~few)]
    assert slope[0] < 0.6 < 0.8 < slope[1]
    assert fitted.error[few].mean() > 2 * fitted.error[~few].mean()
