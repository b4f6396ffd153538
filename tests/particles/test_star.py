"""Particle STAR files read and written, compared with the starfile package and with scipy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch
from scipy.spatial.transform import Rotation

from halfmap.imaging.optics import BeamTilt
from halfmap.particles.star import read_star, write_star
from halfmap.particles.table import ParticleTable, with_poses

Columns = dict[str, list[object]]
Text = Callable[..., str]


def _frames(path: Path) -> dict:
    return starfile.read(path, always_dict=True)


def _rotations(particles: Columns) -> np.ndarray:
    angles = np.stack([particles[f"rlnAngle{a}"] for a in ("Rot", "Tilt", "Psi")], axis=1).astype(float)
    return Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix().transpose(0, 2, 1)


def test_a_file_reads_into_the_values_it_holds(star: Path, particles: Columns) -> None:
    table = read_star(star)
    assert len(table) == 7 and table.source == star
    np.testing.assert_allclose(table.defocus.u, particles["rlnDefocusU"])
    np.testing.assert_allclose(table.defocus.v, particles["rlnDefocusV"])
    np.testing.assert_allclose(table.defocus.angle, np.radians(np.array(particles["rlnDefocusAngle"], float)))
    assert table.defocus.scale.tolist() == [1.0] * 7 and not table.defocus.phase_shift.any()
    np.testing.assert_allclose(table.rotations, _rotations(particles), atol=1e-12)
    np.testing.assert_allclose(
        table.origins, np.stack([particles["rlnOriginXAngst"], particles["rlnOriginYAngst"]], 1)
    )
    assert table.half.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert [str(path) for path in table.stacks] == ["stacks/a.mrcs", "stacks/b.mrcs"]
    assert table.stack_index.tolist() == [0, 0, 1, 1, 0, 0, 1]
    assert table.image_index.tolist() == [0, 2, 1, 0, 1, 3, 2]
    assert table.micrograph.tolist() == [0, 0, 1, 1, 0, 2, 1]
    assert table.group_names == ("m1.mrc", "m2.mrc", "m3.mrc")
    assert table.optics_index.tolist() == [0, 0, 1, 1, 0, 0, 1]
    first, second = table.optics
    assert (first.name, first.voltage, first.spherical_aberration, first.amplitude_contrast) == (
        "first",
        300,
        2.7,
        0.1,
    )
    assert (second.pixel_size, second.box, second.number, second.magnification) == (2.5, 12, 2, (1, 0, 0, 1))
    assert table.columns["rlnSomethingOfMine"] == list("abcdefg")


def test_optics_groups_carry_tilt_zernike_and_magnification(
    star: Path, star_text: Text, optics: Columns, particles: Columns
) -> None:
    optics |= {
        "rlnBeamTiltX": [0.1, 0],
        "rlnBeamTiltY": [-0.2, 0],
        "rlnOddZernike": ["[0.1,-2e-3,3]", "[]"],
        "rlnEvenZernike": ["[0,0,0]", "[1,2.5]"],
        "rlnMagMat00": [1.01, 1],
        "rlnMagMat01": [0.002, 0],
        "rlnMagMat10": [0.003, 0],
        "rlnMagMat11": [0.99, 1],
    }
    star.write_text(star_text(optics=optics, particles=particles))
    first, second = read_star(star).optics
    assert first.beam_tilt == (0.1, -0.2) and first.magnification == (1.01, 0.002, 0.003, 0.99)
    assert first.odd_zernike == (0.1, -0.002, 3.0) and second.even_zernike == (1.0, 2.5)
    assert second.odd_zernike == ()
    write_star("again.star", read_star(star))
    assert read_star("again.star").optics == (first, second)
    assert _frames(Path("again.star"))["optics"]["rlnOddZernike"][0] == "[0.1,-2e-3,3]"


def test_an_unchanged_table_is_written_to_the_letter(star: Path) -> None:
    write_star("again.star", read_star(star))
    before, after = _frames(star), _frames(Path("again.star"))
    assert list(after) == ["optics", "particles"]
    for name in before:
        assert before[name].astype(str).equals(after[name].astype(str))


def test_what_changed_is_replaced_and_the_rest_is_kept(star: Path, particles: Columns) -> None:
    table = read_star(star)
    rotations = torch.from_numpy(Rotation.random(7, random_state=1).as_matrix())
    origins = torch.randn(7, 2, dtype=torch.float64)
    posed = with_poses(
        table,
        rotations,
        origins,
        half=1 - table.half,
        extra={"rlnMaxValueProbDistribution": np.linspace(1e-7, 1, 7), "rlnClassNumber": np.ones(7, int)},
    )
    write_star("posed.star", posed)
    frame = _frames(Path("posed.star"))["particles"]
    angles = frame[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(float)
    written = Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(written, rotations, atol=3e-8)  # a millionth of a degree
    np.testing.assert_allclose(frame[["rlnOriginXAngst", "rlnOriginYAngst"]], origins, atol=6e-7)
    assert frame["rlnRandomSubset"].tolist() == [2, 1, 2, 1, 2, 1, 2]
    np.testing.assert_allclose(frame["rlnMaxValueProbDistribution"], np.linspace(1e-7, 1, 7), rtol=1e-6)
    assert frame["rlnClassNumber"].tolist() == [1] * 7
    for label in ("rlnImageName", "rlnSomethingOfMine", "rlnDefocusU", "rlnMicrographName"):
        assert frame[label].astype(str).tolist() == [str(value) for value in particles[label]]
    again = read_star("posed.star")
    np.testing.assert_allclose(again.rotations, rotations, atol=3e-8)
    assert again.half.tolist() == posed.half.tolist()


def test_changed_defocus_and_optics_are_written_too(star: Path) -> None:
    table = read_star(star)
    optics = (
        replace(table.optics[0], beam_tilt=BeamTilt(0.3, 0.0), odd_zernike=(0.5,), pixel_size=1.26),
        table.optics[1],
    )
    defocus = replace(table.defocus, u=table.defocus.u + 12.5, phase_shift=table.defocus.phase_shift + 0.5)
    write_star("again.star", replace(table, optics=optics, defocus=defocus))
    again = read_star("again.star")
    assert again.optics == optics
    np.testing.assert_allclose(again.defocus.u, defocus.u)
    np.testing.assert_allclose(again.defocus.phase_shift, defocus.phase_shift, atol=1e-7)
    assert list(again.optics_columns["rlnMtfFileName"]) == ["k2.star", "k3.star"]


def _as_30(optics: Columns, particles: Columns) -> Columns:
    """The same particles in the layout of RELION 3.0."""
    row = [number - 1 for number in particles["rlnOpticsGroup"]]
    pixel = [optics["rlnImagePixelSize"][r] for r in row]
    old = {
        label: values
        for label, values in particles.items()
        if label not in ("rlnOpticsGroup", "rlnOriginXAngst", "rlnOriginYAngst")
    }
    for axis in "XY":
        old[f"rlnOrigin{axis}"] = [
            a / p for a, p in zip(particles[f"rlnOrigin{axis}Angst"], pixel, strict=True)
        ]
    for label in ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"):
        old[label] = [optics[label][r] for r in row]
    old["rlnDetectorPixelSize"] = [5.0] * len(row)
    old["rlnMagnification"] = [5e4 / p for p in pixel]
    return old


def _assert_same(first: ParticleTable, second: ParticleTable) -> None:
    for name in ("optics_index", "stack_index", "image_index", "half", "micrograph", "group"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.stacks == second.stacks and first.group_names == second.group_names
    np.testing.assert_allclose(first.origins, second.origins, atol=1e-6)
    np.testing.assert_allclose(first.rotations, second.rotations, atol=1e-7)
    for name in ("u", "v", "angle", "phase_shift", "bfactor", "scale"):
        np.testing.assert_allclose(getattr(first.defocus, name), getattr(second.defocus, name))
    for a, b in zip(first.optics, second.optics, strict=True):
        assert replace(a, name="", pixel_size=1) == replace(b, name="", pixel_size=1)
        assert a.pixel_size == pytest.approx(b.pixel_size, rel=1e-8)


@pytest.mark.parametrize("table_name", ["", "images", "particles"])
def test_the_3_0_layout_means_the_same_as_the_3_1_layout(
    star: Path, star_text: Text, optics: Columns, particles: Columns, table_name: str
) -> None:
    old = Path("old.star")
    old.write_text(star_text(**{table_name: _as_30(optics, particles)}))
    _assert_same(read_star(star), read_star(old))
    write_star("upgraded.star", read_star(old))
    frames = _frames(Path("upgraded.star"))
    assert not {"rlnVoltage", "rlnOriginX", "rlnMagnification"} & set(frames["particles"])
    assert frames["optics"]["rlnImagePixelSize"].tolist() == pytest.approx([1.25, 2.5])
    _assert_same(read_star(star), read_star("upgraded.star"))


def test_3_0_files_may_give_the_pixel_size_itself_and_tilt_per_row(
    star: Path, star_text: Text, optics: Columns, particles: Columns
) -> None:
    old = _as_30(optics, particles)
    del old["rlnDetectorPixelSize"], old["rlnMagnification"]
    old["rlnPixelSize"] = [1.25] * 7
    old["rlnVoltage"], old["rlnSphericalAberration"], old["rlnAmplitudeContrast"] = (
        [300] * 7,
        [2.7] * 7,
        [0.1] * 7,
    )
    old["rlnBeamTiltX"], old["rlnBeamTiltY"] = [0.1, 0.1, 0.1, 0.5, 0.5, 0.1, 0.1], [0] * 7
    star.write_text(star_text(**{"": old}))
    table = read_star(star)
    assert table.optics_index.tolist() == [0, 0, 0, 1, 1, 0, 0]
    assert [group.beam_tilt for group in table.optics] == [(0.1, 0.0), (0.5, 0.0)]
    assert [group.box for group in table.optics] == [12, 12]  # from the stack's header


def test_the_box_comes_from_the_stack_where_the_file_does_not_say(
    star: Path, star_text: Text, optics: Columns, particles: Columns
) -> None:
    del optics["rlnImageSize"]
    star.write_text(star_text(optics=optics, particles=particles))
    assert [group.box for group in read_star(star).optics] == [12, 12]


def test_columns_that_may_be_missing_have_the_defaults_of_relion(
    star: Path, star_text: Text, optics: Columns, particles: Columns
) -> None:
    for label in (
        "rlnMicrographName",
        "rlnAnglePsi",
        "rlnOriginXAngst",
        "rlnOriginYAngst",
        "rlnRandomSubset",
    ):
        del particles[label]
    star.write_text(star_text(optics=optics, particles=particles))
    table = read_star(star)
    assert table.rotations is None and table.half is None and not table.origins.any()
    assert not table.micrograph.any() and table.group_names == ("all",)
    write_star("again.star", table)
    assert not {"rlnAnglePsi", "rlnOriginXAngst", "rlnRandomSubset"} & set(
        _frames(Path("again.star"))["particles"]
    )


def test_a_single_optics_group_needs_no_column(
    star: Path, star_text: Text, optics: Columns, particles: Columns
) -> None:
    del particles["rlnOpticsGroup"]
    star.write_text(star_text(optics={k: v[:1] for k, v in optics.items()}, particles=particles))
    assert read_star(star).optics_index.tolist() == [0] * 7


@pytest.mark.parametrize("subset", [[0] * 7, [1] * 7, [2] * 7])
def test_a_subset_column_that_divides_nothing_is_no_division(
    star: Path, star_text: Text, optics: Columns, particles: Columns, subset: list[object]
) -> None:
    star.write_text(star_text(optics=optics, particles=particles | {"rlnRandomSubset": subset}))
    assert read_star(star).half is None


def test_scale_groups_come_from_the_group_columns(
    star: Path, star_text: Text, optics: Columns, particles: Columns
) -> None:
    particles["rlnGroupNumber"] = [3, 3, 1, 1, 1, 2, 2]
    star.write_text(star_text(optics=optics, particles=particles))
    assert read_star(star).group.tolist() == [0, 0, 1, 1, 1, 2, 2]
    particles["rlnGroupName"] = ["x", "y", "x", "y", "x", "y", "x"]
    star.write_text(star_text(optics=optics, particles=particles))
    table = read_star(star)
    assert table.group.tolist() == [0, 1] * 3 + [0] and table.group_names == ("x", "y")


def test_names_that_look_like_grammar_are_only_names(
    star: Path, star_text: Text, optics: Columns, particles: Columns
) -> None:
    particles["rlnMicrographName"] = [
        "data_1/x.mrc",
        "x#7.mrc",
        "it's.mrc",
        "loop_",
        "größe.mrc",
        '""',
        "'#a b'",
    ]
    columns = {"rlnMicrographName": particles.pop("rlnMicrographName")} | particles
    star.write_text(star_text(optics=optics, particles=columns), encoding="utf-8")
    table = read_star(star)
    expected = ["data_1/x.mrc", "x#7.mrc", "it's.mrc", "loop_", "größe.mrc", "", "#a b"]
    assert table.columns["rlnMicrographName"] == expected
    write_star("again.star", table)
    assert read_star("again.star").columns["rlnMicrographName"] == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace(" ", "\t"),
        lambda text: text.rstrip(),
        lambda text: text.replace("\nloop_", "# note\nloop_ # note"),
        lambda text: text.replace(" f\n", " f # the sixth\n\n"),
        lambda text: text.replace("\n0", "\n   0"),
    ],
)
def test_white_space_and_comments_change_nothing(star: Path, change: Callable[[str], str]) -> None:
    expected = read_star(star)
    star.write_bytes(change(star.read_text()).encode())
    _assert_same(read_star(star), expected)


def test_an_optics_table_of_labels_and_values_reads_like_a_loop(
    star: Path, star_text: Text, optics: Columns, particles: Columns
) -> None:
    pairs = "".join(f"_{label}   {values[0]}\n" for label, values in optics.items())
    del particles["rlnOpticsGroup"]
    star.write_text(f"data_optics\n\n{pairs}\n" + star_text(particles=particles))
    assert read_star(star).optics[0].name == "first"
