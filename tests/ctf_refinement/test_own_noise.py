"""Images whose map is made from them find their own noise in it; what they find is measured and taken off.

All images have the same pose here, so that the map's slice is their mean, written out, and so is what each finds of
itself.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures.ctf_products import FINEST, FIRST, LAST, OPTICS, a_defocus, a_table, seen, true_ctf, with_changes

from halfmap.ctf_refinement.defocus import ParticleDefocus
from halfmap.ctf_refinement.micrographs import MicrographFit
from halfmap.ctf_refinement.own_noise import OwnNoise
from halfmap.ctf_refinement.products import OwnNoiseShare, PosedImages, Range
from halfmap.expectation.search import Reference
from halfmap.imaging.ctf import ctf
from halfmap.imaging.forward import BandImages, Geometries, SignalLeft

COUNT, USED = 120, Range(FIRST, LAST)


def volume(slice_of: torch.Tensor, kxy: torch.Tensor) -> Reference:
    """A reference whose slice at kz = 0 has these values [k]."""
    m = LAST + 2
    grid = torch.zeros(2 * m + 1, 2 * m + 1, m + 1, dtype=torch.complex64)
    grid[m, m + kxy[:, 1], kxy[:, 0]] = slice_of.to(grid.dtype)
    edge = kxy[:, 0] == 0
    grid[m, m - kxy[edge, 1], 0] = slice_of[edge].conj().to(grid.dtype)
    return Reference(grid, 1)


def study(spread: float = 200.0, left: torch.Tensor | None = None):
    """Images of one model with wrong defoci, their maps by half set, and the share of own noise by shell.

    left [b]: share of their signal that masks leave; None: all of it.
    """
    old = a_defocus(COUNT)
    change = torch.from_numpy(np.random.default_rng(4).normal(0, spread, COUNT))
    left = torch.ones(COUNT).double() if left is None else left
    images = seen(with_changes(old, mean=change), snr=0.2)
    geometry = Geometries(OPTICS.box, OPTICS.pixel_size, LAST, torch.device("cpu")).of(OPTICS)
    kxy, rest = geometry.band.kxy, len(geometry.band) - len(images.kxy)
    model = images.model[0]
    noise = images.y - true_ctf(images.kxy, with_changes(old, mean=change)) * images.model
    y = left[:, None] * true_ctf(images.kxy, with_changes(old, mean=change)) * model + noise
    c, half = true_ctf(images.kxy, old), torch.arange(COUNT) % 2
    maps, match, weight = [], torch.zeros(LAST + 1).double(), torch.zeros(LAST + 1).double()
    shell = geometry.band.shell[rest:]
    for number in (0, 1):
        own = half == number
        total = (left[own, None] * c[own].square()).sum(dim=0) + 1.0
        maps.append(volume(torch.cat([torch.zeros(rest), (c[own] * y[own]).sum(dim=0) / total]), kxy))
        match.index_add_(0, shell, (c[own].square() * noise[own].abs().square() / total).sum(dim=0))
        weight.index_add_(0, shell, c[own].square().sum(dim=0))
    y = torch.cat([torch.zeros(COUNT, rest), y], dim=1).to(torch.complex64)
    batches = []
    for number in (0, 1):
        rows = torch.nonzero(half == number)[:, 0]
        whole = BandImages(geometry, y[rows], y[rows], ctf(kxy, OPTICS, old[rows]), torch.ones(len(kxy)),
                           torch.ones(len(rows)))
        shares = left[rows, None].expand(-1, geometry.band.limit + 1).float()
        whole = replace(whole, left=SignalLeft(shares, shares, shares))
        rotations, shifts = torch.eye(3).double().expand(len(rows), -1, -1), torch.zeros(len(rows), 2).double()
        batches.append(PosedImages(rows, 0, whole, maps[number], maps[1 - number], rotations, shifts,
                                   torch.ones(len(rows)), old[rows]))
    return old, change, batches, (match / weight.clamp_min(1e-9))[FIRST:]


def by_shell(share: OwnNoiseShare) -> torch.Tensor:
    """That of an image of which nothing is lost."""
    return share.of(torch.ones(1, LAST + 1).double(), torch.arange(LAST + 1))[0, FIRST:]


def test_the_share_of_own_noise_is_what_images_find_of_themselves_in_their_map():
    _, _, (first, second), truth = study()
    noise = OwnNoise(USED)
    for posed, other in ((first, second), (second, first)):
        noise.add_(posed, True)
        assert posed.exchanged().reference is other.reference
        noise.add_(posed.exchanged(), False)
    found = by_shell(noise.share())
    assert float(found.mean()) == pytest.approx(float(truth.mean()), rel=0.05)
    assert (found - truth).abs().mean() < 0.15 * truth.mean()


def test_changes_of_defocus_are_not_held_back_by_own_noise():
    old, change, (first, second), share = study()
    slopes = []
    for own in (None, OwnNoiseShare(torch.cat([torch.zeros(FIRST).double(), share])[None])):
        fit = ParticleDefocus(a_table(old), FINEST)
        for posed in (first, second):
            posed = replace(posed, own_noise=own)
            fit.add_(posed, posed.products(USED))
        fitted = fit.solved(a_table(old)).fitted[0]
        found = fitted.change[:, 0]
        slopes.append(float((found * change[fitted.number]).sum() / change.square().sum()))
    held, free = slopes
    assert held < 0.75 < 0.85 < free < 1.05


def test_images_of_which_masks_leave_less_signal_find_as_much_of_their_own_noise_and_no_other_b_factor():
    """Noise is where it was. Micrographs of 20 images keep all of their signal and a third of it in turns."""
    micrograph = torch.arange(COUNT) // 20
    left = torch.where(micrograph % 2 == 0, 1.0, 0.33).double()
    old, _, posed, _ = study(0.0, left)
    table = a_table(old)
    noise = OwnNoise(USED)
    for one in posed:
        noise.add_(one, True)
        noise.add_(one.exchanged(), False)
    found = noise.share()
    as_signal = OwnNoiseShare(torch.stack([torch.zeros(LAST + 1).double(), *found.powers.sum(dim=0, keepdim=True)]))
    applied, spread = [], []
    for share in (as_signal, found):
        fit = MicrographFit(table, FINEST, ["bfactor"])
        for one in posed:
            one = replace(one, own_noise=share)
            fit.add_(one, one.products(USED))
        fitted = fit.solved(table).fitted[0]
        applied.append(bool(fitted.applied.any()))
        spread.append(float(fitted.change[:, 1].std()))
    assert applied == [True, False]
    assert spread[1] < 0.2 * spread[0]


def test_own_noise_has_the_ctf_with_which_the_map_was_made_whatever_the_images_are_compared_with_now():
    """Maps are those of wrong defoci, and the images have the right ones by now: these hardly change."""
    old, change, posed, _ = study()
    now = with_changes(old, mean=change)
    slopes, sizes = [], []
    for known in (False, True):
        here = [replace(one, images=replace(one.images, ctf=ctf(one.images.geometry.band.kxy, OPTICS, now[one.index])),
                        defocus=now[one.index], made=one.images.ctf if known else None) for one in posed]
        noise = OwnNoise(USED)
        for one in here:
            noise.add_(one, True)
            noise.add_(one.exchanged(), False)
        fit = ParticleDefocus(a_table(now), FINEST)
        for one in here:
            one = replace(one, own_noise=noise.share())
            fit.add_(one, one.products(USED))
        fitted = fit.solved(a_table(now)).fitted[0]
        found = fitted.change[:, 0]
        slopes.append(float((found * change[fitted.number]).sum() / change.square().sum()))
        sizes.append(float(found.square().mean().sqrt()))
    assert slopes[0] < -0.4 and abs(slopes[1]) < 0.05  # away from the wrong ones, whose noise is not there to be taken
    assert sizes[1] < 0.25 * sizes[0]


def test_shells_whose_own_noise_drowns_do_not_say_how_it_depends_on_what_masks_leave() -> None:
    # Own noise is the same whatever is left of the signal, and falls by 1/e from shell to shell; chance does not fall.
    generator = torch.Generator().manual_seed(3)
    noise, used = OwnNoise(Range(1, 24)), 25
    match, weight, variance = noise.sums()
    left = torch.rand(400, generator=generator).double() * 0.7 + 0.3
    true = torch.exp(-torch.arange(used).double())
    each = true + 2e-3 * torch.randn(400, used, generator=generator, dtype=torch.float64)
    for power, into in enumerate(match):
        into += (left[:, None] ** power * each).sum(dim=0)
    for power, into in enumerate(weight):
        into += (left**power).sum()
    variance += 400 * 2e-3**2
    share = noise.share()
    for shell in range(1, 6):  # from 37 % to 0.7 %, each seen 67 times its error or better
        little, much = share.of(torch.tensor([[0.4] * used, [0.9] * used]).double(), torch.arange(used))[:, shell]
        assert float(little / much) == pytest.approx(1.0, abs=0.05), shell
