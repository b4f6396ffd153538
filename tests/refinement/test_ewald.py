"""Refinements that correct for the curvature of the Ewald sphere, on images of atoms at their own defocus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import mrcfile
import pytest
import torch
from fixtures.curved_atoms import BOX, DIAMETER, PIXEL, density, images_of, seen, write_star

from halfmap.errors import InputError
from halfmap.geometry.rotations import random_rotations
from halfmap.imaging.curvature import CurvatureEvidence
from halfmap.imaging.optics import CtfState
from halfmap.maps.filters import lowpass
from halfmap.maps.grid import Grid
from halfmap.particles.source import ParticleSource
from halfmap.particles.star import read_star
from halfmap.refinement.checkpoints import RECORDS
from halfmap.refinement.curvature import curvature_findings, evidence, ewald_sign
from halfmap.refinement.imaging_model import ImagingModel
from halfmap.refinement.state import PoseTable, State
from halfmap.runtime import checkpoint
from halfmap.workflows.fixed_poses import read_fixed_run

IMAGES = 120


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A folder of noisy images with this sign of curvature (0: flat) at known poses, and of a coarse map; made once."""
    return cache(lambda sign: _written(tmp_path_factory.mktemp("beads"), sign))


def _written(folder: Path, sign: int) -> Path:
    generator = torch.Generator().manual_seed(5)
    rotations = random_rotations(IMAGES, generator)
    under = 60 + 140 * torch.rand(IMAGES, generator=generator).double()
    signal = images_of(seen(rotations, under, sign))
    noisy = signal / signal.std() + 2 * torch.randn(signal.shape, generator=generator)
    for name, values in (("x.mrcs", noisy), ("initial.mrc", lowpass(density(), PIXEL, 12.0))):
        with mrcfile.new(folder / name) as file:
            file.set_data(values.float().numpy())
            file.voxel_size = PIXEL
    write_star(folder, rotations, under)
    return folder


@pytest.mark.parametrize("sign", [1, -1, 0])
def test_the_images_say_which_sign_their_curvature_has_or_that_they_have_none(written, sign):
    table = read_star(written(sign) / "particles.star")
    poses = PoseTable.empty(torch.from_numpy(table.half), 1)
    poses.rotations[:, 0], poses.weight[:, 0] = table.rotations.float(), 1.0
    known = density().float()
    known = known / known.std() * 0.9
    noise = torch.full((BOX // 2 + 1,), 4.0 * BOX**2, dtype=torch.float64)
    state = State(0, (known, known), (noise,), torch.ones(1).double(), 1.0, poses, torch.ones_like(known))
    model = ImagingModel(BOX, PIXEL, torch.eye(3).double()[None], torch.zeros(IMAGES, dtype=torch.int64))
    found = evidence(state, ParticleSource(table, DIAMETER), model, BOX // 2 - 1)
    assert found.images == IMAGES
    assert found.sign == sign, found
    assert abs(found.errors) > 6 if sign else abs(found.errors) < 3


def test_the_final_pass_takes_the_sign_of_the_images_and_says_so(written, refine):
    done = refine(written(-1), "--search", "local", "--ini-high", 12, "--regulariser", "uniform", "--ewald",
                  "auto", "--max-iterations", 2, diameter=DIAMETER)
    assert done.status == 0, done.error
    assert [row["ewald"] for row in done.records] == [0] * (len(done.records) - 1) + [-1]
    (finding,) = (one for one in done.records[-1]["findings"] if one["name"] == "curvature of the Ewald sphere")
    assert "was corrected with the negative sign: the images have the negative sign" in finding["text"]
    assert read_fixed_run(done.out, None).model.ewald == -1  # what is reconstructed at its poses is so, too


@pytest.mark.parametrize(("used", "level", "said"), [
    (-1, "warning", "was corrected with the negative sign, and the images have the positive sign"),
    (1, "note", "was corrected with the positive sign: the images have the positive sign"),
    (0, "warning", "the map goes to 4.0 A; --ewald positive corrects for the curvature of the Ewald sphere"),
])
def test_a_run_says_where_its_curvature_is_not_that_of_the_images(written, used, level, said):
    table = read_star(written(1) / "particles.star")
    model = ImagingModel(BOX, PIXEL, torch.eye(3).double()[None], torch.zeros(IMAGES, dtype=torch.int64), ewald=used)
    empty = torch.zeros(0)
    state = State(0, (), (), empty, 1.0, PoseTable.empty(empty, 1), empty, curvature=CurvatureEvidence(90.0, 9.0, 120))
    (finding,) = curvature_findings(model, state, table, DIAMETER, 4.0)
    assert said in finding.text and finding.level == level
    assert "+10.0 standard errors" in finding.text


@pytest.mark.parametrize(("change", "said"), [
    ({"ctf_state": CtfState.PREMULTIPLIED}, "images of optics group o are multiplied by their CTF"),
    ({"pixel_size": 0.3}, "electrons of 1 kV are too slow for a pixel of 0.3 A"),
])
def test_images_whose_sides_of_the_ewald_sphere_cannot_be_parted_are_refused(written, change, said):
    table = read_star(written(1) / "particles.star")
    table = replace(table, optics=(replace(table.optics[0], **change),))
    with pytest.raises(InputError, match=f"--ewald positive: {said}"):
        ewald_sign("positive", table, Grid(BOX, change.get("pixel_size", PIXEL)))
    assert ewald_sign("off", table, Grid(BOX, PIXEL)) == 0


def test_a_checkpoint_keeps_what_the_images_said(tmp_path):
    known = CurvatureEvidence(12.5, 2.0, 300)
    with (tmp_path / "state").open("wb") as stream:
        checkpoint.dump(stream, known)
    assert checkpoint.load(tmp_path / "state", RECORDS)[0] == known
    assert (known.sign, replace(known, total=-12.5).sign, replace(known, total=5.0).sign) == (1, -1, 0)
