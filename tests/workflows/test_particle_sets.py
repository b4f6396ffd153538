"""``halfmap orientations`` and ``halfmap audit`` as a user would run them, and the audit before a refinement."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch

from halfmap.maps.mrc import write_map

BOX, PIXEL = 40, 4.2


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the true poses, and with half maps that are noisy along z. Tests must not change it."""
    folder = tmp_path_factory.mktemp("orientations") / "run"
    folder.mkdir()
    shutil.copy(dataset / "particles_truth.star", folder / "particles.star")
    (folder / "settings.toml").write_text('symmetry = "C2"\ndiameter = 120.0\n')
    rng = np.random.default_rng(1)
    k = np.fft.fftfreq(BOX, 1 / BOX)
    radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    signal = np.fft.fftn(rng.normal(size=(BOX,) * 3)) * 5 * np.exp(-((radius / 10) ** 2))
    # Coarser shells hold too few coefficients to be divided into cones.
    louder = np.where((np.abs(k[:, None, None]) > 0.8 * radius) & (radius > 9), 10, 1)
    distance = np.sqrt((np.stack(np.meshgrid(*[np.arange(BOX) - BOX // 2] * 3)) ** 2).sum(0))
    for h in (1, 2):
        noise = np.fft.fftn(rng.normal(size=(BOX,) * 3)) * louder
        values = np.fft.fftshift(np.fft.ifftn(signal + noise).real).astype(np.float32)
        write_map(folder / f"half{h}_unfil.mrc", torch.from_numpy(values), PIXEL)
    write_map(folder / "mask.mrc", torch.from_numpy(np.clip(18 - distance, 0, 1).astype(np.float32)), PIXEL)
    return folder


def words_of(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", re.sub(r"<(style|script).*?</\1>", " ", text, flags=re.S)))


def test_a_run_gets_its_views_its_directions_and_a_page(run, halfmap, tmp_path) -> None:
    done = halfmap(["orientations", run, "--out", tmp_path / "views"])
    assert done.status == 0, done.error
    assert {path.name for path in done.out.iterdir()} == {"orientations.json", "directions.tsv", "orientations.html"}
    told = json.loads((done.out / "orientations.json").read_text())
    assert told["symmetry"] == "C2" and told["particles"] == 200 and told["equivalent_places"] == 2
    assert 0.6 < told["scf_star"] < 1.1 and told["cfar"] < 0.8 and told["mask"] == str(run / "mask.mrc")
    # Noise reaches 37 degrees from z, and spoils every cone of 20 degrees that touches it.
    assert min(told["worst_at_deg"][1], 180 - told["worst_at_deg"][1]) < 57
    assert any(said.startswith("too few views") for said in told["verdict"])
    assert len(told["fsc"]["worst"]) == BOX // 2 + 1
    rows = np.loadtxt(done.out / "directions.tsv", skiprows=1)
    assert rows.shape == (told["directions"], 5) and rows[:, 2].min() >= 2 * PIXEL - 0.01
    assert rows[:, 2].min() == pytest.approx(told["resolution_by_direction_A"]["finest"], abs=0.01)
    along, across = (rows[some, 2].mean() for some in (rows[:, 1] < 20, rows[:, 1] > 70))
    assert along > across + 1
    assert "cFAR" in done.said and "Finished" in done.said
    text = words_of(done.out / "orientations.html")
    assert f"halfmap orientations {run} --out {done.out}" in text and "SCF*" in text and "blurred along" in text
    assert "10.1016/j.pbiomolbio.2019.09.002" in text and "10.1038/nmeth.4347" in text


def test_a_star_file_alone_gives_the_views_and_half_maps_alone_the_directions(run, halfmap, tmp_path) -> None:
    star = tmp_path / "some.star"
    shutil.copy(run / "particles.star", star)
    views = halfmap(["orientations", star, "--symmetry", "d7", "--out", tmp_path / "views"])
    maps = halfmap(["orientations", "--half1", run / "half1_unfil.mrc", "--mask", run / "mask.mrc", "--cone", 30,
                    "--out", tmp_path / "maps"])
    for done, there, absent in ((views, "scf_star", "cfar"), (maps, "cfar", "scf_star")):
        assert done.status == 0, done.error
        told = json.loads((done.out / "orientations.json").read_text())
        assert there in told and absent not in told and (done.out / "orientations.html").exists()
    assert "No half maps were given" in words_of(views.out / "orientations.html")
    assert json.loads((views.out / "orientations.json").read_text())["equivalent_places"] == 14


@pytest.mark.parametrize("words,complaint", [
    (["RUN", "--cone", 90], "--cone 90: must be less than 90"),
    (["RUN", "--symmetry", "Q3"], "symmetry 'Q3' is unknown"),
    (["RUN/particles.star", "--half2", "RUN/half2_unfil.mrc"], "needs --half1"),
    (["RUN/particles.star", "--mask", "RUN/mask.mrc"], "is for half maps"),
    (["RUN/mask.mrc"], "not a text file"),
    (["nowhere"], "no such file"),
    ([], "give the folder of a run"),
])  # fmt: skip
def test_a_wrong_choice_ends_in_one_line_and_nothing_is_written(words, complaint, run, halfmap, tmp_path) -> None:
    said = [str(word).replace("RUN", str(run)) for word in words]
    done = halfmap(["orientations", *said, "--out", tmp_path / "out"])
    assert done.status == 2 and complaint in done.error and done.error.count("\n") == 1
    assert not done.out.exists()


def test_particles_without_angles_are_named(run, halfmap, edit_star, tmp_path) -> None:
    star = edit_star(run / "particles.star", tmp_path / "bare.star",
                     lambda tables: tables["particles"].pop("rlnAngleRot"))
    done = halfmap(["orientations", star, "--out", tmp_path / "out"])
    assert done.status == 2 and "no angles" in done.error and done.error.count("\n") == 1


def doubled(tables: dict) -> None:
    """Alternate half sets; repeat the first five particles in the other half set, and the next three in their own."""
    table = tables["particles"]
    table["rlnRandomSubset"] = 1 + np.arange(len(table)) % 2
    again = table.iloc[:8].copy()
    again.iloc[:5, again.columns.get_loc("rlnRandomSubset")] = 3 - again["rlnRandomSubset"].iloc[:5]
    tables["particles"] = type(table)(np.concatenate([table.to_numpy(), again.to_numpy()]), columns=table.columns)


def test_leaks_are_counted_and_a_clean_file_is_written(project, halfmap, edit_star, tmp_path) -> None:
    star = edit_star(project / "particles_truth.star", project / "doubled.star", doubled)
    clean = tmp_path / "clean.star"
    done = halfmap(["audit", star, "--out", clean])
    assert done.status == 1 and done.error == ""
    assert "LEAK" in done.said and "leak: 5 images in both half sets" in done.said
    assert "(rows 201, 202, 203, 204, 205)" in done.said and "duplicate: 3 images more than once" in done.said
    assert "200 particles; left out 8 rows" in done.said
    before, after = (starfile.read(path)["particles"] for path in (project / "particles_truth.star", clean))
    assert len(after) == 200
    np.testing.assert_allclose(after["rlnAngleRot"], before["rlnAngleRot"], atol=1e-5)
    np.testing.assert_array_equal(after["rlnRandomSubset"], 1 + np.arange(200) % 2)
    again = halfmap(["audit", clean, "--out", tmp_path / "twice.star"])
    assert again.status == 0 and "No particle is there twice" in again.said
    refused = halfmap(["audit", star, "--out", clean])
    assert refused.status == 2 and "exists already" in refused.error


def test_a_copy_of_the_stack_under_another_name_is_the_same_stack(project, halfmap, edit_star, tmp_path) -> None:
    shutil.copy(project / "particles.mrcs", project / "copy.mrcs")

    def rename(tables: dict) -> None:
        table = tables["particles"]
        table["rlnRandomSubset"] = 1 + np.arange(len(table)) % 2
        again = table.iloc[:4].copy()
        again["rlnImageName"] = [name.split("@")[0] + "@copy.mrcs" for name in again["rlnImageName"]]
        again["rlnRandomSubset"] = 3 - again["rlnRandomSubset"]
        tables["particles"] = type(table)(np.concatenate([table.to_numpy(), again.to_numpy()]), columns=table.columns)

    star = edit_star(project / "particles.star", project / "renamed.star", rename)
    done = halfmap(["audit", star, "--out", tmp_path / "clean.star"])
    assert done.status == 1 and "1 of 2 stacks hold the same images" in done.said
    assert "leak: 4 images in both half sets" in done.said


def test_neighbours_are_measured_in_angstrom_from_where_the_particle_was_found(project, halfmap, edit_star,
                                                                               tmp_path) -> None:
    def place(tables: dict) -> None:
        tables["optics"]["rlnMicrographOriginalPixelSize"] = 2.0
        table = tables["particles"]
        table["rlnRandomSubset"] = 1 + np.arange(len(table)) % 2
        table["rlnCoordinateX"], table["rlnCoordinateY"] = 1000.0 * np.arange(len(table)), 0.0
        table["rlnOriginXAngst"], table["rlnOriginYAngst"] = 0.0, 0.0
        table["rlnMicrographName"] = "one.mrc"
        table.loc[1, "rlnCoordinateX"] = 30.0  # 60 A from the first, 20 A after its origin is subtracted
        table.loc[1, "rlnOriginXAngst"] = 40.0

    star = edit_star(project / "particles_truth.star", project / "placed.star", place)
    found = [halfmap(["audit", star, "--distance", distance, "--out", tmp_path / f"{distance}.star"])
             for distance in (19, 21)]
    assert [done.status for done in found] == [0, 1]
    assert "leak: 1 pair of particles nearer than 21 A in different half sets" in found[1].said
    assert len(starfile.read(tmp_path / "21.star")["particles"]) == 199


@pytest.mark.parametrize("words,complaint", [
    (["nowhere.star"], "no such file"), (["STAR", "--distance", 0], "must be more than 0"),
    (["FOLDER"], "holds no particles.star"), (["STAR", "--data-dir", "nowhere"], "no such folder"),
])  # fmt: skip
def test_what_cannot_be_audited_is_named(words, complaint, dataset, halfmap, tmp_path) -> None:
    there = {"STAR": dataset / "particles.star", "FOLDER": dataset.parent}
    done = halfmap(["audit", *(there.get(word, word) for word in words), "--out", tmp_path / "clean.star"])
    assert done.status == 2 and complaint in done.error and done.error.count("\n") == 1
    assert not done.out.exists()


def test_a_refinement_warns_of_images_in_both_half_sets(project, refine, edit_star) -> None:
    edit_star(project / "particles.star", project / "doubled.star", doubled)
    done = refine(project, "--max-iterations", 1, star="doubled.star")
    assert done.status == 0, done.error
    warned = [found["text"] for found in done.records[-1]["findings"]]
    assert any("5 images in both half sets" in text for text in warned)
    assert "WARNING: leak: 5 images" in (done.out / "log.txt").read_text()
    assert "5 images in both half sets" in words_of(done.out / "report.html")


def copied(project: Path, count: int, change: Callable[[np.ndarray], np.ndarray] = lambda images: images) -> None:
    """Replace the last images of the stack by copies of the first, in other half sets if these alternate."""
    with mrcfile.open(project / "particles.mrcs", "r+", permissive=True) as file:
        file.data[-count - 1 : -1] = change(file.data[:count].copy())


def alternate(tables: dict) -> None:
    tables["particles"]["rlnRandomSubset"] = 1 + np.arange(len(tables["particles"])) % 2


def test_copies_elsewhere_in_the_stack_are_found_and_left_out(project, halfmap, edit_star, tmp_path) -> None:
    copied(project, 20, lambda images: (3 * images + 50).astype(np.float16).astype(np.float32))
    star = edit_star(project / "particles.star", project / "halves.star", alternate)
    done = halfmap(["audit", star, "--out", tmp_path / "clean.star"])
    assert done.status == 1 and "leak: 20 images in both half sets (the same pixels" in done.said
    assert "(rows 180, 181, 182, 183, 184 ..), the same as rows 1, 2, 3, 4, 5 .." in done.said
    assert len(starfile.read(tmp_path / "clean.star")["particles"]) == 180
    assert halfmap(["audit", tmp_path / "clean.star", "--data-dir", project]).status == 0
    assert halfmap(["audit", star, "--no-images"]).status == 0


def test_a_cryosparc_file_is_audited_too(project, halfmap, edit_star) -> None:
    copied(project, 20)
    star = edit_star(project / "particles.star", project / "halves.star", alternate)
    assert halfmap(["convert", star, project / "halves.cs"]).status == 0
    done = halfmap(["audit", project / "halves.cs"])
    assert done.status == 1 and "leak: 20 images in both half sets" in done.said


def test_half_sets_are_written_where_the_file_had_none(project, halfmap, edit_star, tmp_path) -> None:
    def tubes(tables: dict) -> None:
        tables["particles"]["rlnRandomSubset"] = 1
        tables["particles"]["rlnHelicalTubeID"] = 1 + np.arange(200) // 5

    star = edit_star(project / "particles.star", project / "tubes.star", tubes)
    done = halfmap(["audit", star, "--out", tmp_path / "clean.star"])
    assert done.status == 0 and "half sets of 100 and 100 were drawn" in done.said
    half = starfile.read(tmp_path / "clean.star")["particles"]["rlnRandomSubset"].to_numpy().reshape(40, 5)
    assert (half == half[:, :1]).all() and set(half[:, 0]) == {1, 2}


def test_a_stack_that_is_missing_leaves_names_to_compare(project, halfmap, edit_star, tmp_path) -> None:
    star = edit_star(project / "particles.star", project / "doubled.star", doubled)
    (project / "particles.mrcs").unlink()
    done = halfmap(["audit", star, "--out", tmp_path / "clean.star"])
    assert done.status == 1 and "208 images were compared by name only" in done.said
    assert "leak: 5 images in both half sets" in done.said


def test_a_refinement_says_which_images_are_copies_or_keeps_them_in_one_half_set(project, refine, edit_star) -> None:
    copied(project, 100)  # of image 100, which is overwritten by a copy of the first, one is left
    edit_star(project / "particles.star", project / "halves.star", alternate)
    given = refine(project, "--max-iterations", 1, star="halves.star")
    assert given.status == 0, given.error
    told = {found["name"]: found for found in given.records[-1]["findings"]}
    assert told["images in both half sets"]["text"].startswith("leak: 99 images in both half sets (the same pixels")
    assert told["images in both half sets"]["level"] == "warning"
    drawn = refine(project, "--max-iterations", 1, out=given.out.parent / "drawn")
    told = {found["name"]: found for found in drawn.records[-1]["findings"]}
    assert "images in both half sets" not in told and told["copies kept in one half set"]["level"] == "note"
    half = starfile.read(drawn.out / "particles.star")["particles"]["rlnRandomSubset"].to_numpy()
    np.testing.assert_array_equal(half[99:198], half[:99])


def test_a_refinement_draws_half_sets_that_do_not_leak(project, refine, edit_star) -> None:
    """Symmetry-expanded rows and filaments, in a file whose rlnRandomSubset is 1 everywhere."""
    def expand(tables: dict) -> None:
        table = tables["particles"].iloc[:120]
        tables["particles"] = type(table)(np.concatenate([table.to_numpy()] * 2), columns=table.columns)
        tables["particles"]["rlnRandomSubset"] = 1
        tables["particles"]["rlnHelicalTubeID"] = np.arange(240) % 120 // 4 + 1

    edit_star(project / "particles.star", project / "expanded.star", expand)
    done = refine(project, "--max-iterations", 1, star="expanded.star")
    assert done.status == 0, done.error
    told = {found["name"]: found["text"] for found in done.records[-1]["findings"]}
    said = told["half sets were drawn"]
    assert "rlnRandomSubset is 1 in all rows" in said and "filaments (rlnHelicalTubeID) stay whole" in said
    assert "240 rows name 120 different images" in said
    assert not {"images in both half sets", "filaments in both half sets"} & told.keys()
    half = starfile.read(done.out / "particles.star")["particles"]["rlnRandomSubset"].to_numpy().reshape(2, 30, 4)
    assert (half == half[:1, :, :1]).all() and half.mean() == 1.5


def test_unequal_half_sets_are_said_with_what_they_are_worth(project, halfmap, edit_star) -> None:
    def ten(tables: dict) -> None:
        tables["particles"]["rlnRandomSubset"] = [2] * 10 + [1] * 190

    done = halfmap(["inspect", edit_star(project / "particles.star", project / "ten.star", ten)])
    assert "190 and 10 particles; their FSC falls to 0.143 where that of two sets of 36 would" in done.said
    assert "half sets of 190 and 10 particles are small" in done.said
