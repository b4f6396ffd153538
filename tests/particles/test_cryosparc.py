"""cryoSPARC datasets, made with numpy as versions 2 to 4 lay them out; poses are compared with scipy."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from halfmap.errors import InputError
from halfmap.particles.cryosparc import read_cryosparc
from halfmap.particles.cryosparc_file import load_dataset
from halfmap.particles.stack import check_stacks
from halfmap.particles.star import read_star, write_star

BLOB = [("blob/path", "S40"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,)), ("blob/psize_A", "<f4"),
        ("blob/sign", "<f4"), ("blob/import_sig", "<u8")]
CTF = [("ctf/type", "S9"), ("ctf/exp_group_id", "<u4"), ("ctf/accel_kv", "<f4"), ("ctf/cs_mm", "<f4"),
       ("ctf/amp_contrast", "<f4"), ("ctf/df1_A", "<f4"), ("ctf/df2_A", "<f4"), ("ctf/df_angle_rad", "<f4"),
       ("ctf/phase_shift_rad", "<f4"), ("ctf/scale", "<f4"), ("ctf/scale_const", "<f4"), ("ctf/shift_A", "<f4", (2,)),
       ("ctf/tilt_A", "<f4", (2,)), ("ctf/trefoil_A", "<f4", (2,)), ("ctf/tetra_A", "<f4", (4,)),
       ("ctf/anisomag", "<f4", (4,)), ("ctf/bfactor", "<f4")]
ALIGNMENTS = [("alignments3D/split", "<u4"), ("alignments3D/shift", "<f4", (2,)), ("alignments3D/pose", "<f4", (3,)),
              ("alignments3D/psize_A", "<f4"), ("alignments3D/error", "<f4"), ("alignments3D/alpha", "<f4"),
              ("alignments3D/class", "<u4")]
LOCATION = [("location/micrograph_uid", "<u8"), ("location/exp_group_id", "<u4"), ("location/micrograph_path", "S60"),
            ("location/micrograph_shape", "<u4", (2,)), ("location/center_x_frac", "<f4"),
            ("location/center_y_frac", "<f4")]
UID = [("uid", "<u8")]
COUNT = 7


def dataset(*slots: list[tuple], **values: Any) -> np.ndarray:
    """Seven particles of two stacks with the fields of these slots; `values` replace fields ("__" stands for "/")."""
    generator = np.random.default_rng(5)
    made = np.zeros(COUNT, [field for slot in slots for field in slot])
    usual = {
        "uid": generator.integers(2**60, 2**64, COUNT, dtype=np.uint64, endpoint=False),
        "blob/path": [f"J3/extract/{name}.mrc".encode() for name in "aabbaab"],
        "blob/idx": [0, 2, 1, 0, 1, 3, 2], "blob/shape": 12, "blob/psize_A": 1.1, "blob/sign": -1.0,
        "ctf/type": b"imported", "ctf/exp_group_id": [0, 0, 2, 2, 0, 0, 2], "ctf/accel_kv": 300, "ctf/cs_mm": 2.7,
        "ctf/amp_contrast": 0.1, "ctf/df1_A": 10000.5 + 100 * np.arange(COUNT),
        "ctf/df2_A": 9900.25 + 100 * np.arange(COUNT), "ctf/df_angle_rad": generator.uniform(-3, 3, COUNT),
        "ctf/scale": 1.0, "alignments3D/split": [0, 1, 0, 1, 0, 1, 0], "alignments3D/psize_A": 2.2,
        "alignments3D/shift": generator.normal(0, 2, (COUNT, 2)),
        "alignments3D/pose": generator.normal(0, 1.5, (COUNT, 3)), "alignments3D/class": 1,
        "location/micrograph_path": [f"J2/motion/m{name}.mrc".encode() for name in "1122132"],
        "location/micrograph_shape": [4092, 5760], "location/center_x_frac": generator.uniform(0, 1, COUNT),
        "location/center_y_frac": generator.uniform(0, 1, COUNT),
    } | {name.replace("__", "/"): value for name, value in values.items()}
    for name, value in usual.items():
        if name in made.dtype.names:
            made[name] = np.array(value) if np.ndim(value) else value
    return made


def save(path: Path, array: np.ndarray, version: tuple[int, int] | None = None) -> Path:
    with open(path, "wb") as stream:
        np.lib.format.write_array(stream, array, version, allow_pickle=True)
    return path


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a job in a project; the user stands elsewhere. J3/extract holds stacks of 4 and 3 images."""
    project = tmp_path / "CS-project"
    for folder in ("J3/extract", "J9", "../elsewhere"):
        (project / folder).mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, count in (("a", 4), ("b", 3)):
        with mrcfile.new(project / f"J3/extract/{name}.mrc") as mrc:
            mrc.set_data(generator.normal(size=(count, 12, 12)).astype(np.float32))
    monkeypatch.chdir(tmp_path / "elsewhere")
    return project / "J9"


def complete(**values: Any) -> np.ndarray:
    return dataset(UID, BLOB, CTF, ALIGNMENTS, LOCATION, **values)


def test_fields_mean_what_they_say(job: Path) -> None:
    array = complete()
    table = read_cryosparc(save(job / "p.cs", array))
    check_stacks(table)
    np.testing.assert_allclose(table.defocus.u, array["ctf/df1_A"])
    np.testing.assert_allclose(table.defocus.v, array["ctf/df2_A"])
    np.testing.assert_allclose(table.defocus.angle, array["ctf/df_angle_rad"])
    assert table.defocus.scale.tolist() == [1.0] * COUNT
    assert table.half.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert [path.name for path in table.stacks] == ["a.mrc", "b.mrc"]
    assert table.stack_index.tolist() == [0, 0, 1, 1, 0, 0, 1] and table.image_index.tolist() == [0, 2, 1, 0, 1, 3, 2]
    assert table.micrograph.tolist() == [0, 0, 1, 1, 0, 2, 1] and table.group_names[2] == "J2/motion/m3.mrc"
    assert [group.number for group in table.optics] == [1, 3] and table.optics_index.tolist() == [0, 0, 1, 1, 0, 0, 1]
    first = table.optics[0]
    assert (first.voltage, first.spherical_aberration, first.amplitude_contrast, first.pixel_size, first.box) == (
        300.0, 2.7, 0.1, 1.1, 12)  # no digit that a float32 does not hold
    assert table.columns["rlnClassNumber"].tolist() == [2] * COUNT
    assert table.columns["ucsfUid"].tolist() == array["uid"].tolist()


def test_poses_are_the_transpose_of_relions_and_shifts_count_pixels_of_the_alignment(job: Path) -> None:
    array = complete()
    table = read_cryosparc(save(job / "p.cs", array))
    turns = Rotation.from_rotvec(array["alignments3D/pose"].astype(float))
    np.testing.assert_allclose(table.rotations, turns.as_matrix().transpose(0, 2, 1), atol=1e-12)
    # Aligned at twice the images' pixel size.
    np.testing.assert_allclose(table.origins, 2 * 1.1 * array["alignments3D/shift"].astype(float), rtol=1e-6)
    write_star("out.star", table)
    again = read_star("out.star")
    euler = Rotation.from_euler("ZYZ", np.stack([np.array(again.columns[f"rlnAngle{name}"], float)
                                                 for name in ("Rot", "Tilt", "Psi")], 1), degrees=True)
    assert np.abs((euler * turns.inv()).magnitude()).max() < 1e-6


def test_coordinates_are_pixels_from_the_top_left(job: Path) -> None:
    array = complete(location__center_x_frac=[0.25] * COUNT, location__center_y_frac=[0.25] * COUNT)
    table = read_cryosparc(save(job / "p.cs", array))
    np.testing.assert_allclose(table.columns["rlnCoordinateX"], 0.25 * 5760)
    np.testing.assert_allclose(table.columns["rlnCoordinateY"], 0.75 * 4092)


def test_dark_particles_have_a_ctf_of_the_opposite_sign(job: Path) -> None:
    signs = np.array([1, -1, 1, -1, -1, 0, 1])
    table = read_cryosparc(save(job / "p.cs", complete(blob__sign=signs, ctf__scale=[1, 1, 2, 3, 0, 1, 1])))
    assert table.defocus.scale.tolist() == [-1, 1, -2, 3, 1, 1, -1]


@pytest.mark.parametrize("split", [0, 1])
def test_one_half_set_is_no_division(job: Path, split: int) -> None:
    assert read_cryosparc(save(job / "p.cs", complete(alignments3D__split=split))).half is None


def test_particles_without_alignments_have_no_poses(job: Path) -> None:
    table = read_cryosparc(save(job / "p.cs", dataset(UID, BLOB, CTF)))
    assert table.rotations is None and table.half is None and not table.origins.any()
    assert table.group_names == ("all",) and not table.micrograph.any()


def test_values_that_vary_within_an_exposure_group_make_groups_of_their_own(job: Path) -> None:
    tilt = np.zeros((COUNT, 2))
    tilt[[1, 4]] = 5000.0
    table = read_cryosparc(save(job / "p.cs", complete(ctf__tilt_A=tilt, blob__psize_A=[1.1] * 6 + [1.2])))
    groups = [table.optics[index] for index in table.optics_index]
    assert [group.pixel_size for group in groups] == [1.1] * 6 + [1.2]
    assert [group.beam_tilt.x > 0 for group in groups] == [False, True, False, False, True, False, False]
    assert len(table.optics) == 4 and len({group.number for group in table.optics}) == 4


# Files: versions of the format, passthrough files, groups


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0), None])
def test_all_versions_of_the_format_are_read(job: Path, version: tuple[int, int] | None) -> None:
    assert len(read_cryosparc(save(job / "p.cs", complete(), version))) == COUNT


def test_a_header_of_a_million_characters_is_read(job: Path) -> None:
    wide = [(f"results_{number:05d}/{'value' * 8}", "<f4") for number in range(12000)]
    path = save(job / "p.cs", dataset(UID, BLOB, CTF, wide), (2, 0))
    with open(path, "rb") as stream:
        assert stream.read(7)[6] == 2 and int.from_bytes(stream.read(5)[1:], "little") > 700_000
    assert len(read_cryosparc(path)) == COUNT


def test_passthrough_rows_are_found_by_uid_and_the_first_file_counts(job: Path) -> None:
    whole = complete()
    order = np.array([6, 2, 0, 4, 1, 5, 3])
    beside = dataset(UID, BLOB, CTF, LOCATION, [("alignments3D/psize_A", "<f4")], uid=whole["uid"])[order]
    beside["alignments3D/psize_A"] = 99.0
    more = np.concatenate([beside, beside[:1]])
    more["uid"][-1] = 7
    first = save(job / "p.cs", dataset(UID, ALIGNMENTS, uid=whole["uid"]))
    table = read_cryosparc(first, passthrough=save(job / "through.cs", more))
    expected = read_cryosparc(save(job / "whole.cs", whole))
    assert table.image_index.tolist() == expected.image_index.tolist()
    assert table.stack_index.tolist() == expected.stack_index.tolist()
    assert torch.equal(table.defocus.u, expected.defocus.u) and torch.equal(table.origins, expected.origins)


GROUP = """created: 2024-02-03 10:11:12.131415
group:
  description: All particles
  name: particles
  title: All particles
  type: particle
results:
  alignments3D:
    metafile: '>p.cs'
    num_items: 7
    type: particle.alignments3D
  blob:
    metafile: '>J9_passthrough_particles.cs'
    num_items: 7
    type: particle.blob
  ctf:
    metafile: J9/third.cs
    num_items: 7
    type: particle.ctf
version: v4.4.1
"""
FLOW = """created: 2019-02-03
group: {description: particles, name: particles, title: All particles, type: particle}
results:
  blob: {metafile: '>J9_passthrough_particles.cs', num_items: 7, type: particle.blob}
  alignments3D: {metafile: '>p.cs', num_items: 7, type: particle.alignments3D}
  ctf: {metafile: '>third.cs', num_items: 7, type: particle.ctf}
version: v2.15.0
"""


@pytest.mark.parametrize("text", [GROUP, FLOW])
def test_a_group_file_names_the_files_to_join(job: Path, text: str) -> None:
    save(job / "p.cs", dataset(UID, ALIGNMENTS))
    save(job / "J9_passthrough_particles.cs", dataset(UID, BLOB, LOCATION))
    save(job / "third.cs", dataset(UID, CTF))
    (job / "particles.csg").write_text(text)
    table = read_cryosparc(job / "particles.csg")
    assert len(table) == COUNT and table.rotations is not None and table.source == job / "p.cs"


def test_without_the_passthrough_file_it_is_named(job: Path) -> None:
    save(job / "J9_passthrough_particles.cs", dataset(UID, BLOB, CTF))
    path = save(job / "p.cs", dataset(UID, ALIGNMENTS))
    with pytest.raises(InputError, match=r"no field blob/path; .*J9_passthrough_particles\.cs with --passthrough"):
        read_cryosparc(path)


# Paths


def _found(job: Path, **options: Any) -> list[str]:
    return [os.path.relpath(path, job.parent.parent) for path in read_cryosparc(job / "p.cs", **options).stacks]


@pytest.mark.parametrize("written", ["J3/extract/a.mrc", ">J3/extract/a.mrc", "J3/extract/a.mrcs",
                                     ">J3/extract/000000123456789012345_a.mrc", "../CS-project/J3/extract/a.mrc"])
def test_paths_are_repaired(job: Path, written: str) -> None:
    save(job / "p.cs", complete(blob__path=[written.encode()] * COUNT))
    assert [os.path.normpath(path) for path in _found(job)] == ["CS-project/J3/extract/a.mrc"]


def test_data_dir_and_strip_prefix_lead_to_moved_stacks(job: Path, tmp_path: Path) -> None:
    (job.parent / "J3/extract").rename(tmp_path / "moved")
    save(job / "p.cs", complete())
    with pytest.raises(InputError, match=r"no image stack .*--data-dir"):
        check_stacks(read_cryosparc(job / "p.cs"))
    assert _found(job, data_dir=tmp_path / "moved", strip_prefix="J3/extract") == ["moved/a.mrc", "moved/b.mrc"]
    with pytest.raises(InputError, match=r"--strip-prefix /disk: no image path .* \(the first is J3/extract/a.mrc\)"):
        read_cryosparc(job / "p.cs", strip_prefix="/disk")


def test_a_written_star_file_leads_to_the_same_images(job: Path) -> None:
    table = read_cryosparc(save(job / "p.cs", complete(blob__path=b">J3/extract/a.mrcs", blob__idx=range(COUNT))))
    write_star("out.star", table)
    again = read_star("out.star")
    assert [os.path.realpath(path) for path in again.stacks] == [str(job.parent / "J3/extract/a.mrc")]
    assert again.image_index.tolist() == list(range(COUNT)) and again.half.tolist() == table.half.tolist()
    assert again.optics == table.optics


# Faults


def _error(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        read_cryosparc(path, **options)
    message = str(error.value)
    assert "\n" not in message and len(message) < 600
    return message


@pytest.mark.parametrize(("name", "value", "words"), [
    ("ctf__df1_A", math.nan, r"p\.cs: row 3: ctf/df1_A is nan"),
    ("alignments3D__pose", math.inf, "row 3: alignments3D/pose"),
    ("alignments3D__split", 2, "row 3: alignments3D/split is 2"),
    ("blob__idx", 2**32 - 1, "row 3: blob/idx is out of range"),
    ("blob__path", b">", "row 3: blob/path is empty"),
    ("blob__path", b"a\nb.mrc", "row 3: blob/path"),
    ("blob__shape", 0, "row 3: optics group.*box of 0"),
    ("blob__psize_A", 0, "row 3: optics group.*pixel size"),
    ("ctf__accel_kv", 3e5, "row 3: optics group.*kV"),
    ("ctf__cs_mm", -40, "row 3: optics group.*spherical aberration"),
    ("ctf__anisomag", 1.0, "row 3: ctf/anisomag.*less the identity"),
])
def test_a_bad_value_is_named_with_its_row(job: Path, name: str, value: object, words: str) -> None:
    array = complete()
    array[name.replace("__", "/")][2] = value
    assert re.search(words, _error(save(job / "p.cs", array)))


@pytest.mark.parametrize("name", ["blob/path", "blob/idx", "blob/psize_A", "ctf/accel_kv", "ctf/cs_mm",
                                  "ctf/amp_contrast", "ctf/df1_A", "ctf/df2_A"])
def test_a_missing_field_is_named(job: Path, name: str) -> None:
    array = complete()
    kept = array[[field for field in array.dtype.names if field != name]]
    assert f"no field {name}" in _error(save(job / "p.cs", kept))


def test_uids_given_twice_and_missing_ones_are_named(job: Path) -> None:
    array = complete(uid=[11, 12, 13, 14, 15, 12, 17])
    assert "uid 12 is there twice, in rows 2 and 6" in _error(save(job / "p.cs", array))
    first = save(job / "p.cs", dataset(UID, ALIGNMENTS, uid=[11, 12, 13, 14, 15, 16, 17]))
    through = save(job / "t.cs", dataset(UID, BLOB, CTF, uid=[11, 12, 93, 14, 95, 16, 17]))
    message = _error(first, passthrough=through)
    assert "t.cs: lacks 2 of the 7 particles" in message and "uid 13, row 3" in message
    through = save(job / "t.cs", dataset(UID, BLOB, CTF, uid=[11, 12, 13, 14, 15, 16, 11]))
    assert "t.cs: uid 11 is there twice, in rows 1 and 7" in _error(first, passthrough=through)
    assert "no field uid" in _error(first, passthrough=save(job / "t.cs", dataset(BLOB, CTF)))


def test_objects_are_refused_and_never_loaded(job: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (job / "sprung",)

    array = np.empty(2, [("uid", "<u8"), ("blob/path", object)])
    array["blob/path"] = Trap()
    assert "Python objects, which are never loaded" in _error(save(job / "p.cs", array))
    assert not (job / "sprung").exists()


def test_the_dataset_says_which_file_it_is(job: Path) -> None:
    assert load_dataset(save(job / "p.cs", complete())).at(4) == f"{job / 'p.cs'}: row 5"


