"""A local search with a prior about given poses: where it comes from, what it keeps, and what is said of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from halfmap.expectation.posterior import Poses
from halfmap.maps.grid import Grid
from halfmap.refinement.input_prior import InputPrior, Moves, centre_of_mass, share_held, updated_prior

RESULTS = ("map.mrc", "half1_unfil.mrc", "half2_unfil.mrc", "particles.star")
LOCAL = ("--search", "local")


@pytest.fixture(scope="session")
def focused(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mask on the lower third of the molecule."""
    path = tmp_path_factory.mktemp("mask") / "focus.mrc"
    with mrcfile.open(dataset / "truth.mrc") as file:
        truth, pixel = np.array(file.data), float(file.voxel_size.x)
    inside = truth > 0.2 * truth.max()
    mass = np.cumsum(inside.sum(axis=(1, 2)))
    inside[int(np.searchsorted(mass, 0.35 * mass[-1])) :] = False
    mrcfile.write(path, np.clip(3 * gaussian_filter(inside.astype(np.float32), 1.5), 0, 1), voxel_size=pixel)
    return path


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "iterations.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def from_truth(focused: Path, dataset: Path, refine):
    """Search about true poses under that mask, with further options."""
    def run(*options: object):
        done = refine(dataset, *LOCAL, "--mask", focused, "--max-iterations", 4, *options, star="particles_truth.star")
        assert done.status == 0, done.error
        return done

    return run


def test_a_focused_search_keeps_true_poses_with_a_prior_which_is_said_and_loses_them_without(from_truth, dataset):
    default, given, flat = from_truth(), from_truth("--prior-rotation", 1.5), from_truth("--prior-rotation", 500)
    error = [done.poses_against(dataset / "particles_truth.star")["median"] for done in (default, given, flat)]
    assert error[0] < 6 and error[1] < 2.5 and error[2] > 2 * error[0], error
    assert [row["prior_rotation_deg"] for row in given.records] == [1.5] * 4

    log = (default.out / "log.txt").read_text()
    assert "focus.mrc: holds" in log and "deviation of 3 degrees and 3 A, from now on as the images say" in log
    assert "how far poses may go from those given" in default.records[-1]["crosses"]
    turns, shifts = ([row[key] for row in default.records] for key in ("prior_rotation_deg", "prior_shift_A"))
    # The rest of the particle, still in the images, pulls: more than the default allows.
    assert turns == [3.0] * 4 and shifts[0] == 3.0 and 2.0 < min(shifts) < 3.0 and max(shifts) == 3.0, shifts
    page = (given.out / "report.html").read_text()
    assert "kept near those of the particle file by normal priors (sd 1.50°)" in page
    assert any("turns go as far from the particle file" in found["text"] for found in default.records[-1]["findings"])
    assert "how far poses may go" not in given.records[-1]["crosses"]


def test_under_a_mask_that_holds_the_particle_there_is_no_prior(dataset, refine, tmp_path):
    whole = tmp_path / "whole.mrc"
    with mrcfile.open(dataset / "truth.mrc") as file:
        wide = gaussian_filter((np.array(file.data) > 0.1 * file.data.max()).astype(np.float32), 2.0) * 8
        mrcfile.write(whole, np.clip(wide, 0, 1), voxel_size=float(file.voxel_size.x))
    done = refine(dataset, *LOCAL, "--mask", whole, "--max-iterations", 1, star="particles_truth.star")
    assert done.status == 0 and "prior_rotation_deg" not in done.records[0], done.error
    assert "keep to those of the particle file" not in (done.out / "log.txt").read_text()


def test_a_focused_run_that_is_stopped_goes_on_to_the_same_bits(focused, dataset, refine, resume, dying, tmp_path):
    given = (*LOCAL, "--mask", focused, "--batch", 20, "--checkpoint-minutes", 1e-6)

    def run(out: Path):
        return refine(dataset, *given, star="particles_truth.star", out=out)

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(whole).status == 0
    assert dying.after(25, lambda: run(stopped))
    assert (stopped / "checkpoint" / "sums").is_file() and len(rows(stopped)) == 1
    assert resume(stopped).status == 0
    for name in RESULTS:
        assert (whole / name).read_bytes() == (stopped / name).read_bytes(), name
    assert [row["prior_shift_A"] for row in rows(whole)] == [row["prior_shift_A"] for row in rows(stopped)]


@pytest.mark.parametrize("options, said", [
    (("--prior-rotation", 3), "--prior-rotation 3: belongs to --search local, and this is auto"),
    (("--prior-shift", 2, "--search", "global"), "--prior-shift 2: belongs to --search local, and this is global"),
    (("--prior-limit", 2, "--search", "fixed"), "--prior-limit 2: belongs to --search local"),
    (("--prior-limit", 2, "--search", "local"), "give one of them"),
    (("--prior-rotation", 0, "--search", "local"), "--prior-rotation 0"),
])
def test_a_prior_that_could_not_act_is_refused(options, said, dataset, refine, tmp_path):
    done = refine(dataset, *options, star="particles_truth.star", out=tmp_path / "run")
    assert done.status == 2 and said in done.error and done.error.count("\n") == 1, done.error
    assert not (tmp_path / "run").exists()


def test_widths_that_are_estimated_become_those_that_poses_were_drawn_with():
    """Poses are measured with a known error, so their posterior under a normal prior is known too."""
    count, turn, shift, noise, pixel = 8000, 2.0, 1.5, (1.5, 1.2), 1.25  # degrees, A
    random = np.random.default_rng(0)
    first = Rotation.random(count, rng=random).as_matrix()
    fulcrum = np.array([10.0, -20.0, 30.0])
    seen_turn = random.normal(0, turn, (count, 3)) + random.normal(0, noise[0], (count, 3))
    seen_way = random.normal(0, shift, (count, 2)) + random.normal(0, noise[1], (count, 2))
    t0 = torch.from_numpy(random.normal(0, 3, (count, 2)))
    prior = InputPrior(3.0, 3.0, 3.0, torch.from_numpy(fulcrum), estimated=True)
    present = torch.ones(count, dtype=torch.float64)
    present[: count // 2] = 0.0  # images without a particle do not count, wherever their poses are
    seen_turn[: count // 2] *= 5
    for _ in range(25):
        about = prior.about(torch.from_numpy(first), t0, pixel)
        keep = prior.turn**2 / (prior.turn**2 + noise[0] ** 2), prior.shift**2 / (prior.shift**2 + noise[1] ** 2)
        rotations = Rotation.from_rotvec(np.radians(keep[0] * seen_turn)).as_matrix() @ first
        gone = ((rotations - first) @ fulcrum)[:, :2] / pixel
        shifts = t0 - torch.from_numpy(gone) + torch.from_numpy(keep[1] * seen_way) / pixel
        # The posterior precision of turns and of the fulcrum's way, as one of turns and shifts.
        place = rotations @ fulcrum / pixel
        slope = np.zeros((count, 5, 5))
        slope[:, range(5), range(5)] = 1
        slope[:, 3, 1], slope[:, 3, 2], slope[:, 4, 0], slope[:, 4, 2] = (
            place[:, 2], -place[:, 1], -place[:, 2], place[:, 0])
        variance = [keep[0] * math.radians(noise[0]) ** 2] * 3 + [keep[1] * (noise[1] / pixel) ** 2] * 2
        inner = np.diag(1 / np.array(variance))
        precision = torch.from_numpy(slope.transpose(0, 2, 1) @ inner @ slope)
        poses = Poses(torch.from_numpy(rotations)[:, None], shifts[:, None], torch.zeros(count, 1).double(),
                      precision[:, None])
        moves = Moves.zeros()
        moves.add_(poses, about, present, pixel)
        prior = updated_prior(prior, moves)
    assert prior.turn == pytest.approx(turn, rel=0.05) and prior.shift == pytest.approx(shift, rel=0.05)


def test_widths_do_not_leave_their_bounds_and_one_that_wants_to_is_said():
    prior, squares = InputPrior(3.0, 3.0, 3.0, torch.zeros(3), estimated=True), torch.tensor([[1.0], [1e-6], [1.0]])
    bounded = updated_prior(prior, Moves(*squares.double()))
    assert (bounded.turn, bounded.shift) == (3.0, 0.1)
    said = bounded.straining
    assert len(said) == 1 and "turns go as far" in said[0].text and "--prior-rotation" in said[0].text
    assert not InputPrior(3.0, 3.0, 3.0, torch.zeros(3)).straining


def test_widths_that_were_given_stay():
    prior = InputPrior(2.0, None, 3.0, torch.zeros(3))
    assert updated_prior(prior, Moves(*torch.full((3, 1), 9.0).double())) is prior
    about = prior.about(torch.eye(3).double()[None], torch.zeros(1, 2).double(), 1.5)
    assert about.shift == 0 and about.shift_limit == math.inf
    assert about.turn == pytest.approx(math.radians(2) ** -2)
    assert about.turn_limit == pytest.approx(math.radians(6))


def ball(at: tuple[float, ...], radius: float, box: int = 48) -> torch.Tensor:
    axis = torch.arange(box) - box // 2
    x, y, z = (axis - one for one in at)
    return (z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 <= radius**2).float()


def test_the_fulcrum_is_where_the_mask_is():
    found = centre_of_mass(ball((5, -3, 9), 6), Grid(48, 2.0))
    torch.testing.assert_close(found, torch.tensor([10.0, -6.0, 18.0], dtype=torch.float64))
    assert centre_of_mass(None, Grid(48, 2.0)).tolist() == [0, 0, 0]


def test_the_share_that_a_mask_holds_is_that_of_density_above_the_solvent_within_the_diameter():
    one, other, beyond = ball((0, 0, 9), 6), ball((0, 0, -9), 6), ball((21, 0, 0), 2)
    start = one + other + beyond + 0.02 * torch.randn(one.shape, generator=torch.Generator().manual_seed(0)) + 3
    mask = ball((0, 0, 9), 8.5)
    assert share_held(mask, start, 3.0, 114.0) == pytest.approx(0.5, abs=0.03)
    assert share_held(torch.ones_like(mask), start, 3.0, 114.0) == pytest.approx(1.0)
    assert share_held(mask, torch.zeros_like(mask), 3.0, 114.0) == 1.0  # nothing can be said
