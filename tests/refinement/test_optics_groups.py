"""Optics groups that differ in nothing that a slice depends on cost, and give, what one group does."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.expectation import score
from halfmap.imaging.forward import Geometries, ImagingGeometry
from halfmap.imaging.optics import BeamTilt, MagnificationMatrix, OpticsGroup
from halfmap.maps.mrc import read_map
from halfmap.particles.source import ParticleSource
from halfmap.particles.star import read_star
from halfmap.particles.table import ParticleTable
from halfmap.refinement import em
from halfmap.refinement.grey_scale import fitted
from halfmap.refinement.imaging_model import ImagingModel
from halfmap.refinement.preflight import inspect_images
from halfmap.refinement.schedule import Schedule
from halfmap.refinement.state import PoseTable, State
from halfmap.refinement.tally import noise_sources, shared

BOX, PIXEL, DIAMETER = 40, 4.2, 156.0
C1 = torch.eye(3, dtype=torch.float64)[None]
SCHEDULE = Schedule(BOX, PIXEL, DIAMETER, C1, 30.0, 19)
PLAN = SCHEDULE.next([], 5.0)


def divided(table: ParticleTable, groups: int, tilt: float = 0.0) -> ParticleTable:
    """The particles in so many optics groups, one after the other in turn, each with its own beam tilt."""
    optics = tuple(replace(table.optics[0], name=f"o{g}", number=g + 1, beam_tilt=BeamTilt(tilt * g, 0.0))
                   for g in range(groups))
    return replace(table, optics=optics, optics_index=np.arange(len(table)) % groups)


@pytest.fixture
def table(dataset: Path) -> ParticleTable:
    return read_star(dataset / "particles.star")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rotations of every set of slices that is made."""
    counts: list[int] = []
    build = score.ReferenceSlices.build

    def counted(volume: Tensor, coords: Tensor, padding: int, rotations: Tensor) -> score.ReferenceSlices:
        counts.append(len(rotations))
        return build(volume, coords, padding, rotations)

    monkeypatch.setattr(score.ReferenceSlices, "build", staticmethod(counted))
    return counts


def state_of(table: ParticleTable, dataset: Path) -> State:
    """A start with the same flat noise for all groups."""
    start = read_map(dataset / "initial.mrc").data
    noise = torch.full((BOX // 2 + 1,), float(BOX**2), dtype=torch.float64)
    poses = PoseTable.empty(torch.arange(len(table)) % 2, 3)
    return State(0, (start, start), (noise,) * len(table.optics), torch.ones(1).double(), 21.0, poses, torch.ones(()))


def step(table: ParticleTable, dataset: Path) -> em.Expectation:
    """The expectation step of the first iteration."""
    assert PLAN is not None and PLAN.sampling.search == "global"
    model = ImagingModel(BOX, PIXEL, C1, torch.zeros(len(table), dtype=torch.int64))
    return em.expectation_step(state_of(table, dataset), ParticleSource(table, DIAMETER, 32), model, PLAN, 1)


def test_twelve_groups_give_the_bits_of_one_and_make_its_slices_once_a_half_set(table, dataset, made):
    one = step(divided(table, 1), dataset)
    alone = list(made)
    made.clear()
    twelve = step(divided(table, 12), dataset)
    assert made == alone and len(alone) == 2, "one set of slices for each half set"
    for name in ("rotations", "shifts", "weight", "gain"):
        assert torch.equal(getattr(one.poses, name), getattr(twelve.poses, name))
    for quarters in zip(one.statistics, twelve.statistics, strict=True):
        for first, second in zip(*quarters, strict=True):
            assert torch.equal(first.sums, second.sums)
    together = sum(twelve.tally.noise)
    torch.testing.assert_close(together, one.tally.noise[0], rtol=1e-9, atol=0)
    assert torch.equal(sum(twelve.tally.count), one.tally.count[0])
    assert all(float(count.sum()) > 0 for count in twelve.tally.count)


def test_beam_tilts_share_slices_and_pixel_sizes_do_not(table, dataset, made):
    step(divided(table, 12, tilt=0.2), dataset)
    assert len(made) == 2
    made.clear()
    mixed = divided(table, 12)
    other = tuple(replace(o, pixel_size=PIXEL * (1.0 + 0.01 * (o.number % 3 == 0))) for o in mixed.optics)
    step(replace(mixed, optics=other), dataset)
    assert len(made) == 4, "groups of two pixel sizes in turn, and each has its slices made once a half set"


def test_the_grey_scale_of_every_group_is_its_own_and_needs_one_set_of_slices(table, dataset, made):
    twelve = divided(table, 12)
    model = ImagingModel(BOX, PIXEL, C1, torch.zeros(len(table), dtype=torch.int64))
    fits = [fitted(state_of(t, dataset), ParticleSource(t, DIAMETER, 32), model, PLAN) for t in (table, twelve)]
    assert len(made) == 2
    assert float(fits[1].cross.min()) > 0 and float(fits[1].norm.min()) > 0
    torch.testing.assert_close(fits[1].cross.sum(), fits[0].cross[0], rtol=1e-9, atol=0)
    torch.testing.assert_close(fits[1].norm.sum(), fits[0].norm[0], rtol=1e-9, atol=0)


def test_a_batch_holds_images_of_one_frame_and_is_as_full_as_it_can_be(table):
    mixed = divided(table, 10)
    optics = tuple(replace(o, pixel_size=PIXEL + 0.1 * (o.number % 2)) for o in mixed.optics)
    source = ParticleSource(replace(mixed, optics=optics), DIAMETER, 32)
    batches = list(source.stream(torch.arange(len(table))))
    assert [len(batch) for batch in batches] == 2 * [32, 32, 32, 4]
    assert sorted(int(i) for batch in batches for i in batch.index) == list(range(len(table)))
    for batch in batches:
        assert torch.equal(batch.groups, torch.from_numpy(mixed.optics_index[batch.index]))
        assert len({optics[g].pixel_size for g in batch.groups}) == 1
        parts = list(batch.apart())
        assert [part.group for part in parts] == sorted(set(batch.groups.tolist()))
        assert sum(len(part) for part in parts) == len(batch)
        for part in parts:
            assert set(part.groups.tolist()) == {part.group}
            rows = [batch.index.tolist().index(i) for i in part.index.tolist()]
            assert rows == sorted(rows) and torch.equal(part.images, batch.images[rows])


def test_what_is_shared_by_geometries_is_what_each_of_them_would_be():
    plain = OpticsGroup("a", 300.0, 2.7, 0.1, 1.5, 32)
    tilted = replace(plain, name="b", voltage=200.0, beam_tilt=BeamTilt(0.4, -0.3))
    stretched = replace(plain, name="c", magnification=MagnificationMatrix(1.02, 0.0, 0.01, 0.99))
    geometries = Geometries(32, 1.5, 12, torch.device("cpu"))
    for optics in (plain, tilted, plain, stretched, tilted):
        found, alone = geometries.of(optics), ImagingGeometry.build(optics, 32, 1.5, 12)
        assert torch.equal(found.coords, alone.coords) and torch.equal(found.band.kxy, alone.band.kxy)
        assert found.optics == optics and (found.ratio, found.pixels) == (alone.ratio, alone.pixels)
        assert (found.odd is None) == (alone.odd is None)
        assert found.odd is None or torch.equal(found.odd, alone.odd)
    shared = geometries.of(replace(tilted, beam_tilt=BeamTilt(0.0, math.pi)))
    assert shared.coords is geometries.of(tilted).coords, "hundreds of groups hold it once"


def test_the_noise_of_groups_of_few_images_is_that_of_all_groups_of_equal_optics(table: ParticleTable) -> None:
    one = inspect_images(ParticleSource(table, DIAMETER)).power[0]
    many = divided(table, 40, tilt=0.1)  # five images each
    for power in inspect_images(ParticleSource(many, DIAMETER)).power:
        torch.testing.assert_close(power, one, rtol=1e-6, atol=0)
    large = divided(table, 2)  # a hundred images each: a spectrum of its own
    first = inspect_images(ParticleSource(table.select(np.arange(0, 200, 2)), DIAMETER)).power[0]
    torch.testing.assert_close(inspect_images(ParticleSource(large, DIAMETER)).power[0], first, rtol=1e-6, atol=0)


def test_groups_share_noise_with_their_own_kind_only_and_large_ones_keep_theirs() -> None:
    a = OpticsGroup("a", 300.0, 2.7, 0.1, 1.0, 64)
    b = replace(a, name="b", number=2, beam_tilt=BeamTilt(0.2, 0.1),
                magnification=MagnificationMatrix(1.01, 0.0, 0.0, 1.0))
    c, d = replace(a, pixel_size=1.1), replace(a, voltage=200.0)
    sources = noise_sources((a, b, c, d, b, d), (3, 400, 2, 1, 0, 900))
    assert sources == ((0, 1, 4), (1,), (2,), (3, 5), (0, 1, 4), (5,))
    sums = [torch.tensor([float(10**g), 2.0 * g]) for g in range(6)]
    assert [row.tolist() for row in shared(sums, sources)] == [
        [10011.0, 10.0], [10.0, 2.0], [100.0, 4.0], [101000.0, 16.0], [10011.0, 10.0], [100000.0, 10.0]]
