"""Poses modulo the point group: a pose and its symmetry mates are one mode, kept where the last pose was."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from halfmap import kernels
from halfmap.expectation.posterior import Poses, merge_modes, nearest_copies
from halfmap.expectation.priors import ShiftPrior
from halfmap.expectation.search import GlobalSearch, Reference, Sampling, find_poses
from halfmap.fourier.band import Band
from halfmap.fourier.transform import half_volume
from halfmap.geometry.orientation_grid import angular_step, orientation_grid
from halfmap.geometry.shift_grid import shift_grid
from halfmap.geometry.symmetry import symmetry_group
from halfmap.imaging.forward import BandImages, ImagingGeometry
from halfmap.imaging.optics import OpticsGroup

BOX, PADDING, PIXEL, LIMIT = 32, 2, 2.0, 12
GROUPS = ["C2", "C3", "D2", "O"]
COUNT = 40


def symmetric(specimen, operators: Tensor):
    """The specimen with the copies that the point group makes of it."""
    count = len(operators)
    centre = torch.einsum("oij,aj->oai", operators, specimen.centre).reshape(-1, 3)
    return replace(specimen, centre=centre, width=specimen.width.repeat(count), weight=specimen.weight.repeat(count))


def degrees_modulo(first: Tensor, second: Tensor, operators: Tensor) -> np.ndarray:
    """Angle [..] between rotations modulo the group, by scipy."""
    shape = first.shape[:-2]
    one, other = (Rotation.from_matrix(r.reshape(-1, 3, 3).numpy()) for r in (first, second))
    mates = [(one * Rotation.from_matrix(g.numpy()) * other.inv()).magnitude() for g in operators]
    return np.degrees(np.min(mates, axis=0)).reshape(shape)


def sampling(operators: Tensor, modes: int = 8) -> Sampling:
    """A global search modulo ``operators``."""
    return Sampling("global", LIMIT, 7, math.radians(angular_step(2)), orientation_grid(2, operators),
                    shift_grid(4.0, 1.0), modes=modes, candidates=6 * modes, symmetry=operators)


@pytest.fixture
def planted(blobs, random_poses):
    """Images of a symmetric specimen without a CTF, under white noise."""

    def make(name: str, strength: float):
        specimen = symmetric(blobs(BOX, count=5, spread=0.16), symmetry_group(name))
        geometry = ImagingGeometry.build(OpticsGroup("o", 300.0, 2.7, 0.1, PIXEL, BOX), BOX, PIXEL, LIMIT)
        rotations, shifts = random_poses(COUNT, spread=1.0)
        clean = specimen.images(geometry.band.kxy, rotations, shifts)
        sigma2 = float((clean.abs() ** 2).sum(1).mean()) / strength**2
        noise = torch.randn(*clean.shape, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        y = (clean + torch.view_as_complex(noise) * math.sqrt(sigma2 / 2)).to(torch.complex64)
        images = BandImages(geometry, y, y, torch.ones(y.shape), torch.full((y.shape[1],), sigma2), torch.ones(COUNT))
        reference = Reference(half_volume(specimen.map().float(), PADDING, LIMIT), PADDING)
        return reference, images, rotations

    return make


@pytest.mark.parametrize("name", GROUPS)
def test_no_two_modes_of_an_image_are_equivalent_and_the_right_one_is_among_them(planted, name):
    reference, images, rotations = planted(name, strength=80.0)
    operators = symmetry_group(name)
    search = sampling(operators)
    found = find_poses(reference, images, search, ShiftPrior.from_spread(1.0),
                       grid=GlobalSearch(reference, search))
    assert float(np.median(degrees_modulo(found.rotations[:, 0], rotations, operators))) < 3
    there = torch.isfinite(found.gain)
    for c in range(found.gain.shape[1]):
        for d in range(c):
            both = there[:, c] & there[:, d]
            if bool(both.any()):
                apart = degrees_modulo(found.rotations[both, c], found.rotations[both, d], operators)
                assert apart.min() > math.degrees(search.merge_angle) - 1e-6


@pytest.mark.parametrize("name", ["C2", "D2"])
def test_the_weight_of_a_mode_is_what_its_equivalents_have_together(planted, name):
    """Against a search of all orientations that knows no symmetry: there the weight is divided among the mates."""
    reference, images, _ = planted(name, strength=12.0)
    operators, alone = symmetry_group(name), symmetry_group("C1")
    prior = ShiftPrior.from_spread(1.0)
    knowing, plain = sampling(operators), sampling(alone, 8 * len(operators))
    found = find_poses(reference, images, knowing, prior, grid=GlobalSearch(reference, knowing))
    every = find_poses(reference, images, plain, prior, grid=GlobalSearch(reference, plain))
    best = found.rotations[:, :1].expand_as(every.rotations)
    mates = torch.from_numpy(degrees_modulo(best, every.rotations, operators) < 2.5) & torch.isfinite(every.gain)
    # Where all mates of the best mode were found, their weights add up.
    whole = mates.sum(1) == len(operators)
    assert int(whole.sum()) > COUNT / 2
    together = (every.weight * mates).sum(1)[whole]
    assert float(every.weight[whole, 0].max()) < 1.2 / len(operators)
    # The two searches start from other grid points, so that a weak second mode may be missed by one of them.
    difference = (found.weight[whole, 0] - together).abs()
    assert float(difference.median()) < 0.02 and float(difference.quantile(0.9)) < 0.15


@pytest.mark.parametrize("name", GROUPS)
def test_the_copy_kept_is_the_one_nearest_to_the_last_pose_and_shows_the_same(name):
    operators = symmetry_group(name)
    random = np.random.default_rng(1)
    last = Rotation.random(30, rng=random)
    modes = Rotation.random(60, rng=random).as_matrix().reshape(30, 2, 3, 3)
    zero = torch.zeros(30, 2, dtype=torch.float64)
    poses = Poses(torch.from_numpy(modes), torch.zeros(30, 2, 2).double(), zero, torch.zeros(30, 2, 5, 5).double())
    kept = nearest_copies(poses, torch.from_numpy(last.as_matrix()), operators).rotations
    for b in range(30):
        for c in range(2):
            mates = [Rotation.from_matrix(modes[b, c] @ g.numpy()) for g in operators]
            nearest = min(((mate * last[b].inv()).magnitude(), i) for i, mate in enumerate(mates))[1]
            np.testing.assert_allclose(kept[b, c].numpy(), mates[nearest].as_matrix(), atol=1e-12)


def test_a_mate_shows_the_same_projection(blobs):
    operators = symmetry_group("D3")
    specimen, band = symmetric(blobs(BOX), operators), Band.to_shell(BOX, LIMIT)
    rotation = torch.from_numpy(Rotation.random(1, rng=5).as_matrix())
    slices = specimen.slices(band.kxy, rotation @ operators)
    torch.testing.assert_close(slices, slices[:1].expand_as(slices), rtol=1e-9, atol=1e-9)


def test_merging_drops_a_mate_of_a_better_mode_and_keeps_what_is_none():
    operators = symmetry_group("C4")
    first = Rotation.random(1, rng=2)
    mate = first * Rotation.from_euler("Z", 90, degrees=True) * Rotation.from_rotvec([0.01, 0, 0])
    other = first * Rotation.from_euler("Z", 45, degrees=True)
    rotations = torch.from_numpy(np.concatenate([r.as_matrix().reshape(1, 3, 3) for r in (first, mate, other)]))[None]
    gain = torch.tensor([[3.0, 2.5, 2.0]], dtype=torch.float64)
    poses = Poses(rotations, torch.zeros(1, 3, 2).double(), gain, torch.zeros(1, 3, 5, 5).double())
    assert merge_modes(poses, operators, math.radians(2), 14.0, 3).gain[0].tolist() == [3.0, 2.0, -math.inf]
    alone = symmetry_group("C1")
    assert merge_modes(poses, alone, math.radians(2), 14.0, 3).gain[0].tolist() == [3.0, 2.5, 2.0]


@pytest.mark.parametrize("name", ["C3", "O"])
def test_distinct_peaks_are_apart_modulo_the_group(name):
    operators = symmetry_group(name)
    random = np.random.default_rng(0)
    grid = Rotation.random(300, rng=random)
    score, order = torch.from_numpy(random.normal(0, 3.0, (4, 300))).float().sort(dim=1, descending=True)
    rotations = torch.from_numpy(grid.as_matrix())
    chosen = kernels.distinct_peaks(score, order, rotations, operators, math.radians(20), 12, 5.0)
    for b in range(4):
        kept: list[int] = []
        for i, rotation in enumerate(order[b].tolist()):
            others = rotations[order[b, kept]]
            apart = not kept or degrees_modulo(rotations[rotation].expand_as(others), others, operators).min() > 20
            if score[b, i] >= score[b, 0] - 5.0 and apart and len(kept) < 12:
                kept.append(i)
        assert [i for i in chosen[b].tolist() if i >= 0] == kept
