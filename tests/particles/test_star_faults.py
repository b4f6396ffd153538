"""Whatever is wrong with a STAR file, the user hears it in one line that says where."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halfmap.errors import InputError
from halfmap.particles.half_sets import Division, assign_halves
from halfmap.particles.star import read_star, write_star

Columns = dict[str, list[object]]
Text = Callable[..., str]


def _error(path: Path) -> str:
    with pytest.raises(InputError) as error:
        read_star(path)
    message = str(error.value)
    assert path.name in message and "\n" not in message
    return message


@pytest.mark.parametrize(
    "label, value, words",
    [
        ("rlnDefocusU", "abc", "row 3: rlnDefocusU is 'abc'"),
        ("rlnDefocusU", "nan", "row 3: rlnDefocusU is 'nan'"),
        ("rlnAngleTilt", "1e999", "row 3: rlnAngleTilt is '1e999'"),
        ("rlnOriginXAngst", "--1", "row 3: rlnOriginXAngst"),
        ("rlnOpticsGroup", 7, "row 3: optics group 7 is not in"),
        ("rlnOpticsGroup", 1.5, "row 3: rlnOpticsGroup is '1.5', not a whole number"),
        ("rlnImageName", "0@stacks/a.mrcs", "row 3: rlnImageName '0@stacks/a.mrcs'"),
        ("rlnImageName", "x@stacks/a.mrcs", "row 3: rlnImageName"),
        ("rlnImageName", "99999999999999999999@s.mrcs", "row 3: rlnImageName"),
        ("rlnImageName", "1@", "row 3: rlnImageName"),
        ("rlnRandomSubset", 0, "row 3: rlnRandomSubset is 0"),
        ("rlnRandomSubset", 3, "row 3: rlnRandomSubset is 3"),
    ],
)
def test_a_bad_value_is_named_with_its_row(
    star: Path, star_text: Text, optics: Columns, particles: Columns, label: str, value: object, words: str
) -> None:
    particles[label][2] = value
    star.write_text(star_text(optics=optics, particles=particles))
    assert words in _error(star)


@pytest.mark.parametrize(
    "label, value, words",
    [
        ("rlnVoltage", "high", "table data_optics, row 2: rlnVoltage"),
        ("rlnImagePixelSize", 0, "pixel size 0"),
        ("rlnAmplitudeContrast", 7, "amplitude contrast 7"),
        ("rlnOpticsGroup", 1, "twice"),
        ("rlnImageDimensionality", 3, "not 2D images"),
        ("rlnImageSize", 0, "box of 0"),
        ("rlnOddZernike", "[1,b]", "row 2: rlnOddZernike is '[1,b]'"),
    ],
)
def test_a_bad_optics_group_is_refused(
    star: Path, star_text: Text, optics: Columns, particles: Columns, label: str, value: object, words: str
) -> None:
    default = {"rlnOddZernike": "[]"}.get(label, 0)
    optics[label] = [optics.get(label, [default])[0], value]
    star.write_text(star_text(optics=optics, particles=particles))
    assert words in _error(star)


@pytest.mark.parametrize(
    "table, label",
    [
        ("particles", "rlnImageName"),
        ("particles", "rlnDefocusU"),
        ("particles", "rlnDefocusV"),
        ("particles", "rlnDefocusAngle"),
        ("particles", "rlnOpticsGroup"),
        ("optics", "rlnVoltage"),
        ("optics", "rlnSphericalAberration"),
        ("optics", "rlnAmplitudeContrast"),
        ("optics", "rlnImagePixelSize"),
    ],
)
def test_a_missing_column_is_named(
    star: Path, star_text: Text, optics: Columns, particles: Columns, table: str, label: str
) -> None:
    del (optics if table == "optics" else particles)[label]
    star.write_text(star_text(optics=optics, particles=particles))
    assert label in _error(star)


def test_a_file_without_optics_in_either_layout_is_refused(
    star: Path, star_text: Text, particles: Columns
) -> None:
    star.write_text(star_text(particles=particles))
    assert "rlnVoltage" in _error(star)
    old = particles | {
        "rlnVoltage": [300] * 7,
        "rlnSphericalAberration": [2.7] * 7,
        "rlnAmplitudeContrast": [0.1] * 7,
    }
    star.write_text(star_text(particles=old))
    assert "pixel size" in _error(star)
    star.write_text(
        star_text(particles=old | {"rlnDetectorPixelSize": [5] * 7, "rlnMagnification": [5e4] * 6 + [0]})
    )
    assert "row 7: rlnMagnification" in _error(star)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "holds no table"),
        ("# version 30001\n", "holds no table"),
        ("hello\n", "line 1: expected a table name"),
        ("data_particles\n\nloop_\n_rlnImageName #1\n\n", "no rows"),
        (
            "data_particles\n\nloop_\n_rlnImageName #1\n_rlnImageName #2\n1@a 1@a\n",
            "line 5: .*rlnImageName twice",
        ),
        (
            "data_particles\n\nloop_\n_rlnImageName #1\n_rlnDefocusU #2\n1@a 1\n2@a\n",
            "line 7: 1 values for the 2",
        ),
        (
            "data_particles\n\nloop_\n_rlnImageName #1\n_rlnDefocusU #2\n1@a 1 5\n",
            "line 6: 3 values for the 2",
        ),
        ("data_particles\n\nnonsense here\n", "line 3: 'nonsense here'"),
        (
            "data_model_general\n\n_rlnCurrentResolution 3.0\n\n"
            "data_model_classes\n\nloop_\n_rlnReferenceImage #1\nx.mrc\n",
            "data_model_general, data_model_classes.*particle STAR",
        ),
        ("data_micrographs\n\nloop_\n_rlnMicrographName #1\nx.mrc\n", "data_micrographs.*particle STAR"),
        (
            "data_a\n\nloop_\n_rlnImageName #1\n1@x\n\ndata_b\n\nloop_\n_rlnImageName #1\n1@x\n",
            "no particle table",
        ),
        (
            "data_optics\n\nloop_\n_rlnOpticsGroup #1\n\ndata_particles\n\nloop_\n_rlnImageName #1\n1@x\n",
            "data_optics",
        ),
    ],
)
def test_a_file_of_another_kind_is_refused_with_a_reason(star: Path, text: str, words: str) -> None:
    star.write_text(text)
    assert re.search(words, _error(star))


def test_a_file_that_is_missing_or_binary_is_refused(star: Path, project: Path) -> None:
    assert "cannot be read" in _error(project / "nowhere.star")
    assert "cannot be read" in _error(project / "stacks")
    assert "not a text file" in _error(project / "stacks/a.mrcs")


def test_without_a_box_the_missing_stack_is_named(
    star: Path, star_text: Text, optics: Columns, particles: Columns
) -> None:
    del optics["rlnImageSize"]
    particles["rlnImageName"] = ["1@nowhere.mrcs"] * 7
    star.write_text(star_text(optics=optics, particles=particles))
    with pytest.raises(InputError, match=r"nowhere\.mrcs"):
        read_star(star)


def test_too_few_to_divide_is_an_input_error(star: Path) -> None:
    table = read_star(star)
    with pytest.raises(InputError, match="too few micrographs"):
        assign_halves(table.select([0, 1, 4]), Division("micrograph", 0))
    with pytest.raises(InputError, match="too few particles"):
        assign_halves(table.select([0]), Division(seed=0))


def test_a_folder_that_cannot_be_written_to_is_an_input_error(star: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_star("nowhere/out.star", read_star(star))


PIECES = [
    "data_",
    "loop_",
    "_rlnImageName",
    "_rlnVoltage #3",
    "#",
    '"',
    "'",
    ";",
    "@",
    "1e400",
    "-",
    "nan",
    "0",
    "3",
    "\n",
    "\n\n",
    " ",
    "\t",
    "[",
    "]",
    "é",
    "\x1c",
    "data_optics",
    "data_particles\n",
    "\\",
    "1e15",
    "99999999999",
]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), edits=st.integers(1, 6))
def test_any_damage_ends_in_a_table_or_an_input_error(star: Path, seed: int, edits: int) -> None:
    original = star.with_name("original.star")
    if not original.exists():
        original.write_text(star.read_text())
    chance, text = random.Random(seed), original.read_text()
    for _ in range(edits):
        at, length = chance.randrange(len(text)), chance.choice([0, 1, 3, 20, 200])
        text = text[:at] + chance.choice(["", *PIECES]) + text[at + length :]
    star.write_text(text, encoding="utf-8")
    try:
        table = read_star(star)
    except InputError as error:
        assert "\n" not in str(error)
        return
    write_star("again.star", table)
    again = read_star("again.star")
    assert len(again) == len(table) and again.optics == table.optics
    assert again.image_index.tolist() == table.image_index.tolist()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_end_in_an_input_error(star: Path, raw: bytes) -> None:
    star.write_bytes(raw)
    with pytest.raises(InputError):
        read_star(star)
    star.write_bytes(b"data_\nloop_\n_rlnImageName\n" + raw)
    with pytest.raises(InputError):
        read_star(star)
