"""Particle files as other programs write them: what they mean is kept, and what cannot be used is said in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from halfmap.errors import InputError
from halfmap.particles.cryosparc import read_cryosparc
from halfmap.particles.cryosparc_file import read_cs
from halfmap.particles.cryosparc_write import write_cryosparc
from halfmap.particles.mtf import read_mtf
from halfmap.particles.sanity import table_notes
from halfmap.particles.star import read_star, write_star
from halfmap.particles.star_text import read_tables

Columns = dict[str, list[object]]
Text = Callable[..., str]


def save(path: Path, array: np.ndarray) -> Path:
    with open(path, "wb") as stream:
        np.save(stream, array)
    return path


def images(text: str = "S16", **fields: tuple) -> np.ndarray:
    """Four particles of stacks/a.mrcs as a cryoSPARC dataset; fields: type, shape and values of more fields."""
    more = {name.replace("__", "/"): value for name, value in fields.items()}
    described = [("uid", "<u8"), ("blob/path", text), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,)),
                 ("blob/psize_A", "<f4"), ("ctf/accel_kv", "<f4"), ("ctf/cs_mm", "<f4"), ("ctf/amp_contrast", "<f4"),
                 ("ctf/df1_A", "<f4"), ("ctf/df2_A", "<f4")]
    array = np.zeros(4, described + [(name, kind, shape) for name, (kind, shape, _) in more.items()])
    for name, value in (("uid", [5, 6, 7, 8]), ("blob/path", "stacks/a.mrcs"), ("blob/idx", range(4)),
                        ("blob/shape", 12), ("blob/psize_A", 1.25), ("ctf/accel_kv", 300), ("ctf/cs_mm", 2.7),
                        ("ctf/amp_contrast", 0.1), ("ctf/df1_A", 15000), ("ctf/df2_A", 15000)):
        array[name] = value
    for name, (_, _, values) in more.items():
        array[name] = values
    return array


@pytest.mark.parametrize("numbers", [(0, 1), (-3, 7), (5, 2**40)])
def test_optics_groups_and_classes_stay_apart_whatever_their_numbers(
    numbers: tuple[int, int], star: Path, star_text: Text, optics: Columns, particles: Columns
) -> None:
    optics["rlnOpticsGroup"] = list(numbers)
    particles["rlnOpticsGroup"] = particles["rlnClassNumber"] = [numbers[i] for i in (0, 0, 1, 1, 0, 0, 1)]
    star.write_text(star_text(optics=optics, particles=particles))
    write_cryosparc("out.cs", read_star(star))
    for name in ("ctf/exp_group_id", "alignments3D/class"):
        held = read_cs(Path("out.cs")).fields[name]
        assert len(set(held[[0, 1, 4, 5]])) == len(set(held[[2, 3, 6]])) == 1 and held[0] != held[2]


def test_numbers_that_count_from_one_become_numbers_that_count_from_zero(star: Path) -> None:
    write_cryosparc("out.cs", read_star(star))
    assert read_cs(Path("out.cs")).fields["ctf/exp_group_id"].tolist() == [0, 0, 1, 1, 0, 0, 1]


@pytest.mark.parametrize("below", [
    "\n########\n\nText that does not belong to the table.\n", "\nBest regards\n\ndata_signature\n_name x\n",
    "\n1 2 3\nloop_\n_but RELION reads no further\n",
])
def test_text_below_the_blank_line_that_ends_a_table_is_no_row(below: str, tmp_path: Path) -> None:
    path = tmp_path / "mtf.star"
    path.write_text("data_mtf\n\nloop_\n_rlnResolutionInversePixel\n_rlnMtfValue\n0 1\n0.25 0.8\n0.5 0.4\n" + below)
    assert read_mtf(path).value.tolist() == [1.0, 0.8, 0.4]


def test_rows_behind_a_blank_line_are_not_lost(tmp_path: Path) -> None:
    (tmp_path / "rows.star").write_text("data_\n\nloop_\n_a\n_b\n1 x\n\n2 y\n\n3 z\n\nthe end\n")
    assert read_tables(tmp_path / "rows.star")[0].columns == {"a": ["1", "2", "3"], "b": ["x", "y", "z"]}


def test_images_that_are_corrected_for_the_ctf_are_refused(
    star: Path, star_text: Text, optics: Columns, particles: Columns
) -> None:
    optics["rlnCtfDataAreCtfCorrected"] = [0, 1]
    star.write_text(star_text(optics=optics, particles=particles))
    with pytest.raises(InputError, match="corrected for the CTF already, which is not supported; extract"):
        read_star(star)


def test_text_may_be_numpys_unicode(project: Path) -> None:
    table = read_cryosparc(save(project / "u.cs", images("<U16")))
    assert [str(path) for path in table.stacks] == ["stacks/a.mrcs"] and table.image_index.tolist() == [0, 1, 2, 3]
    raw = (project / "u.cs").read_bytes()
    (project / "d.cs").write_bytes(raw.replace(b"m\0\0\0r", b"\0\xd8\0\0r"))  # half of a pair
    with pytest.raises(InputError, match="blob/path holds no text"):
        read_cryosparc(project / "d.cs")


def test_micrographs_are_counted_where_they_are_named(star: Path, project: Path) -> None:
    assert read_star(star).micrographs.tolist() == [3, 3, 1]
    assert read_star(star).select([0, 5]).micrographs.tolist() == [1, 1]
    assert read_cryosparc(save(project / "p.cs", images())).micrographs is None


def test_a_pixel_size_that_contradicts_the_optics_is_said(
    star: Path, star_text: Text, optics: Columns, particles: Columns
) -> None:
    particles["rlnPixelSize"] = [1.25, 1.25, 2.5, 2.5, 1.2501, 1.25, 2.6]
    star.write_text(star_text(optics=optics, particles=particles))
    (note,) = table_notes(read_star(star))
    assert "rlnPixelSize says 2.6 A (row 7)" in note.text and "the optics, which count, say 2.5 A" in note.text


def test_a_pixel_size_that_contradicts_the_magnification_is_said_and_kept(
    star: Path, star_text: Text, particles: Columns
) -> None:
    particles |= {"rlnOpticsGroup": [1] * 7, "rlnOriginXAngst": [0] * 7, "rlnOriginYAngst": [0] * 7}
    particles |= {"rlnVoltage": [300] * 7, "rlnSphericalAberration": [2.7] * 7, "rlnAmplitudeContrast": [0.1] * 7,
                  "rlnDetectorPixelSize": [5] * 7, "rlnMagnification": [40000] * 7, "rlnPixelSize": [1.25] * 7}
    star.write_text(star_text(images=particles))
    assert "rlnPixelSize" not in read_star(star).columns and table_notes(read_star(star)) == []
    particles["rlnPixelSize"] = [1.3] * 7
    star.write_text(star_text(images=particles))
    (note,) = table_notes(read_star(star))
    assert "rlnPixelSize says 1.3 A (row 1)" in note.text and "say 1.25 A" in note.text
    write_star("again.star", read_star(star))
    assert len(table_notes(read_star("again.star"))) == 1


def test_images_are_found_from_every_folder_above_the_star_file(
    star: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = project / "Refine3D/job012/run_data.star"
    deep.parent.mkdir(parents=True)
    star.rename(deep)
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    assert [path for path in read_star(deep).stacks] == [project / "stacks/a.mrcs", project / "stacks/b.mrcs"]


def test_where_the_box_is_to_come_from_a_missing_stack_the_remedy_is_said(
    star: Path, star_text: Text, optics: Columns, particles: Columns, project: Path
) -> None:
    del optics["rlnImageSize"]
    star.write_text(star_text(optics=optics, particles=particles))
    (project / "stacks/b.mrcs").unlink()
    with pytest.raises(InputError, match=r"has no rlnImageSize, and there is no image stack .*--data-dir"):
        read_star(star)
    array = images()
    array["blob/path"] = "gone.mrc"
    without = array[[name for name in array.dtype.names if name != "blob/shape"]]
    with pytest.raises(InputError, match=r"has no blob/shape, and there is no image stack gone.mrc; .*--data-dir"):
        read_cryosparc(save(project / "p.cs", without))


def several() -> dict[str, tuple]:
    """Fields of four particles aligned to three maps, of which number 2, 0, 1 and 2 are the most probable."""
    generator = np.random.default_rng(8)
    posterior = np.array([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1], [0.3, 0.4, 0.3], [0, 0, 1]])
    return {
        "alignments3D_multi__pose": ("<f4", (3, 3), generator.normal(size=(4, 3, 3))),
        "alignments3D_multi__shift": ("<f4", (3, 2), generator.normal(size=(4, 3, 2))),
        "alignments3D_multi__psize_A": ("<f4", (), 2.5),
        "alignments3D_multi__class_posterior": ("<f4", (3,), posterior),
        "alignments3D_multi__split": ("<u4", (), [0, 1, 1, 0]),
    }


def test_of_alignments_to_several_maps_that_of_the_most_probable_is_kept(project: Path) -> None:
    fields = several()
    table = read_cryosparc(save(project / "p.cs", images(**fields)))
    best, rows = [2, 0, 1, 2], range(4)
    poses = np.float32(fields["alignments3D_multi__pose"][2])[rows, best]
    expected = Rotation.from_rotvec(poses.astype(float)).as_matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(table.rotations, expected, atol=1e-12)
    shifts = np.float32(fields["alignments3D_multi__shift"][2])[rows, best]
    np.testing.assert_allclose(table.origins, 2.5 * shifts.astype(float))
    assert table.columns["rlnClassNumber"].tolist() == [3, 1, 2, 3] and table.half.tolist() == [0, 1, 1, 0]
    del fields["alignments3D_multi__class_posterior"]
    with pytest.raises(InputError, match="no field alignments3D_multi/class_posterior"):
        read_cryosparc(save(project / "p.cs", images(**fields)))


def test_alignments_to_2d_classes_keep_angle_shift_and_class_and_come_back(project: Path) -> None:
    fields = {"alignments2D__pose": ("<f4", (), [0.5, -1.0, 3.0, 0.0]), "alignments2D__psize_A": ("<f4", (), 2.5),
              "alignments2D__shift": ("<f4", (2,), [[1, -2], [0, 0], [3, 4], [5, 6]]),
              "alignments2D__class": ("<u4", (), [7, 0, 7, 49])}
    table = read_cryosparc(save(project / "p.cs", images(**fields)))
    assert table.rotations is None and table.flat
    np.testing.assert_allclose(table.columns["rlnAnglePsi"], np.degrees(fields["alignments2D__pose"][2]), rtol=1e-6)
    np.testing.assert_allclose(table.origins, 2.5 * np.array(fields["alignments2D__shift"][2]))
    assert table.columns["rlnClassNumber"].tolist() == [8, 1, 8, 50]
    write_star("out.star", table)
    write_cryosparc("back.cs", read_star("out.star"))
    back = read_cs(Path("back.cs")).fields
    np.testing.assert_allclose(back["alignments2D/pose"], fields["alignments2D__pose"][2], atol=1e-6)
    np.testing.assert_allclose(back["alignments2D/shift"] * back["alignments2D/psize_A"][:, None], table.origins)
    assert back["alignments2D/class"].tolist() == [7, 0, 7, 49] and "alignments3D/pose" not in back


def test_angles_without_tilt_are_said_to_be_those_of_a_2d_classification(
    star: Path, star_text: Text, optics: Columns, particles: Columns
) -> None:
    assert not read_star(star).flat
    particles |= {"rlnAngleRot": [0] * 7, "rlnAngleTilt": [0] * 7, "rlnOriginXAngst": [0] * 7}
    star.write_text(star_text(optics=optics, particles=particles))
    (note,) = table_notes(read_star(star))
    assert "all tilts are 0" in note.text and "2D classification" in note.text
