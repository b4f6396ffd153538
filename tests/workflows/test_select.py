"""``halfmap select`` as a user would run it, on a STAR file written by hand and read back by another library."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import starfile

HEAD = """
data_optics

loop_
_rlnOpticsGroup #1
_rlnVoltage #2
_rlnSphericalAberration #3
_rlnAmplitudeContrast #4
_rlnImagePixelSize #5
_rlnImageSize #6
_rlnImageDimensionality #7
1 300 2.7 0.1 2.5 48 2

data_particles

loop_
_rlnImageName #1
_rlnOpticsGroup #2
_rlnDefocusU #3
_rlnDefocusV #4
_rlnDefocusAngle #5
_rlnAngleRot #6
_rlnAngleTilt #7
_rlnAnglePsi #8
_rlnRandomSubset #9
_rlnMaxValueProbDistribution #10
_halfmapAngleSd #11
_halfmapShiftSd #12
_halfmapParticleProbability #13
_labNote #14
"""
# Half set, weight of the best pose, spreads in degrees and A, probability of a particle, a word of the user's.
ROWS = [
    ("1", 0.99, 1.5, 0.8, 1.0, "keep"), ("2", 0.90, 2.0, 1.0, 0.5, "edge"), ("1", 0.95, 2.5, 1.1, 0.499999, "below"),
    ("2", 0.80, 9.0, 5.0, 0.01, "noise"), ("1", 0.40, 3.0, 1.2, 0.97, "torn"), ("2", 0.97, 7.0, 1.3, 0.98, "loose"),
    ("1", 0.98, 2.2, 6.5, 0.99, "adrift"), ("2", 0.96, 1.9, 0.9, 0.999999, "good"),
]  # fmt: skip


@pytest.fixture
def star(tmp_path: Path) -> Path:
    path = tmp_path / "particles.star"
    rows = [f"{i:06d}@stack.mrcs 1 15000 14000 20 {10 * i} 90 10 {' '.join(map(str, row))}"
            for i, row in enumerate(ROWS, start=1)]
    path.write_text(HEAD + "\n".join(rows) + "\n")
    return path


def words(path: Path) -> list[str]:
    """The words of the user's in a STAR file; one row alone is still a table."""
    return list(starfile.read(path, always_dict=True)["particles"]["labNote"])


def test_images_that_probably_hold_no_particle_are_left_out(star, halfmap, tmp_path) -> None:
    done = halfmap(["select", star, "--out", tmp_path / "clean.star"])
    assert done.status == 0 and done.error == ""
    kept, others = (starfile.read(tmp_path / name) for name in ("clean.star", "clean_left_out.star"))
    before = starfile.read(star)
    # Exactly one half is enough; every column and every value of the rows that stay is what it was.
    expected = before["particles"][before["particles"]["halfmapParticleProbability"] >= 0.5].reset_index(drop=True)
    assert kept["particles"].equals(expected) and len(expected) == 6
    assert kept["optics"][list(before["optics"])].equals(before["optics"])
    assert list(others["particles"]["labNote"]) == ["below", "noise"]
    assert set(others["particles"]["halfmapLeftOut"]) == {"probability of a particle below 0.5"}
    for said in ("8 particles, half sets of 4 and 4", "2 of 8: probability of a particle below 0.5",
                 "6 of 8 remain, half sets of 3 and 3", "broken particle", "clean_left_out.star"):
        assert said in done.said


def test_every_criterion_leaves_out_its_own_and_the_reasons_add_up(star, halfmap, tmp_path) -> None:
    done = halfmap(["select", star, "--out", tmp_path / "clean.star", "--max-angle-sd", 5, "--max-shift-sd", 4,
                    "--min-max-posterior", 0.5, "--left-out", tmp_path / "bad.star"])
    assert done.status == 0, done.error
    assert words(tmp_path / "clean.star") == ["keep", "edge", "good"]
    others = starfile.read(tmp_path / "bad.star")["particles"]
    reasons = dict(zip(others["labNote"], (text.split(", ") for text in others["halfmapLeftOut"]), strict=True))
    low, turn, place, weight = ("probability of a particle below 0.5", "standard deviation of the orientation above 5 "
                                "deg", "standard deviation of the place above 4 A", "weight of the best pose below 0.5")
    assert reasons == {"below": [low], "noise": [low, turn, place], "torn": [weight], "loose": [turn],
                       "adrift": [place]}
    for count, reason in ((2, low), (2, turn), (2, place), (1, weight)):
        assert f"{count} of 8: {reason}" in done.said
    assert not (tmp_path / "clean_left_out.star").exists()


def test_a_run_is_named_by_its_folder_and_what_it_did_not_ask_is_said(star, halfmap, tmp_path) -> None:
    (tmp_path / "settings.toml").write_text("null_hypothesis = false\nclasses = 2\n")
    done = halfmap(["select", tmp_path, "--out", tmp_path / "clean.star", "--max-angle-sd", 8])
    assert done.status == 0, done.error
    assert "has not finished" in done.said and "did not ask whether images hold a particle" in done.said
    (tmp_path / "iterations.jsonl").write_text(json.dumps({"search": "final"}) + "\n")
    done = halfmap(["select", tmp_path, "--out", tmp_path / "again.star", "--min-probability", 0, "--max-angle-sd", 8])
    assert "has not finished" not in done.said and "did not ask" not in done.said and "broken" not in done.said
    assert words(tmp_path / "again.star") == [row[-1] for row in ROWS if row[-1] != "noise"]


def test_where_every_particle_passes_nothing_is_left_out(star, halfmap, tmp_path) -> None:
    done = halfmap(["select", star, "--out", tmp_path / "clean.star", "--min-probability", 0.001])
    assert done.status == 0 and "8 of 8 remain" in done.said and "Every particle passes" in done.said
    assert words(tmp_path / "clean.star") == words(star)
    assert not (tmp_path / "clean_left_out.star").exists()


def test_particles_of_one_half_set_only_are_pointed_out(star, halfmap, tmp_path) -> None:
    done = halfmap(["select", star, "--out", tmp_path / "clean.star", "--max-angle-sd", 1.7])
    assert done.status == 0 and "all that remain are of one half set" in done.said
    assert words(tmp_path / "clean.star") == ["keep"]


def without(label: str) -> Callable[[dict], None]:
    """Drop a column of the particles."""
    return lambda tables: tables["particles"].pop(label)


def test_a_run_of_before_has_no_probabilities_and_may_be_judged_by_its_poses(star, halfmap, edit_star,
                                                                             tmp_path) -> None:
    old = edit_star(star, tmp_path / "old.star", without("halfmapParticleProbability"))
    done = halfmap(["select", old, "--out", tmp_path / "clean.star"])
    assert done.status == 2 and done.error.count("\n") == 1
    assert "no column halfmapParticleProbability" in done.error and "--min-probability 0" in done.error
    assert not done.out.exists()
    done = halfmap(["select", old, "--out", tmp_path / "clean.star", "--min-probability", 0, "--max-shift-sd", 4])
    assert done.status == 0 and words(tmp_path / "clean_left_out.star") == ["noise", "adrift"]


@pytest.mark.parametrize("words,complaint", [
    (["STAR", "--min-probability", 1, "--max-angle-sd", 1.2], "no particle passes"),
    (["STAR", "--min-probability", 1.5], "--min-probability 1.5: must be at most 1"),
    (["STAR", "--min-probability", 0], "leaves nothing to select by"),
    (["STAR", "--max-angle-sd", 0], "must be more than 0 deg"), (["nowhere.star"], "no such file"),
    (["EMPTY"], "holds no particles.star"), (["STAR", "--left-out", "STAR"], "exists already"),
    (["STAR", "--left-out", "OUT"], "is the file of --out"), (["STAR", "--left-out", "a.mrc"], "must be named .star"),
    (["ODD"], "row 3: halfmapParticleProbability is 'nan'"),
])  # fmt: skip
def test_what_cannot_be_selected_is_named_and_nothing_is_written(words, complaint, star, halfmap, tmp_path) -> None:
    empty, odd, out = tmp_path / "empty", tmp_path / "odd.star", tmp_path / "clean.star"
    empty.mkdir()
    odd.write_text(star.read_text().replace("0.499999", "nan"))
    there, before = {"STAR": star, "EMPTY": empty, "ODD": odd, "OUT": out}, star.read_bytes()
    done = halfmap(["select", *(there.get(word, word) for word in words), "--out", out])
    assert done.status == 2 and complaint in done.error and done.error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"particles.star", "empty", "odd.star"}
    assert star.read_bytes() == before


@pytest.mark.parametrize("taken", ["clean.star", "clean_left_out.star"])
def test_nothing_is_written_over(taken, star, halfmap, tmp_path) -> None:
    (tmp_path / taken).write_text("mine")
    done = halfmap(["select", star, "--out", tmp_path / "clean.star"])
    assert done.status == 2 and "exists already" in done.error
    assert (tmp_path / taken).read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"particles.star", taken}
