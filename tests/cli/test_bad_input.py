"""A user's mistake is reported in one line with its place and its remedy, before anything is written."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile


def write_map(path: Path, values: np.ndarray, pixel: float = 4.2) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about NaN
        mrcfile.write(path, np.asarray(values, np.float32), voxel_size=pixel, overwrite=True)


def map_of(path: Path) -> np.ndarray:
    with mrcfile.open(path) as file:
        return np.array(file.data)


def contents(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


@pytest.fixture
def refused(project, refine, tmp_path):
    """Run a refinement that must fail without writing anything, and return the one line of its error."""

    def run(*options, **where) -> str:
        before = contents(project)
        done = refine(project, *options, out=where.pop("out", tmp_path / "run"), **where)
        assert done.status == 2, done.said
        assert re.fullmatch(r"halfmap: error: [^\n]+\n", done.error), done.error
        assert contents(project) == before and not (tmp_path / "run").exists()
        assert "Traceback" not in done.said and len(done.error) < 500
        return done.error

    return run


def says(line: str, *parts: str) -> None:
    for part in parts:
        assert part in line, line


# Image stacks


def test_a_missing_stack(project, refused):
    (project / "particles.mrcs").unlink()
    says(refused(), "particles.star: row 1", "particles.mrcs", "--data-dir")


def test_a_truncated_stack(project, refused):
    data = (project / "particles.mrcs").read_bytes()
    (project / "particles.mrcs").write_bytes(data[: 1024 + 150 * 40 * 40 * 4 + 1000])
    says(refused(), "row 151", "particles.mrcs is truncated", "200", "150", "copy the stack again")


def test_an_image_number_beyond_the_stack(project, edit_star, refused):
    def change(tables):
        tables["particles"].loc[7, "rlnImageName"] = "000999@particles.mrcs"

    edit_star(project / "particles.star", project / "particles.star", change)
    says(refused(), "row 8", "image 999", "holds 200", "rlnImageName")


def test_images_of_another_size(project, edit_star, refused):
    edit_star(project / "particles.star", project / "particles.star",
              lambda tables: tables["optics"].__setitem__("rlnImageSize", 48))
    says(refused(), "40 x 40", "48", "opticsGroup1", "rlnImageSize")


def test_a_stack_that_is_no_stack(project, refused):
    (project / "particles.mrcs").write_text("this is not an MRC file " * 100)
    says(refused(), "particles.mrcs")


@pytest.mark.parametrize("value", [np.nan, np.inf, 7.0])
def test_many_faulty_images(value, project, edit_stack, refused):
    def spoil(images):
        images[40:70] = value
        return images

    edit_stack(project / "particles.mrcs", spoil)
    says(refused(), "30 of 200 images", "41@particles.mrcs", "42@particles.mrcs", "stack")


def test_a_few_faulty_images_are_named_and_set_aside(project, edit_stack, refine):
    faulty = {3: np.nan, 50: 2.0, 101: np.inf}

    def spoil(images):
        images[3, 20, 20], images[50], images[101, 0, 0] = faulty.values()
        return images

    edit_stack(project / "particles.mrcs", spoil)
    done = refine(project)
    assert done.status == 0
    for number in (4, 51, 102):
        assert f"{number}@particles.mrcs" in done.said
    assert done.records[0]["particles"] == 197
    assert any("4@particles.mrcs" in found["text"] for found in done.records[0]["findings"])
    rejected, kept = (starfile.read(done.out / name, always_dict=True)["particles"]
                      for name in ("rejected.star", "particles.star"))
    numbers = [int(name.split("@")[0]) for name in rejected["rlnImageName"]]
    assert numbers == [4, 51, 102] and len(kept) == 197
    assert not set(rejected["rlnImageName"]) & set(kept["rlnImageName"])
    for name in ("half1_unfil.mrc", "half2_unfil.mrc", "map.mrc"):
        assert np.isfinite(done.map(name)).all()
    assert done.poses_against(project / "particles_truth.star")["median"] < 6


# Particle tables


@pytest.mark.parametrize(("column", "row", "value", "said"), [
    ("rlnOpticsGroup", 4, 3, ["row 5", "optics group 3", "data_optics"]),
    ("rlnDefocusU", 10, "wide", ["row 11", "rlnDefocusU", "wide"]),
    ("rlnDefocusU", 10, "nan", ["row 11", "rlnDefocusU"]),
    ("rlnImageName", 0, "particles.mrcs@1", ["row 1", "rlnImageName"]),
])
def test_a_row_that_makes_no_sense(column, row, value, said, project, edit_star, refused):
    def change(tables):
        tables["particles"] = tables["particles"].astype({column: object})
        tables["particles"].loc[row, column] = value

    edit_star(project / "particles.star", project / "particles.star", change)
    says(refused(), "particles.star", *said)


def test_a_half_set_column_with_a_third_set(project, edit_star, refused):
    def change(tables):
        tables["particles"]["rlnRandomSubset"] = [1, 2, 3, 1] * 50

    edit_star(project / "particles.star", project / "particles.star", change)
    says(refused(), "row 3", "rlnRandomSubset is 3")


def test_nearly_all_particles_in_one_half(project, edit_star, refused):
    def change(tables):
        tables["particles"]["rlnRandomSubset"] = [2] * 3 + [1] * 197

    edit_star(project / "particles.star", project / "particles.star", change)
    says(refused(), "particles.star", "half sets of 197 and 3", "--resplit")


def test_a_missing_column(project, edit_star, refused):
    edit_star(project / "particles.star", project / "particles.star",
              lambda tables: tables["particles"].pop("rlnDefocusV"))
    says(refused(), "particles.star", "rlnDefocusV")


def test_an_empty_or_foreign_particle_file(project, refused):
    for text in ("", "data_model\n\n_rlnResolution 3\n", "not a star file at all\n"):
        (project / "particles.star").write_text(text)
        says(refused(), "particles.star")


def test_too_few_particles(project, edit_star, refused):
    edit_star(project / "particles.star", project / "particles.star",
              lambda tables: tables.__setitem__("particles", tables["particles"].iloc[:10]))
    says(refused(), "particles.star", "too small")


def test_one_micrograph_cannot_be_split_by_micrograph(project, edit_star, refused):
    edit_star(project / "particles.star", project / "particles.star",
              lambda tables: tables["particles"].__setitem__("rlnMicrographName", "one.mrc"))
    says(refused("--split-by", "micrograph"), "too few micrographs", "by particle")


@pytest.mark.parametrize("search", ["local", "fixed"])
def test_a_search_from_angles_that_are_not_there(search, refused):
    says(refused("--search", search), "particles.star", "rlnAngleRot", "--search auto")


# Maps and masks


def test_another_pixel_size(project, refused):
    write_map(project / "other.mrc", map_of(project / "initial.mrc"), 4.21)
    says(refused(start="other.mrc"), "other.mrc", "4.2100", "4.2000", "resample")


def test_a_pixel_size_within_rounding_is_accepted(project, refine):
    write_map(project / "near.mrc", map_of(project / "initial.mrc"), 4.2 * 1.0005)
    assert refine(project, "--max-iterations", 1, start="near.mrc").status == 0


@pytest.mark.parametrize(("box", "verb"), [(48, "cropped"), (36, "padded")])
def test_a_map_of_another_box_is_fitted_and_it_is_said(box, verb, project, refine):
    values = map_of(project / "initial.mrc")
    pad = (box - 40) // 2
    # The smaller map is no cube: 36 x 36 x 34 voxels.
    write_map(project / "other.mrc", np.pad(values, pad) if pad > 0 else values[-pad + 1 : pad - 1, -pad:pad, -pad:pad])
    done = refine(project, "--max-iterations", 2, start="other.mrc")
    assert done.status == 0, done.error
    assert f"other.mrc: box {box} {verb} to the particles' 40" in done.said
    assert ("36 x 36 x 34 voxels are padded to a cube of 36" in done.said) == (box == 36)
    assert "other.mrc" in (done.out / "log.txt").read_text()
    assert done.poses_against(project / "particles_truth.star")["shift_median"] < 1
    assert done.agreement(project / "truth.mrc")[1:7].min() > 0.9


@pytest.mark.parametrize(("change", "said"), [
    (np.zeros_like, ["0 everywhere"]),
    (lambda v: np.full_like(v, 3.0), ["3 everywhere"]),
    (lambda v: np.where(v == v.max(), np.nan, v), ["NaN"]),
    (lambda v: -v, ["inverted", "bright"]),
    (lambda v: v[:3], ["40 x 40 x 3 voxels", "image stack"]),
    (lambda v: v[20], ["start.mrc"]),
])
def test_a_map_that_is_no_start(change, said, project, refused):
    write_map(project / "start.mrc", change(map_of(project / "initial.mrc")))
    says(refused(start="start.mrc"), "start.mrc", *said)


def test_a_map_that_is_missing_or_no_map(project, refused):
    says(refused(start="absent.mrc"), "--map", "absent.mrc: no such file")
    says(refused(start="particles.star"), "particles.star")


def test_a_map_of_inverted_contrast_beside_known_poses(project, refused):
    write_map(project / "dark.mrc", -map_of(project / "initial.mrc"))
    says(refused("--search", "local", star="particles_truth.star", start="dark.mrc"), "dark.mrc", "inverted")


@pytest.mark.parametrize(("values", "pixel", "said"), [
    (np.zeros((40, 40, 40)), 4.2, ["the mask is 0 everywhere"]),
    (np.ones((40, 40, 40)), 5.0, ["5.0000", "mask"]),
    (np.full((40, 40, 40), np.nan), 4.2, ["NaN"]),
    (-np.ones((40, 40, 40)), 4.2, ["-1", "1 inside"]),
    (255 * np.ones((40, 40, 40)), 4.2, ["255", "1 inside"]),
])
def test_a_mask_that_does_not_fit(values, pixel, said, project, refused):
    write_map(project / "mask.mrc", values, pixel)
    says(refused("--mask", project / "mask.mrc"), "mask.mrc", *said)


# Options and places


def test_a_diameter_larger_than_the_box(refused):
    says(refused(diameter=180.0), "--diameter 180", "40 px", "168 A")


def test_a_resolution_finer_than_the_start_is_asked_for(refused):
    says(refused("--max-resolution", 35), "--max-resolution 35", "30 A")


@pytest.mark.parametrize("name", ["D", "C0", "X4", "I9"])
def test_an_unknown_symmetry(name, refused):
    says(refused("--symmetry", name), name, "C1")


def test_a_run_is_not_written_over(project, refine, tmp_path):
    first = refine(project, "--max-iterations", 1, out=tmp_path / "once")
    before = contents(first.out)
    again = refine(project, "--max-iterations", 1, out=tmp_path / "once")
    assert again.status == 2 and "holds a run already" in again.error and contents(first.out) == before


def test_a_folder_below_a_file(project, refused):
    says(refused(out=project / "initial.mrc" / "run"), "--out", "initial.mrc is a file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(refused, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    says(refused(out=closed / "run"), "--out", "no permission")


def test_the_program_itself_ends_with_status_2_and_no_traceback(project):
    (project / "particles.mrcs").unlink()
    command = [sys.executable, "-m", "halfmap", "refine", "particles.star", "--map", "initial.mrc", "--diameter", "156",
               "--out", "run"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == "" and not (project / "run").exists()
    assert re.fullmatch(r"halfmap: error: particles.star[^\n]*\n|halfmap: error: /[^\n]+\n", done.stderr)
