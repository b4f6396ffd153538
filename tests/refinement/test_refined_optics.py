"""Optics that a refinement fits while it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fixtures.wrong_optics import TILT

from halfmap.particles.star import read_star
from halfmap.refinement.tally import Tally

FIT = ("--search", "local", "--ini-high", 8, "--ctf-refine", "defocus,tilt", "--ctf-refine-from", 10, "--regulariser",
       "uniform", "--max-iterations", 7, "--batch", 40, "--checkpoint-minutes", 1e-6)
FIRST = 5  # the iteration before which optics are fitted for the first time
BATCHES = 6  # of an iteration


@pytest.fixture(scope="module")
def words(imaged):
    """Particles with wrong optics, and the map, as words of halfmap refine."""
    return ["refine", imaged.folder / "particles.star", "--map", imaged.folder / "run" / "map.mrc", "--diameter", 120,
            "--threads", 1, *FIT, "--out"]


@pytest.fixture(scope="module")
def fitted(words, halfmap, tmp_path_factory):
    """The folder of a refinement that fitted its optics."""
    out = tmp_path_factory.mktemp("fitted") / "run"
    done = halfmap([*words, out])
    assert done.status == 0, done.error
    return out


def mean_defocus(star: Path) -> torch.Tensor:
    """Of every particle, in the order of the stack."""
    table = read_star(star)
    return (0.5 * (table.defocus.u + table.defocus.v))[torch.from_numpy(table.image_index).argsort()]


def records_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "iterations.jsonl").read_text().splitlines()]


def test_defocus_and_beam_tilt_come_near_the_truth_inside_a_refinement(imaged, fitted):
    before, after = ((mean_defocus(path) - imaged.truth).square().mean().sqrt()
                     for path in (imaged.folder / "particles.star", fitted / "particles.star"))
    assert after < 0.2 * before
    off = torch.tensor(read_star(fitted / "particles.star").optics[0].beam_tilt) - torch.tensor(TILT)
    assert off.norm() < torch.tensor(TILT).norm() / 3


def test_records_say_what_was_fitted_and_what_both_half_sets_know_by_it(fitted):
    records = records_of(fitted)
    assert [record["iteration"] for record in records if "optics" in record] == [FIRST, FIRST + 1]
    assert {one["name"] for one in records[FIRST - 1]["optics"]} == {"defocus", "tilt"}
    assert "beam tilt of each optics group" in records[-1]["crosses"]
    assert "defocus" not in records[-1]["crosses"]  # of a particle, by its own half set's map


def test_a_refinement_that_dies_while_optics_are_new_goes_on_to_the_same_bits(
    fitted, words, halfmap, resume, tmp_path, monkeypatch
):
    """It dies in the iteration that begins with the first fit, with two thirds of the images done."""
    add, done = Tally.add_, []

    def dying(*args):
        done.append(1)
        if len(done) == BATCHES * (FIRST - 1) + 5:
            raise KeyboardInterrupt
        add(*args)

    out = tmp_path / "run"
    monkeypatch.setattr(Tally, "add_", dying)
    halfmap([*words, out])
    monkeypatch.undo()
    assert len(records_of(out)) == FIRST - 1
    assert resume(out).status == 0
    for name in ("map.mrc", "half1_unfil.mrc", "half2_unfil.mrc", "particles.star"):
        assert (out / name).read_bytes() == (fitted / name).read_bytes(), name


def test_two_processes_find_the_optics_that_one_finds(fitted, words, tmp_path):
    out = tmp_path / "run"
    done = subprocess.run([sys.executable, "-m", "halfmap", *map(str, [*words, out, "--threads", 2, "--processes", 2])],
                          capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    one, two = fitted / "particles.star", out / "particles.star"
    assert (mean_defocus(one) - mean_defocus(two)).abs().max() < 2.0
    tilts = [torch.tensor(read_star(star).optics[0].beam_tilt) for star in (one, two)]
    assert (tilts[0] - tilts[1]).abs().max() < 2e-3
