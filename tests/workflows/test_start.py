"""`halfmap start` on images whose poses are known, and on images that show nothing."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import mrcfile
import numpy as np
import pytest
import torch

from halfmap.commands import refine as refine_command
from halfmap.commands.done import Done
from halfmap.errors import InputError
from halfmap.geometry.rotations import random_rotations
from halfmap.maps.grid import Grid
from halfmap.maps.rigid import moved
from halfmap.particles.star import read_star, write_star
from halfmap.refinement.soft_em import ImagePoses
from halfmap.refinement.starting_agreement import HALF_TURN, FoundMaps, agreement, mirrored
from halfmap.refinement.starts import start_from_nothing
from halfmap.settings.commands import to_toml
from halfmap.settings.refine import RefineSettings
from halfmap.settings.start import StartSettings
from halfmap.validation.poses import common_frame
from halfmap.workflows import shared_starts
from halfmap.workflows.start_checkpoints import StartCheckpoints

FEW = ["--resolution", "22", "--threads", "1"]  # few shells, for speed


def test_a_map_is_found_from_images_alone_and_starts_agree_on_it(simulated, halfmap, tmp_path):
    folder = simulated(n=200, snr=0.3)
    found = halfmap(["start", folder / "particles.star", "--diameter", 156, "--starts", 2, "--out", tmp_path / "start",
                     "--symmetry", "C1", *FEW])
    assert found.status == 0, found.said + found.error
    assert "2 of 2 starts agree" in found.said
    poses, truth = read_star(found.out / "particles.star"), read_star(folder / "particles_truth.star")
    truth = truth.select(np.argsort(truth.image_index)[poses.image_index])
    shares = []
    for rotations in (poses.rotations, HALF_TURN @ poses.rotations):
        _, angles = common_frame(rotations, truth.rotations, torch.eye(3)[None])
        shares.append(float((angles < math.radians(20)).double().mean()))
    assert max(shares) > 0.7  # of either hand
    told = json.loads((found.out / "starts.json").read_text())
    assert told["succeeded"]
    page = (found.out / "report.html").read_text()
    assert "2 of 2" in page and "--map" in page
    with mrcfile.open(found.out / "map.mrc") as file, mrcfile.open(folder / "initial.mrc") as expected:
        assert file.data.shape == expected.data.shape and math.isclose(file.voxel_size.x, 4.2, rel_tol=1e-3)
        assert 0.5 < file.data.std() / expected.data.std() < 2  # the grey scale of the images


def test_images_of_noise_give_no_map_that_starts_agree_on_and_a_stopped_command_goes_on(
        simulated, halfmap, tmp_path, monkeypatch):
    folder = simulated(n=120, box=32, apix=5.2, snr=1e-6)
    words = ["start", folder / "particles.star", "--diameter", 120, "--starts", 2, "--out", tmp_path / "start",
             "--symmetry", "C1", "--resolution", 30, "--threads", 1]
    made, taken = [], []

    def stopped_in_the_second(task, number, *others):
        if number == 2:
            raise KeyboardInterrupt
        made.append(start_from_nothing(task, number, *others))
        return made[-1]

    with monkeypatch.context() as patched:
        patched.setattr(shared_starts, "start_from_nothing", stopped_in_the_second)
        interrupted = halfmap(words)
        assert interrupted.status == 130 and "the same command, given again, goes on" in interrupted.error
    other = halfmap([*words, "--images", 110])
    assert other.status == 2 and other.error.count("\n") == 1 and "images = 800, not 110" in other.error

    load = StartCheckpoints.load
    monkeypatch.setattr(StartCheckpoints, "load", lambda *which: taken.append(load(*which)) or taken[-1])
    found = halfmap(words)
    assert found.status == 1
    assert "do not trust it" in found.said and "do not trust it" in (found.out / "report.html").read_text()
    assert "start 1 of 2" in found.said and found.said.count("before the command was stopped") == 1
    before, after = made[0], taken[0]
    assert (after.number, after.gains, after.route) == (1, before.gains, before.route)
    assert torch.equal(before.last.largest.joined, after.last.largest.joined)
    assert torch.equal(before.last.poses.rotations, after.last.poses.rotations)
    for one, same in zip(before.last.seen, after.last.seen, strict=True):
        assert torch.equal(one.images.y, same.images.y) and torch.equal(one.sums.weight, same.sums.weight)
    assert not (found.out / "checkpoint").exists()
    again = halfmap(words)
    assert again.status == 2 and "holds a run already" in again.error


def test_too_few_images_are_refused_before_anything_is_written(project, halfmap, tmp_path):
    table = read_star(project / "particles.star")
    write_star(project / "few.star", table.select(np.arange(60)))
    found = halfmap(["start", project / "few.star", "--diameter", 156, "--out", tmp_path / "start"])
    assert found.status == 2 and "60 images are too few" in found.error and not found.out.exists()
    found = halfmap(["start", project / "particles.star", "--diameter", 156, "--classes", 5, "--out",
                     tmp_path / "start"])
    assert found.status == 2 and "--classes 5: 200 images" in found.error and not found.out.exists()


def test_classes_that_two_starts_number_otherwise_are_told_to_be_the_same(blobs):
    grid, count = Grid(32, 4.0), 60
    maps = tuple(blobs(32, seed=seed).map().float() for seed in (1, 2))
    rotations, ones = random_rotations(count, torch.Generator().manual_seed(2)), torch.ones(count)
    class_of = (torch.arange(count) < 40).long()  # 40 images are of the second map

    def start(order: list[int]) -> FoundMaps:
        number = torch.tensor(order).argsort()[class_of]
        poses = ImagePoses(torch.arange(count), rotations, torch.zeros(count, 2), number, ones, ones, ones)
        return FoundMaps(tuple(maps[place] for place in order), poses)

    found = agreement(start([0, 1]), start([1, 0]), grid, torch.eye(3)[None])
    assert found.share == 1.0 and found.resolution < 10
    mixed = start([1, 0])
    halves = replace(mixed, poses=replace(mixed.poses, class_of=torch.arange(count) % 2))
    share = agreement(start([0, 1]), halves, grid, torch.eye(3)[None]).share
    assert 0.4 < share < 0.6  # half of each class is elsewhere


@pytest.mark.parametrize("mirror", [False, True])
def test_a_map_in_another_frame_and_of_the_other_hand_is_recognised(blobs, mirror):
    grid, box = Grid(32, 4.0), 32
    first = blobs(box, spread=0.1).map().float()
    generator = torch.Generator().manual_seed(4)
    rotations, frame = random_rotations(80, generator), random_rotations(1, generator)[0]
    shift = torch.tensor([6.0, -3.0, 4.0], dtype=torch.float64)
    # x of the first is at frame x + shift of the other; its images are those of the first.
    other, turned = moved(first, frame, shift, 4.0), rotations @ frame.T
    shifts = -(turned @ shift)[:, :2]
    if mirror:
        other, turned = mirrored(other), HALF_TURN @ turned

    def poses(rotation: torch.Tensor, moves: torch.Tensor) -> ImagePoses:
        count, ones = len(rotation), torch.ones(len(rotation))
        return ImagePoses(torch.arange(count), rotation, moves, 0 * ones.long(), ones, ones, ones)

    mine, its = poses(rotations, torch.zeros(80, 2)), poses(turned, shifts)
    found = agreement(FoundMaps((first,), mine), FoundMaps((other,), its), grid, torch.eye(3)[None])
    assert found.share > 0.99 and found.mirrored == mirror
    assert float(found.curve[1:9].min()) > 0.97  # blurred by spline interpolation, twice


def test_refine_without_a_map_finds_one_first(project, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(refine_command, "start", lambda settings: asked.append(settings) or Done(settings.out))
    settings = RefineSettings(project / "particles.star", 156.0, tmp_path / "run", symmetry="C4", voltage=200.0, seed=3,
                              processes=20)
    with_map = refine_command._with_map(settings)
    assert with_map.map == tmp_path / "run" / "start" / "map.mrc"
    assert (asked[0].symmetry, asked[0].voltage, asked[0].seed) == ("C4", 200.0, 3)
    assert asked[0].processes == asked[0].starts == 8  # more have nothing to do
    assert asked[0].out == tmp_path / "run" / "start"
    monkeypatch.setattr(refine_command, "start", lambda settings: Done(settings.out, succeeded=False))
    with pytest.raises(InputError, match="no starting map was found"):
        refine_command._with_map(settings)


def test_images_that_hold_nothing_have_no_pose_in_common(blobs):
    grid, nothing = Grid(32, 4.0), torch.zeros(20)
    poses = ImagePoses(torch.arange(20), random_rotations(20), torch.zeros(20, 2), nothing.long(), nothing, nothing,
                       nothing)
    one = FoundMaps((blobs(32).map().float(),), poses)
    found = agreement(one, one, grid, torch.eye(3)[None])
    assert not found.agrees and found.resolution == 128.0


def test_starts_that_give_all_images_one_pose_do_not_agree(blobs):
    def start(seed: int) -> FoundMaps:
        one, ones = random_rotations(1, torch.Generator().manual_seed(seed)).expand(60, 3, 3), torch.ones(60)
        poses = ImagePoses(torch.arange(60), one, torch.zeros(60, 2), 0 * ones.long(), ones, ones, ones)
        return FoundMaps((blobs(32).map().float(),), poses)

    found = agreement(start(1), start(2), Grid(32, 4.0), torch.eye(3)[None])
    assert found.share == 0 and not found.agrees


def test_the_folder_of_a_start_is_not_taken_for_a_refinement(tmp_path, halfmap):
    settings = StartSettings(tmp_path / "particles.star", 156.0, tmp_path)
    (tmp_path / "settings.toml").write_text(to_toml(settings))
    (tmp_path / "particles.star").write_text("")
    (tmp_path / "map.mrc").write_text("")
    for words in (["report", tmp_path], ["inspect", tmp_path], ["classify", tmp_path, "--classes", 2, "--out", "none"]):
        done = halfmap(words)
        assert done.status == 2 and done.error.count("\n") == 1
        assert "holds starting maps, not a refinement" in done.error
