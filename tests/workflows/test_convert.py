"""``halfmap convert`` both ways, and refinement from a cryoSPARC file."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import starfile
from scipy.spatial.transform import Rotation

from halfmap.cli.program import main

Frames = dict[str, Any]


@pytest.fixture
def convert(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Convert, and return what was printed, or with `refused` the one line of the error."""
    def run(*words: object, refused: bool = False) -> str:
        status = main(["convert", *map(str, words)])
        said, error = capsys.readouterr()
        assert status == (2 if refused else 0), error
        assert re.fullmatch(r"halfmap: error: [^\n]+\n", error) if refused else error == ""
        return error if refused else said

    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with an image stack and a micrograph."""
    monkeypatch.chdir(tmp_path)
    for name, shape in (("stack.mrcs", (6, 16, 16)), ("mic.mrc", (1, 400, 600))):
        mrcfile.write(tmp_path / name, np.zeros(shape, np.float32), voxel_size=1.5)
    return tmp_path


def star_tables() -> Frames:
    """Six particles in two optics groups, in RELION's terms."""
    import pandas

    generator = np.random.default_rng(3)
    optics = pandas.DataFrame({
        "rlnOpticsGroup": [1, 2], "rlnOpticsGroupName": ["opticsGroup1", "opticsGroup2"], "rlnVoltage": [300.0, 200.0],
        "rlnSphericalAberration": [2.7, 1.4], "rlnAmplitudeContrast": [0.1, 0.07], "rlnImagePixelSize": [1.5, 1.62],
        "rlnImageSize": [16, 16], "rlnImageDimensionality": [2, 2], "rlnBeamTiltX": [0.2, -0.4],
        "rlnBeamTiltY": [-0.1, 0.3], "rlnOddZernike": ["[0,0,2.5,0,0,-1.5]", "[0,0,0,0,0,1]"],
        "rlnMagMat00": [1.01, 1.0], "rlnMagMat01": [0.002, 0.0], "rlnMagMat10": [-0.003, 0.0],
        "rlnMagMat11": [0.99, 1.0],
    })
    particles = pandas.DataFrame({
        "rlnImageName": [f"{i:06d}@stack.mrcs" for i in (3, 1, 2, 6, 5, 4)], "rlnMicrographName": "mic.mrc",
        "rlnCoordinateX": generator.uniform(0, 600, 6).round(2),
        "rlnCoordinateY": generator.uniform(0, 400, 6).round(2),
        "rlnOpticsGroup": [1, 2, 1, 2, 1, 2], "rlnAngleRot": [10.5, -170, 33, 0, 77.25, 180],
        "rlnAngleTilt": [90, 45.5, 0, 180, 12, 3], "rlnAnglePsi": [0, 15, -25.125, 35, 179, 5],
        "rlnOriginXAngst": generator.normal(0, 3, 6), "rlnOriginYAngst": generator.normal(0, 3, 6),
        "rlnDefocusU": generator.uniform(5e3, 3e4, 6), "rlnDefocusV": generator.uniform(5e3, 3e4, 6),
        "rlnDefocusAngle": generator.uniform(-180, 180, 6), "rlnPhaseShift": generator.uniform(0, 90, 6),
        "rlnCtfBfactor": generator.uniform(0, 50, 6), "rlnCtfScalefactor": [1, 0.5, 1, -1, 1, 1],
        "rlnRandomSubset": [1, 2, 2, 1, 1, 2], "rlnClassNumber": [1, 2, 1, 1, 3, 1],
    })
    return {"optics": optics, "particles": particles}


def rotations(particles: Any) -> Rotation:
    angles = particles[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(float)
    return Rotation.from_euler("ZYZ", angles, degrees=True)


def assert_same(found: Frames, expected: Frames) -> None:
    """Particles and optics agree to the precision of float32; angles modulo 360 degrees."""
    one, other = found["particles"], expected["particles"]
    assert (rotations(one) * rotations(other).inv()).magnitude().max() < 1e-6
    for label, step in (("rlnDefocusU", 2e-3), ("rlnDefocusV", 2e-3), ("rlnOriginXAngst", 1e-6),
                        ("rlnOriginYAngst", 1e-6), ("rlnPhaseShift", 1e-5), ("rlnCtfBfactor", 1e-5),
                        ("rlnCtfScalefactor", 1e-6),
                        ("rlnCoordinateX", 1e-4), ("rlnCoordinateY", 1e-4)):
        np.testing.assert_allclose(one[label], other[label], atol=step, err_msg=label)
    turned = np.radians(one["rlnDefocusAngle"] - other["rlnDefocusAngle"])
    assert np.abs(np.sin(turned / 2)).max() < 1e-6
    for label in ("rlnImageName", "rlnMicrographName", "rlnRandomSubset", "rlnClassNumber", "rlnOpticsGroup"):
        assert one[label].tolist() == other[label].tolist(), label
    one, other = found["optics"], expected["optics"]
    for label in other.columns.drop(["rlnOpticsGroupName", "rlnOddZernike"]):
        np.testing.assert_allclose(one[label].astype(float), other[label], rtol=1e-6, atol=1e-7, err_msg=label)
    for text, wanted in zip(one["rlnOddZernike"], other["rlnOddZernike"], strict=True):
        np.testing.assert_allclose([float(v) for v in text.strip("[]").split(",")],
                                   [float(v) for v in wanted.strip("[]").split(",")], atol=1e-5)


def test_a_star_file_survives_the_way_to_cryosparc_and_back(folder: Path, convert: Callable[..., str]) -> None:
    starfile.write(star_tables(), folder / "in.star")
    said = convert("in.star", "mid.cs")
    assert "6 particles, 2 optics groups, orientations, half sets of 3 and 3" in said and "dropped" not in said
    assert "1 images are dark" in said and "csparc2star.py" in said
    convert("mid.cs", "out.star")
    assert_same(starfile.read("out.star", always_dict=True), star_tables())
    convert("out.star", "again.cs")
    first, second = np.load("mid.cs"), np.load("again.cs")
    assert first.dtype == second.dtype and first["uid"].tolist() == second["uid"].tolist()
    assert len(set(first["uid"].tolist())) == 6


def test_a_written_dataset_holds_what_cryosparc_calls_by_these_names(folder: Path, convert: Callable[..., str]) -> None:
    tables = star_tables()
    starfile.write(tables, folder / "in.star")
    convert("in.star", "mid.cs")
    made, particles = np.load("mid.cs", allow_pickle=False), tables["particles"]
    pixel = np.array([1.5, 1.62])[particles["rlnOpticsGroup"] - 1]
    turned = Rotation.from_rotvec(made["alignments3D/pose"].astype(float)) * rotations(particles).inv()
    assert turned.magnitude().max() < 1e-6
    for axis, label in enumerate(("rlnOriginXAngst", "rlnOriginYAngst")):
        np.testing.assert_allclose(made["alignments3D/shift"][:, axis] * pixel, particles[label], atol=1e-5)
    assert made["alignments3D/split"].tolist() == [0, 1, 1, 0, 0, 1]
    assert made["blob/path"].tolist() == [b"stack.mrcs"] * 6 and made["blob/idx"].tolist() == [2, 0, 1, 5, 4, 3]
    assert made["blob/sign"].tolist() == [-1, -1, -1, 1, -1, -1] and (made["blob/shape"] == 16).all()
    assert made["ctf/exp_group_id"].tolist() == [0, 1, 0, 1, 0, 1]
    np.testing.assert_allclose(made["ctf/df_angle_rad"], np.radians(particles["rlnDefocusAngle"]), rtol=1e-6)
    np.testing.assert_allclose(made["ctf/tilt_A"][0], [0.2e-3 * 2.7e7, -0.1e-3 * 2.7e7], rtol=1e-6)
    np.testing.assert_allclose(made["ctf/anisomag"][0], [0.01, 0.002, -0.003, -0.01], rtol=1e-4)
    np.testing.assert_allclose(made["location/center_x_frac"] * 600, particles["rlnCoordinateX"], atol=1e-3)
    np.testing.assert_allclose((1 - made["location/center_y_frac"]) * 400, particles["rlnCoordinateY"], atol=1e-3)


def test_what_is_lost_is_said(folder: Path, convert: Callable[..., str]) -> None:
    tables = star_tables()
    tables["particles"]["rlnSomethingOfMine"] = 1
    tables["particles"]["rlnMicrographName"] = "gone.mrc"
    tables["optics"]["rlnOpticsGroupName"] = ["left", "right"]
    tables["optics"]["rlnMtfFileName"] = "k3.star"
    starfile.write(tables, folder / "in.star")
    said = convert("in.star", "mid.cs")
    for words in ("columns rlnSomethingOfMine", "columns rlnMtfFileName", "optics groups: left and right",
                  "coordinates on micrographs", "gone.mrc"):
        assert f"dropped: {words}" in said or words in said
    made = np.load("mid.cs")
    wide = np.zeros(6, [*made.dtype.descr, ("alignments3D/alpha", "<f4"), ("alignments2D/pose", "<f4"),
                        *((f"pick_stats/value{i}", "<f4") for i in range(9))])
    for name in made.dtype.names:
        wide[name] = made[name]
    with open("wide.cs", "wb") as stream:
        np.save(stream, wide)
    (folder / "stack.mrcs").unlink()
    said = convert("wide.cs", "out.star")
    for words in ("dropped: alignments3D (alpha)", "alignments2D (pose)", "pick_stats (9 fields)",
                  "1 of 1 image stacks were not found (first: stack.mrcs)"):
        assert words in said


def test_poses_of_several_maps_are_said_to_be_of_the_most_probable(folder: Path, convert: Callable[..., str]) -> None:
    starfile.write(star_tables(), folder / "in.star")
    convert("in.star", "one.cs")
    one = np.load("one.cs")
    names = [name for name in one.dtype.names if not name.startswith("alignments3D")]
    several = np.zeros(6, [*one[names].dtype.descr, ("alignments3D_multi/pose", "<f4", (2, 3)),
                           ("alignments3D_multi/class_posterior", "<f4", (2,)), ("alignments3D_multi/alpha", "<f4")])
    for name in names:
        several[name] = one[name]
    several["alignments3D_multi/class_posterior"] = 0.25, 0.75
    several["alignments3D_multi/pose"][:, 1] = one["alignments3D/pose"]
    with open("several.cs", "wb") as stream:
        np.save(stream, several)
    said = convert("several.cs", "out.star")
    assert "the most probable of 2 classes" in said and "dropped: alignments3D_multi (class_posterior, alpha)" in said
    found = starfile.read("out.star", always_dict=True)["particles"]
    assert (rotations(found) * rotations(star_tables()["particles"]).inv()).magnitude().max() < 1e-6
    assert set(found["rlnClassNumber"]) == {2}


def test_images_that_a_stack_does_not_hold_are_refused(folder: Path, convert: Callable[..., str]) -> None:
    tables = star_tables()
    tables["particles"].loc[2, "rlnImageName"] = "000007@stack.mrcs"
    starfile.write(tables, folder / "in.star")
    error = convert("in.star", "out.cs", refused=True)
    assert "row 3: image 7 is asked for and" in error and "stack.mrcs holds 6" in error
    assert not (folder / "out.cs").exists()
    (folder / "stack.mrcs").unlink()
    assert "were not found" in convert("in.star", "out.cs")


def test_wrong_names_and_options_are_one_line(folder: Path, convert: Callable[..., str]) -> None:
    starfile.write(star_tables(), folder / "in.star")
    convert("in.star", "mid.cs")

    def says(words: Sequence[object], *parts: str) -> None:
        before = sorted(os.listdir(folder))
        line = convert(*words, refused=True)
        assert all(part in line for part in parts), line
        assert sorted(os.listdir(folder)) == before

    says(["in.star"], "missing: out.star")
    says(["in.star", "out.star"], "out.star", "other kind")
    says(["mid.cs", "out.csg"], "named .star or .cs")
    says(["stack.mrcs", "out.star"], "neither a .star nor a .cs")
    says(["gone.cs", "out.star"], "gone.cs: no such file")
    says(["mid.cs", "in.star"], "is there already")
    says(["mid.cs", "nowhere/out.star"], "cannot be written")
    says(["in.star", "out.cs", "--passthrough", "mid.cs"], "--passthrough", "in.star")
    says(["in.star", "out.cs", "--strip-prefix", "x"], "--strip-prefix", "in.star")
    says(["mid.cs", "out.star", "--passthrough", "gone.cs"], "--passthrough", "no such file")
    says(["mid.cs", "out.star", "--data-dir", "gone"], "--data-dir", "no such folder")
    says(["mid.cs", "out.star", "--strip-prefix", "/disk"], "--strip-prefix /disk", "stack.mrcs")


def as_cryosparc(folder: Path, star: Path, stack: str) -> tuple[Path, Path]:
    """Particle and passthrough files of a cryoSPARC job for a simulated data set, made with numpy and scipy alone."""
    tables = starfile.read(star, always_dict=True)
    particles, optics = tables["particles"], tables["optics"].iloc[0]
    count, pixel = len(particles), float(optics["rlnImagePixelSize"])
    uid = np.random.default_rng(1).permutation(count).astype(np.uint64) + 10**15
    poses = np.zeros(count, [("uid", "<u8"), ("alignments3D/pose", "<f4", (3,)), ("alignments3D/shift", "<f4", (2,)),
                             ("alignments3D/psize_A", "<f4"), ("alignments3D/split", "<u4")])
    poses["uid"], poses["alignments3D/psize_A"] = uid, pixel / 2
    poses["alignments3D/pose"] = rotations(particles).as_rotvec()
    poses["alignments3D/shift"] = particles[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy(float) / (pixel / 2)
    poses["alignments3D/split"] = np.arange(count) % 2
    rest = np.zeros(count, [("uid", "<u8"), ("blob/path", "S40"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,)),
                            ("blob/psize_A", "<f4"), ("blob/sign", "<f4"), ("ctf/accel_kv", "<f4"),
                            ("ctf/cs_mm", "<f4"),
                            ("ctf/amp_contrast", "<f4"), ("ctf/df1_A", "<f4"), ("ctf/df2_A", "<f4"),
                            ("ctf/df_angle_rad", "<f4"), ("location/micrograph_path", "S60")])
    numbers = [int(name.split("@")[0]) - 1 for name in particles["rlnImageName"]]
    for name, value in {
        "uid": uid, "blob/path": stack.encode(), "blob/idx": numbers, "blob/shape": int(optics["rlnImageSize"]),
        "blob/psize_A": pixel, "blob/sign": 1, "ctf/accel_kv": optics["rlnVoltage"],
        "ctf/cs_mm": optics["rlnSphericalAberration"], "ctf/amp_contrast": optics["rlnAmplitudeContrast"],
        "ctf/df1_A": particles["rlnDefocusU"], "ctf/df2_A": particles["rlnDefocusV"],
        "ctf/df_angle_rad": np.radians(particles["rlnDefocusAngle"]),
        "location/micrograph_path": [name.encode() for name in particles["rlnMicrographName"]],
    }.items():
        rest[name] = value
    files = folder / "P1_J5_particles.cs", folder / "P1_J5_passthrough_particles.cs"
    for path, array in zip(files, (poses, rest[::-1]), strict=True):
        with open(path, "wb") as stream:
            np.save(stream, array)
    return files


def test_refinement_from_a_cryosparc_job_finds_the_poses(project, refine, edit_stack) -> None:
    job = project / "J5"
    job.mkdir()
    edit_stack(project / "particles.mrcs", lambda images: -images)  # cryoSPARC stores images with dark protein
    (project / "particles.mrcs").rename(project / "particles.mrc")
    _, through = as_cryosparc(job, project / "particles_truth.star", ">particles.mrcs")
    done = refine(project, "--passthrough", through, "--max-iterations", 3, "--search", "local",
                  star="J5/P1_J5_particles.cs")
    assert done.status == 0, done.error
    particles = starfile.read(done.out / "particles.star", always_dict=True)["particles"]
    assert particles["rlnRandomSubset"].tolist() == [1 + i % 2 for i in range(200)]
    truth = starfile.read(project / "particles_truth.star", always_dict=True)["particles"]
    errors = (rotations(particles) * rotations(truth).inv()).magnitude()
    assert math.degrees(np.median(errors)) < 5
    assert {os.path.realpath(name.split("@")[1]) for name in particles["rlnImageName"]} == {
        os.path.realpath(project / "particles.mrc")}


def test_refinement_without_the_passthrough_file_names_it(project, refine, tmp_path) -> None:
    as_cryosparc(project, project / "particles_truth.star", "particles.mrcs")
    done = refine(project, star="P1_J5_particles.cs", out=tmp_path / "run")
    assert done.status == 2 and "P1_J5_passthrough_particles.cs with --passthrough" in done.error
    done = refine(project, "--strip-prefix", "x", out=tmp_path / "run")
    assert done.status == 2 and "--strip-prefix" in done.error and not (tmp_path / "run").exists()
