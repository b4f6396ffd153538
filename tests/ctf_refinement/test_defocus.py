"""Defocus and astigmatism of particles are found from images whose CTF is written out in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures.ctf_products import (
    FINEST,
    OPTICS,
    a_defocus,
    a_table,
    other_optics,
    seen,
    with_changes,
)

from halfmap.ctf_refinement.cells import Cells
from halfmap.ctf_refinement.defocus import ParticleChanges, ParticleDefocus
from halfmap.ctf_refinement.micrographs import MicrographFit
from halfmap.ctf_refinement.phase_profiles import ProfileSums
from halfmap.errors import InputError
from halfmap.imaging.ctf import Defocus
from halfmap.imaging.optics import CtfState


def normal(count: int, seed: int = 5) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=count))


def found(old: Defocus, images, asked: ParticleChanges | None = None):
    fit = ParticleDefocus(a_table(old), FINEST, asked)
    fit.add_(None, images.products(old))
    return fit.solved(a_table(old))


def same(one: Defocus, other: Defocus) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in Defocus.__dataclass_fields__)


def test_the_likelihood_of_other_defoci_astigmatisms_and_phase_shifts_is_that_of_the_images():
    old = a_defocus(6)
    images = seen(old, snr=0.3)
    sums = ProfileSums(6, [1, 2, 3], Cells.of_reach(2000, OPTICS.wavelength, FINEST, 16), 2000, OPTICS.wavelength)
    sums.add_(images.products(old))
    profiles = sums.of(torch.arange(6))
    middle = len(sums.nodes) // 2
    for at in (middle - 30, middle - 7, middle + 3, middle + 20):
        change = float(sums.nodes[at])
        direct = images.likelihood(with_changes(old, mean=change)) - images.likelihood(old)
        # Coefficients of a cell are taken for its middle: noise turns by up to 0.25 rad at the end of the range.
        assert (profiles.likelihood[:, at] - direct).abs().max() < 0.01 + 4e-3 * abs(change)
    for at in (middle, middle + 1):
        near = with_changes(old, mean=float(sums.nodes[at]))
        for name, (column, size) in {"along": (0, 10.0), "across": (1, -10.0), "phase": (2, 0.03)}.items():
            offset = torch.zeros(6, 3).double()
            offset[:, column] = size
            effect = images.likelihood(with_changes(near, **{name: size})) - images.likelihood(near)
            told = profiles.at(offset).likelihood[:, at] - profiles.likelihood[:, at]
            assert (told - effect).abs().max() < 0.1, name  # of 0.3 nats that noise makes


@pytest.mark.parametrize(("snr", "spread"), [(0.3, 150.0), (0.03, 200.0)])
def test_defoci_are_as_far_from_the_truth_as_their_errors_say_and_truth_lies_on_them_without_slope(snr, spread):
    old, change = a_defocus(600), 30 + spread * normal(600)
    result = found(old, seen(with_changes(old, mean=change), snr))
    fitted = result.fitted[0]
    off = fitted.change[:, 0] - change
    assert fitted.applied.all()
    assert (off / fitted.error[:, 0]).std() == pytest.approx(1.0, abs=0.12)
    assert (change * fitted.change[:, 0]).sum() / fitted.change.square().sum() == pytest.approx(1.0, abs=0.03)
    assert off.square().mean().sqrt() < 0.5 * spread
    assert torch.equal(result.table.defocus.u, old.u + fitted.change[:, 0])
    assert torch.equal(result.table.defocus.angle, old.angle)


def test_right_defoci_stay_as_they_are():
    for seed in range(2):
        old = a_defocus(400, seed)
        result = found(old, seen(old, 0.1, seed))
        assert same(result.table.defocus, old)
        assert not result.fitted[0].applied.any()
        assert "not significant" in result.fitted[0].verdict


def test_a_change_that_all_particles_share_is_applied_to_all_alike():
    old = a_defocus(600)
    fitted = found(old, seen(with_changes(old, mean=40.0), 0.1)).fitted[0]
    assert fitted.applied.all()
    for half in (0, 1):
        change, error = (values[fitted.half == half, 0] for values in (fitted.change, fitted.error))
        assert change.std() == 0
        assert abs(change[0] - 40.0) < 4 * error[0] < 15


def test_a_given_spread_is_taken_as_it_is():
    old, change = a_defocus(400), 150 * normal(400)
    images = seen(with_changes(old, mean=change), 0.03)
    tight, loose = (found(old, images, ParticleChanges(spread=spread)).fitted[0] for spread in (15.0, 300.0))
    assert tight.applied.all()
    assert tight.change.std() < 0.2 * loose.change.std()


def test_astigmatism_of_particles_is_found_with_its_errors_and_left_alone_where_it_is_right():
    old, change = a_defocus(300), 150 * normal(300)
    along, across = 60 * normal(300, 6), 60 * normal(300, 7)
    asked = ParticleChanges(astigmatism=True)
    fitted = found(old, seen(with_changes(old, change, along, across), 1.0), asked).fitted[0]
    for column, truth in enumerate((change, along, across)):
        off = fitted.change[:, column] - truth
        assert (off / fitted.error[:, column]).std() == pytest.approx(1.0, abs=0.15)
        assert off.square().mean().sqrt() < 0.4 * truth.std()
    result = found(old, seen(with_changes(old, change), 1.0), asked)
    assert torch.equal(result.table.defocus.angle, old.angle)
    assert result.fitted[0].applied.all()


def test_what_is_changed_of_micrographs_and_optics_in_the_same_pass_is_heeded():
    count = 400
    old, change = a_defocus(count), 100 * normal(count)
    along, across, phase = (size * normal(10, seed)[torch.arange(count) // 40]
                            for size, seed in ((80, 7), (80, 8), (0.1, 9)))
    truth = {"along": along, "across": across, "phase": phase}
    images = seen(with_changes(old, change, **truth), 0.3)
    off = {}
    for beside in ((), ("astigmatism", "phase-shift")):
        table = a_table(old, 40)
        micrographs = MicrographFit(table, FINEST, ["astigmatism", "phase-shift"])
        particles = ParticleDefocus(table, FINEST, ParticleChanges(beside=beside))
        for fit in (micrographs, particles):
            fit.add_(None, images.products(old))
        new = particles.solved(micrographs.solved(table).table).table.defocus
        off[beside] = (0.5 * (new.u + new.v - old.u - old.v) - change).square().mean().sqrt()
    ideal = found(with_changes(old, **truth), images).fitted[0]
    best = (ideal.change[:, 0] - change).square().mean().sqrt()
    assert off["astigmatism", "phase-shift"] < 1.25 * best
    assert off["astigmatism", "phase-shift"] < 0.8 * off[()]

    wrong = other_optics(a_table(old), spherical_aberration=2.6)
    images = seen(with_changes(old, change), 0.3)
    fit = ParticleDefocus(wrong, FINEST, ParticleChanges(beside=("cs",)))
    fit.add_(None, images.products(old, wrong.optics[0]))
    fitted = fit.solved(other_optics(wrong, spherical_aberration=2.7)).fitted[0]
    right = found(old, images).fitted[0]
    assert (fitted.change - right.change).abs().max() < 0.2 * right.error.min()


def test_a_half_set_does_not_feel_the_images_of_the_other():
    old, change = a_defocus(300), 150 * normal(300)
    images = seen(with_changes(old, mean=change), 0.1)
    other = replace(images, y=torch.where(torch.arange(300)[:, None] % 2 == 1, 3 * images.y.flip(0), images.y))
    one, two = (found(old, some).fitted[0] for some in (images, other))
    first = one.half == 0
    assert torch.equal(one.change[first], two.change[first])
    assert not torch.equal(one.change[~first], two.change[~first])


def test_sums_of_two_processes_add_up_to_those_of_one():
    old = a_defocus(60)
    table, images = a_table(old), seen(old, 0.1)
    for make in (lambda: ParticleDefocus(table, FINEST), lambda: MicrographFit(table, FINEST, ["astigmatism"])):
        whole, first, second = make(), make(), make()
        whole.add_(None, images.products(old))
        for fit, rows in ((first, torch.arange(0, 25)), (second, torch.arange(25, 60))):
            fit.add_(None, images.products(old, rows=rows))
        for alone, one, two in zip(whole.sums(), first.sums(), second.sums(), strict=True):
            assert torch.allclose(alone, one + two, rtol=1e-4, atol=1e-3)


def test_particles_beyond_the_range_or_the_focus_stay_as_they_were_and_are_counted():
    old = a_defocus(400)
    change = 60 * normal(400)
    change[0] = 395.0
    change[1] = 60.0
    near = replace(old, u=old.u.clone(), v=old.v.clone())
    near.u[1], near.v[1] = 30.0, -20.0
    images = seen(with_changes(near, mean=change), 1.0)
    result = found(near, images, ParticleChanges(reach=300.0))
    fitted = result.fitted[0]
    assert not fitted.applied[:2].any()
    assert fitted.applied[2:].float().mean() > 0.95
    assert float(result.table.defocus.u[0]) == float(near.u[0])
    assert "would change by 300 A or more" in fitted.verdict
    assert "underfocus would become an overfocus" in fitted.verdict


@pytest.mark.parametrize("state", [CtfState.PHASE_FLIPPED, CtfState.PREMULTIPLIED])
def test_images_that_their_ctf_was_applied_to_are_refused(state):
    table = other_optics(a_table(a_defocus(4)), ctf_state=state)
    with pytest.raises(InputError, match=r"particles.star: .* cannot be changed"):
        ParticleDefocus(table, FINEST)
    with pytest.raises(InputError, match=r"particles.star: .* cannot be changed"):
        MicrographFit(table, FINEST, ["bfactor"])
