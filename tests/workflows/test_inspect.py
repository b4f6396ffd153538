"""``halfmap inspect`` says what is in a file, finds its faults, and changes nothing."""

import contextlib
import io
import re
import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from halfmap.cli.program import main
from halfmap.particles.given_optics import GivenOptics
from halfmap.particles.star import read_star
from halfmap.workflows.inspect_images import look


@pytest.fixture
def inspect():
    """Run the command. Returns (status, standard output, error)."""

    def run(*words: object) -> tuple[int, str, str]:
        said, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(error):
            status = main(["inspect", *map(str, words), "--threads", "1"])
        return status, said.getvalue(), error.getvalue()

    return run


def contents(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_a_sound_particle_file(dataset, inspect, tmp_path):
    before = contents(dataset)
    status, said, error = inspect(dataset / "particles.star", "--out", tmp_path / "page")
    assert (status, error) == (0, "") and contents(dataset) == before
    for words in ("200 of 4 micrographs", "40 px of 4.2 A, 300 kV", "none; a refinement finds them", "none faulty",
                  "Thon rings", "sums in memory", "an estimate"):
        assert words in said, said
    page = (tmp_path / "page" / "inspect.html").read_text()
    assert page.count("data:image/png") == 2 and "Thon rings of" in page and "http://" not in page.split("<main>")[1]


def test_defocus_range_and_memory_are_those_of_the_file(dataset, inspect):
    _, said, _ = inspect(dataset / "particles.star", "--padding", 1, "--max-memory", 50)
    import starfile

    particles = starfile.read(dataset / "particles.star", always_dict=True)["particles"]
    mean = 0.5e-4 * (particles["rlnDefocusU"] + particles["rlnDefocusV"])
    assert f"{mean.min():.2f} to {mean.max():.2f} um" in said and "padding 1" in said


def test_every_missing_or_short_stack_is_listed_and_the_rest_is_looked_at(project, edit_star, inspect):
    shutil.copy(project / "particles.mrcs", project / "other.mrcs")
    with open(project / "other.mrcs", "r+b") as stream:
        stream.truncate(1024 + 40 * 40 * 4 * 3)

    def change(tables):
        names = tables["particles"]["rlnImageName"].tolist()
        names[100] = "101@gone.mrcs"
        names[150] = "151@other.mrcs"
        tables["particles"]["rlnImageName"] = names

    star = edit_star(project / "particles.star", project / "changed.star", change)
    status, said, _ = inspect(star)
    assert status == 1 and "would stop a refinement" in said
    assert "gone.mrcs" in said and "other.mrcs" in said and "198 looked at" in said


def test_a_wrong_defocus_shows_no_rings(project, edit_star, inspect):
    def change(tables):
        for label in ("rlnDefocusU", "rlnDefocusV"):
            tables["particles"][label] = 6e4 + np.arange(200) * 313 % 50000

    star = edit_star(project / "particles.star", project / "changed.star", change)
    status, said, _ = inspect(star)
    assert status == 0 and re.search(r"Thon rings \S+ +not seen", said) and "defocus, voltage or pixel size" in said


def test_optics_groups_that_are_alike_are_judged_together(project, edit_star, inspect):
    def change(tables):
        optics, particles = tables["optics"], tables["particles"]
        number = np.arange(200) % 50 + 1
        many = optics.loc[optics.index.repeat(50)].reset_index(drop=True)
        many["rlnOpticsGroup"], many["rlnOpticsGroupName"] = number[:50], [f"exposure{n}" for n in number[:50]]
        many["rlnBeamTiltX"], many["rlnBeamTiltY"] = 0.001 * number[:50], 0.0  # tilt moves phases, not rings
        many.loc[49, "rlnVoltage"] = 500.0
        tables["optics"], particles["rlnOpticsGroup"] = many, number

    star = edit_star(project / "particles.star", project / "changed.star", change)
    status, said, _ = inspect(star)
    rings = [line for line in said.splitlines() if line.startswith("Thon rings")]
    assert status == 0 and len(said.splitlines()) < 20, said
    assert re.fullmatch(r"Thon rings exposure1 and 48 more +to .* in 196 images", rings[0])
    assert len(rings) == 2 and re.fullmatch(r"Thon rings exposure50 +too few images to see them, in 4 images", rings[1])
    assert "no Thon rings" not in said and said.count("unusual; check the optics table") == 1
    assert re.search(r"optics exposure1 and 48 more +196 images of 40 px", said)


def test_images_in_which_protein_is_dark_are_said_and_can_be_inverted(project, edit_stack, inspect):
    star = project / "particles.star"
    assert look(read_star(star), 110.0, 64).contrast.bright
    edit_stack(project / "particles.mrcs", lambda images: -images)
    assert look(read_star(star, given=GivenOptics(inverted=True)), 110.0, 64).contrast.bright
    status, said, _ = inspect(star, "--images", 64)
    assert status == 0 and "give --invert-contrast" in said and re.search(r"contrast +protein is dark, in 64", said)


def test_images_that_are_masked_are_not_called_constant(tmp_path, inspect):
    y, x = np.indices((32, 32)) - 16
    disc = np.hypot(y, x) < 10
    images = np.random.default_rng(0).normal(size=(20, 32, 32)) * disc
    images[:2] = 3.25
    mrcfile.write(tmp_path / "masked.mrcs", images.astype(np.float32), voxel_size=2.0)
    status, said, _ = inspect(tmp_path / "masked.mrcs")
    assert status == 1 and "2 constant, 18 without noise around the particle" in said and "--diameter" in said
    status, said, _ = inspect(tmp_path / "masked.mrcs", "--diameter", 30)
    assert "none without noise" not in said and "18 without noise" not in said


@pytest.mark.parametrize(("label", "value", "said"), [
    ("rlnDefocusU", -1e4, "no underfocus"), ("rlnDefocusU", 1.5, "less than 0.1 um"),
    ("rlnDefocusU", 3e5, "more than 10 um"), ("rlnOriginXAngst", 90.0, "quarter of the box"),
])
def test_implausible_columns_are_said(label, value, said, project, edit_star, inspect):
    def change(tables):
        tables["particles"][label] = value
        if label == "rlnDefocusU":
            tables["particles"]["rlnDefocusV"] = value

    star = edit_star(project / "particles.star", project / "changed.star", change)
    status, text, _ = inspect(star)
    assert status == 0 and said in text


def test_stacks_that_say_another_pixel_size_are_said(project, inspect):
    with mrcfile.open(project / "particles.mrcs", "r+") as file:
        file.voxel_size = 3.7
    status, said, _ = inspect(project / "particles.star")
    assert status == 0 and "3.7 A a pixel" in said and "4.2 A, which is used" in said


def test_an_image_stack_alone(dataset, inspect):
    status, said, _ = inspect(dataset / "particles.mrcs")
    assert status == 0 and "40 x 40 x 200, float32" in said and "Thon" not in said and "200 looked at" in said


def test_a_map_with_an_odd_header(tmp_path, inspect):
    with mrcfile.new(tmp_path / "odd.mrc") as file:
        file.set_data(np.random.default_rng(1).normal(size=(12, 12, 12)).astype(np.float32))
        file.voxel_size = (2.0, 2.0, 2.5)
        file.header.nxstart = -6
    status, said, _ = inspect(tmp_path / "odd.mrc")
    assert status == 1 and "2 x 2 x 2.5 A" in said and "sides of a voxel differ" in said
    with mrcfile.open(tmp_path / "odd.mrc", "r+") as file:
        file.voxel_size = 2.0
    status, said, _ = inspect(tmp_path / "odd.mrc")
    assert status == 0 and "12 x 12 x 12" in said and "start indices (-6, 0, 0)" in said


def test_a_map_that_is_no_cube_or_of_no_space_group_is_a_map(tmp_path, inspect):
    values = np.random.default_rng(1).normal(size=(10, 12, 12)).astype(np.float32)
    mrcfile.write(tmp_path / "flat.mrc", values, voxel_size=2.0)
    status, said, _ = inspect(tmp_path / "flat.mrc")
    assert status == 0 and re.search(r"^map +12 x 12 x 10", said, re.M) and "pad it to one of 12 voxels" in said
    assert f"mean {values.mean():.4g}" in said.split("\nvalues")[1]
    with mrcfile.open(tmp_path / "flat.mrc", "r+") as file:
        file.header.ispg = 1065353216  # 1.0 as a float
    status, said, _ = inspect(tmp_path / "flat.mrc")
    assert status == 0 and re.search(r"^map +12 x 12 x 10", said, re.M) and "space group 1065353216 is none" in said


def test_a_truncated_map_and_a_constant_one(tmp_path, inspect):
    mrcfile.write(tmp_path / "flat.mrc", np.ones((8, 8, 8), np.float32), voxel_size=1.0)
    status, said, _ = inspect(tmp_path / "flat.mrc")
    assert status == 1 and "the same everywhere" in said
    with open(tmp_path / "flat.mrc", "r+b") as stream:
        stream.truncate(1500)
    status, said, _ = inspect(tmp_path / "flat.mrc")
    assert status == 1 and "truncated" in said


def test_a_run(brief, inspect):
    status, said, _ = inspect(brief.out)
    assert status == 0
    for words in ("finished", "reached", "iteration 3 (final)", "angles", "uniform"):
        assert words in said, said


def test_what_is_no_such_file_ends_in_a_line(tmp_path, inspect):
    (tmp_path / "text.mrc").write_text("no map")
    for path, said in ((tmp_path, "settings.toml"), (tmp_path / "gone.star", "no such file"),
                       (tmp_path / "text.mrc", "text.mrc")):
        status, _, error = inspect(path)
        assert status == 2 and said in error and re.fullmatch(r"halfmap: error: [^\n]+\n", error)
