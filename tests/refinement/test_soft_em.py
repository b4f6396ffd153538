"""An iteration of soft EM on analytic images of known poses, some of which hold nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.geometry.rotations import random_rotations
from halfmap.geometry.symmetry import symmetry_group
from halfmap.imaging.forward import ImagingGeometry
from halfmap.imaging.optics import OpticsGroup
from halfmap.maps.grid import Grid
from halfmap.maps.rigid import moved
from halfmap.refinement.soft_em import SoftMaps, SoftSearch, SoftTask, WhitenedImages, soft_step
from halfmap.refinement.starting_agreement import mirrored, of_both_hands
from halfmap.refinement.starting_schedule import searches_for_hand

BOX, PIXEL, LIMIT = 32, 4.0, 8
SEARCH = SoftSearch(LIMIT, 2, 0.3, 8.0, 8.0, 4.0)  # limit, order, tempering, reach, step, spread


@pytest.fixture
def task(blobs) -> Callable[..., SoftTask]:
    """count, empty -> two halves of count images each, of which the last ``empty`` hold noise only."""

    def make(count: int, empty: int = 0) -> SoftTask:
        molecule, generator = blobs(BOX, spread=0.14), torch.Generator().manual_seed(3)
        geometry = ImagingGeometry.build(OpticsGroup("one", 300.0, 2.7, 0.1, PIXEL, BOX), BOX, PIXEL, LIMIT)
        halves = []
        for half in range(2):
            signal = molecule.slices(geometry.band.kxy, random_rotations(count, generator))
            signal *= math.sqrt(60 / float(signal.abs().square().sum(dim=1).mean()))  # nats that an image holds
            signal[count - empty :] = 0
            noise = torch.view_as_complex(torch.randn(*signal.shape, 2, generator=generator)) / math.sqrt(2)
            y, index = signal.to(noise) + noise, torch.arange(count) + half * count
            halves.append([WhitenedImages(index, geometry, y, torch.ones_like(y.real), 1.0)])
        return SoftTask(tuple(halves), Grid(BOX, PIXEL), 100.0, torch.eye(3)[None])

    return make


def true_maps(task: SoftTask, blobs, turned: Tensor) -> SoftMaps:
    """The molecule in the grey scale of the images; in the second half it lies in another frame."""
    molecule = blobs(BOX, spread=0.14)
    geometry = task.halves[0][0].geometry
    power = molecule.slices(geometry.band.kxy, random_rotations(200)).abs().square().sum(dim=1).mean()
    v = (molecule.map() * math.sqrt(60 / float(power))).float() * task.sphere
    return SoftMaps((v, moved(v, turned, torch.zeros(3), PIXEL)), v, torch.ones(BOX // 2 + 1))


def test_halves_whose_maps_lie_in_different_frames_come_into_one(task, blobs):
    made = task(100)
    away = random_rotations(1, torch.Generator().manual_seed(5))[0]
    step = soft_step(made, [true_maps(made, blobs, away)], SEARCH, 0.9, torch.Generator().manual_seed(6))
    assert float(step.largest.curve[1:6].min()) > 0.8


def test_images_of_noise_are_told_while_likelihoods_are_tempered_and_enter_no_map(task, blobs):
    made = task(60, empty=24)
    step = soft_step(made, [true_maps(made, blobs, torch.eye(3))], SEARCH, 0.5, torch.Generator().manual_seed(6))
    holds = (torch.arange(60) < 36).repeat(2)
    present, evidence = step.poses.present, step.poses.evidence.double().numpy()
    assert float(present[holds].min()) > 0.9 and float(present[~holds].max()) < 0.1
    assert float(step.seen[0].sums.mass.sum()) == pytest.approx(36, abs=0.5)
    assert step.share == pytest.approx(0.6, abs=0.01)
    assert step.gain == pytest.approx(np.log(0.5 * np.exp(evidence) + 0.5).mean(), rel=1e-5)


def test_images_that_hold_nothing_do_not_lower_what_an_image_is_said_to_hold(task):
    assert task(60, empty=24).energy(LIMIT) == pytest.approx(60, rel=0.15)
    assert math.isfinite(task(20, empty=20).energy(LIMIT))


def octahedron(blobs, nats: float, count: int) -> tuple[SoftTask, Tensor]:
    """Two halves of count images of an octahedral molecule, each of which holds so many nats, and its map."""
    group, generator = symmetry_group("O"), torch.Generator().manual_seed(3)
    one = torch.tensor([[8.5, 4.0, 1.5], [6.5, 1.0, 6.0]], dtype=torch.float64)
    centre = torch.einsum("oab,cb->oca", group.double(), one).reshape(-1, 3)
    weight = torch.tensor([1.0, 0.6], dtype=torch.float64).repeat(len(group))
    molecule = type(blobs(BOX))(BOX, centre, torch.full_like(weight, 1.3), weight)
    geometry = ImagingGeometry.build(OpticsGroup("one", 300.0, 2.7, 0.1, PIXEL, BOX), BOX, PIXEL, LIMIT + 1)
    signals = [molecule.slices(geometry.band.kxy, random_rotations(count, generator)) for _ in range(2)]
    scale = math.sqrt(nats / float(torch.cat(signals).abs().square().sum(dim=1).mean()))
    halves = []
    for half, signal in enumerate(signals):
        noise = torch.view_as_complex(torch.randn(*signal.shape, 2, generator=generator)) / math.sqrt(2)
        y = (scale * signal).to(noise) + noise
        halves.append([WhitenedImages(torch.arange(count) + half * count, geometry, y, torch.ones_like(y.real), 1.0)])
    task = SoftTask(tuple(halves), Grid(BOX, PIXEL), 100.0, group)
    return task, (scale * molecule.map()).float() * task.sphere


def test_of_a_map_of_both_hands_one_is_left_when_likelihoods_are_sharpened(blobs):
    task, v = octahedron(blobs, 12.0, 200)
    both = 0.5 * (v + mirrored(v)) + 0.02 * (v - mirrored(v))  # a slight preference for one of them
    assert of_both_hands(both, LIMIT) and not of_both_hands(v, LIMIT)

    def apart(sharpened: bool) -> float:
        """How much more the map that it ends with has in common with the true hand than with the other."""
        generator, share = torch.Generator().manual_seed(6), 0.9
        maps = (SoftMaps((both, both), both, torch.ones(BOX // 2 + 1)),)
        for search in searches_for_hand(task.grid, task.diameter, BOX * PIXEL / (LIMIT + 1)):
            step = soft_step(task, maps, search if sharpened else replace(search, tempering=1.0), share, generator)
            maps, share = step.classes, step.share
        seen = torch.stack([one.flatten() for one in (step.largest.joined, v, mirrored(v))])
        alike = torch.corrcoef(seen)[0]
        return float(alike[1] - alike[2])

    assert apart(True) > 0.15 and apart(False) < 0.08  # of 0.29, by which the hands themselves differ
