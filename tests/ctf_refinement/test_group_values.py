"""Values of optics groups are found from images whose optics are written out here, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from halfmap.ctf_refinement.even import Even
from halfmap.ctf_refinement.fit import Solved
from halfmap.ctf_refinement.magnification import Magnification
from halfmap.ctf_refinement.odd import Odd
from halfmap.ctf_refinement.products import PosedImages, Range
from halfmap.errors import InputError
from halfmap.expectation.search import Reference
from halfmap.fourier.transform import half_volume
from halfmap.imaging.ctf import Defocus, ctf
from halfmap.imaging.forward import BandImages, Geometries
from halfmap.imaging.optics import BeamTilt, CtfState, MagnificationMatrix, OpticsGroup
from halfmap.particles.table import ParticleTable

BOX, PIXEL, LAST = 64, 1.1, 26
USED = Range(4, LAST)
SIGMA2 = 26.0**2


def wavelength_of(optics: OpticsGroup) -> float:
    volts = optics.voltage * 1e3
    return 12.2643247 / math.sqrt(volts * (1 + volts * 0.978466e-6))


def true_frequencies(optics: OpticsGroup, kxy: Tensor) -> Tensor:
    matrix = torch.tensor(optics.magnification, dtype=torch.float64).view(2, 2)
    return kxy.double() @ matrix.T / (optics.box * optics.pixel_size)


def true_odd_phase(optics: OpticsGroup, kxy: Tensor) -> Tensor:
    f = true_frequencies(optics, kxy)
    x, y = f.unbind(dim=1)
    r, azimuth, odd = f.norm(dim=1), torch.atan2(y, x), [*optics.odd_zernike, *[0.0] * 6]
    phase = odd[0] * y + odd[1] * x + (3 * r**3 - 2 * r) * (odd[3] * torch.sin(azimuth) + odd[4] * torch.cos(azimuth))
    phase = phase + r**3 * (odd[2] * torch.sin(3 * azimuth) + odd[5] * torch.cos(3 * azimuth))
    tilt = torch.tensor(optics.beam_tilt, dtype=torch.float64) * 1e-3
    return phase - 2 * math.pi * optics.spherical_aberration * 1e7 * wavelength_of(optics) ** 2 * r**2 * (f @ tilt)


def true_ctf(optics: OpticsGroup, defocus: Defocus, kxy: Tensor) -> Tensor:
    f = true_frequencies(optics, kxy)
    r, azimuth, even = f.norm(dim=1), torch.atan2(f[:, 1], f[:, 0]), [*optics.even_zernike, *[0.0] * 9]
    u, v, angle = (one[:, None] for one in (defocus.u, defocus.v, defocus.angle))
    dz = (u + v) / 2 + (u - v) / 2 * torch.cos(2 * (azimuth - angle))
    gamma = -math.pi * wavelength_of(optics) * dz * r**2
    gamma = gamma + 0.5 * math.pi * optics.spherical_aberration * 1e7 * wavelength_of(optics) ** 3 * r**4
    gamma = gamma - defocus.phase_shift[:, None] - math.asin(optics.amplitude_contrast)
    return -torch.sin(gamma + r**4 * (even[4] * torch.sin(4 * azimuth) + even[8] * torch.cos(4 * azimuth)))


def true_images(blobs, optics: OpticsGroup, defocus: Defocus, kxy: Tensor, rotations: Tensor, shifts: Tensor) -> Tensor:
    """Images [b, k] from the formulas of image formation, with a CTF and phases of their own."""
    slices = blobs.slices(true_frequencies(optics, kxy) * (BOX * PIXEL), rotations)
    moved = -2 * math.pi / optics.box * shifts @ kxy.double().T + true_odd_phase(optics, kxy)
    return true_ctf(optics, defocus, kxy) * slices * torch.polar(torch.ones_like(moved), moved)


@dataclass(frozen=True)
class Study:
    """Images of several optics groups, made with true optics and described by others."""

    table: ParticleTable
    batches: tuple[PosedImages, ...]
    geometries: Geometries

    def odd(self, *names: str) -> Odd:
        return self._counted(Odd(names, self.table, self.geometries, USED))

    def even(self, *names: str) -> Even:
        return self._counted(Even(names, self.table, self.geometries, USED))

    def magnification(self, *moved: int) -> Magnification:
        return self._counted(Magnification(self.table, self.geometries, USED, moved=moved))

    def _counted(self, fit):
        for posed in self.batches:
            fit.add_(posed, posed.products(USED))
        return fit


def plain(**values) -> OpticsGroup:
    """The optics as the file says."""
    return replace(OpticsGroup("o", 300.0, 2.7, 0.1, PIXEL, BOX), **values)


def study(
    make: Callable, count: int, true: Sequence[OpticsGroup], given: Sequence[OpticsGroup], seed: int = 0,
    moved: Callable[[Defocus], Defocus] = lambda one: one, noise: float = 1.0,
) -> Study:  # fmt: skip
    """count images of each group, made with ``true`` optics; the table has ``given`` ones, and ``moved`` defocus."""
    specimen = make(BOX, count=16, width=0.8)
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    n = count * len(true)
    rotations = torch.from_numpy(Rotation.random(n, rng=random).as_matrix())
    shifts = torch.from_numpy(random.normal(0, 1.0, (n, 2)))
    u = torch.from_numpy(random.uniform(6000, 16000, n))
    defocus = Defocus(u, u - torch.from_numpy(random.uniform(0, 400, n)),
                      torch.from_numpy(random.uniform(0, math.pi, n)), torch.zeros(n).double(),
                      torch.zeros(n).double(), torch.ones(n).double())
    index = np.repeat(np.arange(len(true)), count)
    zeros = np.zeros(n, np.int64)
    told = moved(defocus)
    table = ParticleTable({}, tuple(given), index, (Path("s"),), zeros, np.arange(n), told, rotations,
                          torch.zeros(n, 2).double(), np.arange(n) % 2, zeros, Path("p.star"))
    geometries = Geometries(BOX, PIXEL, LAST, torch.device("cpu"))
    reference = Reference(half_volume(specimen.map().float(), 2, LAST + 1), 2)
    batches = []
    for group, optics in enumerate(given):
        members = torch.from_numpy(np.flatnonzero(index == group))
        geometry = geometries.of(optics)
        kxy = geometry.band.kxy
        y = true_images(specimen, true[group], defocus[members], kxy, rotations[members], shifts[members])
        y = y + noise * math.sqrt(SIGMA2) * torch.randn(len(members), len(kxy), dtype=torch.complex128)
        if geometry.odd is not None:
            y = y * geometry.odd.conj()
        y = y.to(torch.complex64)
        images = BandImages(geometry, y, y, ctf(kxy, optics, told[members]), torch.full((len(kxy),), SIGMA2),
                            torch.ones(len(members)))
        batches.append(PosedImages(members, group, images, reference, reference, rotations[members], shifts[members],
                                   torch.ones(len(members)), told[members]))
    return Study(table, tuple(batches), geometries)


def value(solved: Solved, name: str):
    return next(one for one in solved.fitted if one.name == name)


def near(solved: Solved, name: str, change: Sequence[float], group: int = 0) -> bool:
    """Whether a change is the true one within four of its errors, and these are a tenth of it or less."""
    found, true = value(solved, name), torch.tensor(change, dtype=torch.float64)
    error = found.error[group]
    return bool(((found.change[group] - true).abs() < 4 * error).all() and error.max() < 0.15 * true.abs().max())


def test_tilt_and_trefoil_are_found_in_the_groups_that_have_them_and_nothing_changes_in_others(blobs):
    bent = plain(beam_tilt=BeamTilt(0.3, -0.2), odd_zernike=(0, 0, 6.0, 0, 0, -4.0), number=2)
    made = study(blobs, 80, [plain(), bent], [plain(), plain(number=2)])
    solved = made.odd("tilt", "trefoil").solved(made.table)
    assert near(solved, "tilt", (0.3, -0.2), 1)
    assert near(solved, "trefoil", (6.0, -4.0), 1)
    assert [one.applied.tolist() for one in solved.fitted] == [[False, True]] * 2
    assert solved.table.optics[0] == plain()
    assert torch.equal(solved.table.origins[:80], made.table.origins[:80])


def test_a_tilt_that_turns_phases_by_more_than_a_turn_is_found(blobs):
    made = study(blobs, 60, [plain(beam_tilt=BeamTilt(1.5, 2.5))], [plain()])
    phase = true_odd_phase(plain(beam_tilt=BeamTilt(1.5, 2.5)), made.batches[0].images.geometry.band.kxy)
    assert float(phase.abs().max()) > 2 * math.pi
    assert near(made.odd("tilt").solved(made.table), "tilt", (1.5, 2.5))


def test_coma_of_zernike_terms_becomes_tilt_and_the_phases_are_the_true_ones_but_for_a_shift(blobs):
    given = plain(odd_zernike=(0.0, 0.0, 0.0, -2.0, 3.0, 0.0))
    true = replace(given, beam_tilt=BeamTilt(0.4, 0.0))
    made = study(blobs, 60, [true], [given], noise=0.1)
    solved = made.odd("tilt").solved(made.table)
    optics = solved.table.optics[0]
    assert optics.odd_zernike[3:5] == (0.0, 0.0)  # what RELION 3.1 would ignore beside a tilt
    kxy = made.batches[0].images.geometry.band.kxy
    shift = 2 * math.pi * true_frequencies(given, kxy) @ (solved.table.origins[0] - made.table.origins[0])
    assert float((true_odd_phase(optics, kxy) + shift - true_odd_phase(true, kxy)).abs().max()) < 0.02


def test_a_spherical_aberration_far_off_is_found_with_the_defocus_that_made_up_for_it(blobs):
    true = plain(beam_tilt=BeamTilt(0.1, 0.0))
    given = plain(spherical_aberration=0.01, beam_tilt=BeamTilt(27.0, 0.0))
    made = study(blobs, 60, [true], [given],
                 moved=lambda one: replace(one, u=one.u + 300, v=one.v + 300))
    solved = made.even("cs").solved(made.table)
    assert solved.all_again
    assert near(solved, "cs", (2.69, -300.0))
    assert solved.table.optics[0].beam_tilt.x == pytest.approx(0.1, rel=0.05)  # the same coma
    assert torch.allclose(solved.table.defocus.u, made.table.defocus.u - 300, atol=30)


def test_tilt_is_told_in_the_spherical_aberration_that_another_fit_found(blobs):
    made = study(blobs, 60, [plain(beam_tilt=BeamTilt(0.3, -0.2))], [plain(spherical_aberration=2.0)])
    even, odd = made.even("cs"), made.odd("tilt")
    for order in ((even, odd), (odd, even)):
        table = made.table
        for fit in order:
            solved = fit.solved(table)
            table = solved.table
            if fit is odd and order[0] is even:
                assert near(solved, "tilt", (0.3, -0.2))
        assert table.optics[0].beam_tilt == pytest.approx((0.3, -0.2), abs=0.1)


def test_tetrafoil_and_amplitude_contrast_are_found_together(blobs):
    true = plain(even_zernike=(0, 0, 0, 0, 30.0, 0, 0, 0, -20.0), amplitude_contrast=0.2)
    made = study(blobs, 60, [true], [plain()])
    solved = made.even("tetrafoil", "amplitude-contrast").solved(made.table)
    assert near(solved, "tetrafoil", (30.0, -20.0))
    assert value(solved, "amplitude-contrast").change[0, 0] == pytest.approx(0.1, abs=0.03)
    assert solved.table.optics[0].even_zernike[4] == pytest.approx(30.0, abs=10.0)


def test_defocus_that_another_fit_changed_is_not_changed_twice(blobs):
    made = study(blobs, 40, [plain(spherical_aberration=2.0)], [plain()])
    fit = made.even("cs")
    defocus = made.table.defocus
    alone = fit.solved(made.table).table
    after = fit.solved(replace(made.table, defocus=replace(defocus, u=defocus.u + 40.0, v=defocus.v + 40.0))).table
    assert torch.allclose(after.defocus.u, alone.defocus.u, atol=1e-3)
    assert after.optics == alone.optics


def test_a_ctf_that_images_were_multiplied_by_cannot_be_changed(blobs):
    made = study(blobs, 1, [plain()], [plain(ctf_state=CtfState.PHASE_FLIPPED)])
    with pytest.raises(InputError, match=r"p\.star: images of optics group 'o' are phase-flipped .* cs cannot be"):
        made.even("cs")


def matrix(optics: OpticsGroup) -> Tensor:
    return torch.tensor(optics.magnification, dtype=torch.float64).view(2, 2)


def test_a_change_of_magnification_comes_before_the_old_matrix_and_two_passes_find_it(blobs):
    old = torch.tensor([[1.02, 0.05], [-0.03, 0.98]], dtype=torch.float64)
    true = torch.tensor([[1.008, 0.006], [0.006, 0.992]], dtype=torch.float64) @ old
    optics = [plain(magnification=MagnificationMatrix(*one.flatten().tolist())) for one in (true, old)]
    made = study(blobs, 80, optics[:1], optics[1:], noise=0.1)
    first = made.magnification().solved(made.table)
    assert first.again
    made = study(blobs, 80, optics[:1], first.table.optics, noise=0.1)
    second = made.magnification(0).solved(made.table)
    assert not second.again
    assert float((matrix(second.table.optics[0]) - true).abs().max()) < 2e-4  # the other order: 5e-4


def in_the_frame_of_images(one: Defocus, change: Tensor) -> Defocus:
    """Defocus values with which the CTF has, without a matrix, the values that it truly has with I + A."""
    mean, half = 0.5 * (one.u + one.v), 0.5 * (one.u - one.v)
    along, across = half * torch.cos(2 * one.angle), half * torch.sin(2 * one.angle)
    form = change.T @ torch.stack([mean + along, across, across, mean - along], dim=1).view(-1, 2, 2) @ change
    found = torch.linalg.eigh(form)
    long = found.eigenvectors[:, :, 1]
    return replace(one, u=found.eigenvalues[:, 1], v=found.eigenvalues[:, 0],
                   angle=torch.atan2(long[:, 1], long[:, 0]))


@pytest.mark.parametrize("frame", ["specimen", "image"])
def test_defocus_values_change_with_the_magnification_if_they_were_those_of_the_distorted_image(blobs, frame):
    true = plain(magnification=MagnificationMatrix(1.004, 0.002, 0.002, 0.996))
    made = study(blobs, 80, [true], [plain()], noise=0.3,
                 moved=lambda one: one if frame == "specimen" else in_the_frame_of_images(one, matrix(true)))
    table = made.magnification().solved(made.table).table
    right = study(blobs, 80, [true], [true]).table.defocus
    kxy = made.batches[0].images.geometry.band.kxy
    wrong = (true_ctf(table.optics[0], table.defocus, kxy) - true_ctf(true, right, kxy)).square().mean().sqrt()
    assert wrong < 0.1  # 0.3 with values of the other frame
    assert torch.equal(table.defocus.u, made.table.defocus.u) == (frame == "specimen")


def test_magnification_of_groups_is_relative_to_their_mean_and_the_turn_is_left_to_the_poses(blobs):
    turned = torch.tensor([[1.004, -0.01], [0.01, 1.004]], dtype=torch.float64)
    true = [plain(magnification=MagnificationMatrix(*turned.flatten().tolist())),
            plain(magnification=MagnificationMatrix(0.998, 0, 0, 0.998), number=2)]
    made = study(blobs, 80, true, [plain(), plain(number=2)], noise=0.2)
    found = made.magnification().solved(made.table)
    assert value(found, "magnification").change[:, 0].tolist() == pytest.approx([0.3, -0.3], abs=0.03)
    assert all(abs(one.magnification.xy - one.magnification.yx) < 1e-12 for one in found.table.optics)
    alone = study(blobs, 80, true[1:], [plain()], noise=0.2)
    assert alone.magnification().solved(alone.table).table.optics == (plain(),)


def test_errors_are_what_values_scatter_by_and_nothing_changes_where_nothing_is_wrong(blobs):
    squares, changed = [], 0
    for seed in range(8):
        made = study(blobs, 40, [plain()], [plain()], seed=seed)
        for fit in (made.odd("tilt", "trefoil"), made.even("cs", "tetrafoil"), made.magnification()):
            solved = fit.solved(made.table)
            squares += [(one.change / one.error).square()[one.change != 0] for one in solved.fitted]
            changed += sum(int(one.applied.sum()) for one in solved.fitted)
    assert 0.65 < float(torch.cat(squares).mean()) < 1.4  # of 72 independent numbers: 1 +- 0.17
    assert changed == 0


def test_sums_of_processes_add_up_to_those_of_one(blobs):
    made = study(blobs, 10, [plain(), plain(beam_tilt=BeamTilt(1.0, 0.0), number=2)], [plain(), plain(number=2)])
    for name in ("odd", "even", "magnification"):
        names = {"odd": ("tilt",), "even": ("cs",), "magnification": ()}[name]
        whole = getattr(made, name)(*names)
        parts = [getattr(replace(made, batches=(one,)), name)(*names) for one in made.batches]
        for mine, theirs in zip(parts[0].sums(), parts[1].sums(), strict=True):
            mine += theirs
        assert all(torch.allclose(a, b) for a, b in zip(parts[0].sums(), whole.sums(), strict=True))
