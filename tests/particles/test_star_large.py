"""Large STAR files are read and written in one pass, with the values and the text of the pass by lines."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch

from halfmap.errors import InputError
from halfmap.particles import star_text
from halfmap.particles.star import read_star, write_star
from halfmap.particles.star_text import read_tables, write_tables
from halfmap.particles.text_column import TextColumn, written_decimals

ROWS = 1200
HEAD = ("\ndata_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnOpticsGroupName #2\n_rlnVoltage #3\n"
        "_rlnSphericalAberration #4\n_rlnAmplitudeContrast #5\n_rlnImagePixelSize #6\n_rlnImageSize #7\n"
        "1 one 300 2.7 0.1 1.1 64\n7 two 300 2.7 0.1 1.1 64\n\n"
        "# version 30001\n\ndata_particles\n\nloop_\n_rlnImageName #1\n_rlnMicrographName #2\n_rlnOpticsGroup #3\n"
        "_rlnDefocusU #4\n_rlnDefocusV #5\n_rlnDefocusAngle #6\n_rlnAngleRot #7\n_rlnAngleTilt #8\n_rlnAnglePsi #9\n"
        "_rlnRandomSubset #10\n_rlnLogLikeliContribution #11\n")


def rows(count: int = ROWS) -> list[str]:
    random = np.random.default_rng(0)
    values = random.random((count, 6))
    return [f"{i % 150 + 1:06d}@Extract/job{i // 150:03d}.mrcs  mics/m{i // 150:03d}.mrc {(1, 7)[i % 2]} "
            f"{1e4 + 5e3 * a:.6f}\t{9e3 + 5e3 * a:.6f} {90 * b:.6f} {360 * c - 180:.6f} {180 * d:.6f} {-179 * e:.6f} "
            f"{i % 2 + 1} {1e5 * f:.6e} " for i, (a, b, c, d, e, f) in enumerate(values)]


@pytest.fixture(autouse=True)
def one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of these tests are large ones."""
    monkeypatch.setattr(star_text, "LONG", 1 << 16)
    monkeypatch.setattr(star_text, "MANY", 1000)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "particles.star"
    path.write_text(HEAD + "\n".join(rows()) + "\n\n\ndata_after\n\n_rlnNote  end\n")
    return path


@pytest.fixture
def by_lines() -> Iterator[pytest.MonkeyPatch]:
    """No file is a large one, until it is undone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(star_text, "LONG", 1 << 40)
        patch.setattr(star_text, "MANY", 1 << 40)
        yield patch


def test_every_word_is_that_of_another_library(large):
    tables = {table.name: table.columns for table in read_tables(large)}
    assert isinstance(tables["particles"]["rlnImageName"], TextColumn)
    assert tables["after"] == {"rlnNote": ["end"]} and list(tables["optics"]["rlnOpticsGroup"]) == ["1", "7"]
    other = starfile.read(large)["particles"]
    for label, column in tables["particles"].items():
        values = other[label]
        if values.dtype.kind in "fi":
            assert column.numbers().tolist() == values.tolist(), "to the last bit"
        else:
            assert list(column) == values.tolist()


def test_table_and_written_file_are_those_of_the_pass_by_lines(large, tmp_path, by_lines):
    slow = read_star(large)
    write_star(tmp_path / "slow.star", slow)
    by_lines.undo()
    fast = read_star(large)
    write_star(tmp_path / "fast.star", fast)
    assert (tmp_path / "fast.star").read_bytes() == (tmp_path / "slow.star").read_bytes()
    assert fast.stacks == slow.stacks and fast.group_names == slow.group_names
    for name in ("stack_index", "image_index", "micrograph", "group", "half", "optics_index"):
        assert getattr(fast, name).tolist() == getattr(slow, name).tolist(), name
    assert torch.equal(fast.rotations, slow.rotations) and torch.equal(fast.defocus.angle, slow.defocus.angle)
    chosen = fast.select(np.arange(5, 100, 7))
    assert list(chosen.columns["rlnImageName"]) == list(slow.columns["rlnImageName"])[5:100:7]


@pytest.mark.parametrize("change, words", [
    (lambda r: [*r[:-1], r[-1].rsplit(" ", 2)[0]], "10 values for the 11 columns"),
    (lambda r: [r[0] + " 1", *r[1:]], "line 31: 12 values"),
    (lambda r: [*r[:400], r[400].replace(" mics/", " 'my mics/").replace(".mrc ", ".mrc' "), *r[401:]], None),
    (lambda r: [*r[:400], r[400].replace("mics", "m\u00fccs"), *r[401:]], None),
    (lambda r: [*r[:7], "# a remark", *r[7:]], None),
    (lambda r: [line.replace("Extract", "other") + "\r" for line in r], None),
    (lambda r: [*r[:50], r[50].replace("000051@", "x@"), *r[51:]], "row 51: rlnImageName"),
    (lambda r: [*r[:50], r[50].replace(" 1 ", " 3 ", 1), *r[51:]], "row 51: optics group 3"),
])  # fmt: skip
def test_odd_rows_are_read_or_refused_as_in_a_small_file(tmp_path, by_lines, change, words):
    path = tmp_path / "odd.star"
    path.write_text(HEAD + "\n".join(change(rows())) + "\n")
    found = []
    for _ in range(2):
        try:
            found.append(list(read_star(path).columns["rlnMicrographName"]))
        except InputError as error:
            assert words is not None and words in str(error)
            found.append(str(error))
        by_lines.undo()
    assert found[0] == found[1] and isinstance(found[0], str) == (words is not None)


def test_numbers_come_back_to_the_last_bit_of_what_was_written():
    random = np.random.default_rng(1)
    values = random.normal(size=2000) * 10.0 ** random.integers(-30, 30, 2000)
    words = [f"{value:.{digits}g}" for digits in (3, 9, 17) for value in values]
    words += ["0", "-0", "+1.5", ".5", "5.", "1e5", "-1E-7", "inf", "-inf", "123456789012345678901234567890", "4e-324"]
    column = TextColumn(np.array([word.encode() for word in words]))
    np.testing.assert_array_equal(column.numbers(), [float(word) for word in words])
    for word in ("", ".", "e5", "1e", "1.2.3", "--1", "x"):
        with pytest.raises(ValueError):
            TextColumn(np.array([b"1", word.encode()], "S8")).numbers()


def test_numbers_are_written_to_a_millionth_or_nine_digits():
    random = np.random.default_rng(2)
    values = random.normal(size=5_000) * 10.0 ** random.integers(-12, 14, 5_000)
    special = [0.0, -0.0, 1.0, -1.0, 0.1, 0.5, 1e-4, 9.99999999999e-5, 0.9999999999, 999999.9999999, 1e9, 1e300,
               math.nan]
    values = np.concatenate([values, special])
    written = written_decimals(values, repr).tolist()
    back = np.array([float(word) for word in written])
    allowed = np.where(np.abs(values) >= 1, 0.51e-6, 0.51e-8 * np.abs(values))
    fine = np.isfinite(values)
    assert (np.abs(back - values)[fine] <= allowed[fine] + 1e-16 * np.abs(values[fine])).all()
    assert written[-len(special) :][:6] == [b"0.000000", b"0.000000", b"1.000000", b"-1.000000", b"0.1", b"0.5"]


def test_columns_of_every_kind_are_written_in_many_rows_as_in_few(tmp_path, by_lines):
    count = 2_000
    columns = {"a": [f"m {i}" if i == 77 else f"m{i}" for i in range(count)], "b": np.arange(count) - 5000,
               "c": np.arange(count) % 2 == 0, "d": np.linspace(-2, 2, count).astype(np.float32),
               "e": ["\u00e9"] * count}
    write_tables(tmp_path / "slow.star", {"x": columns})
    by_lines.undo()
    write_tables(tmp_path / "fast.star", {"x": columns})
    slow, fast = (read_tables(tmp_path / f"{kind}.star")[0].columns for kind in ("slow", "fast"))
    for label in "abce":
        assert list(fast[label]) == list(slow[label])
    np.testing.assert_allclose(np.array(fast["d"], float), np.array(slow["d"], float), atol=1e-6)


def test_a_million_rows_would_take_less_than_a_kilobyte_each(large):
    table = read_star(large)
    held = sum(column.held.nbytes for column in table.columns.values())
    tensors = [getattr(table.defocus, name) for name in table.defocus.__dataclass_fields__]
    tensors += [table.rotations, table.origins]
    arrays = [getattr(table, name) for name in ("optics_index", "stack_index", "image_index", "half", "micrograph",
                                                "group", "rows")]
    held += sum(t.numel() * t.element_size() for t in tensors) + sum(array.nbytes for array in arrays)
    assert held / len(table) < 400


def test_a_table_that_was_changed_is_written_with_its_changes(large, tmp_path):
    table = read_star(large)
    write_star(tmp_path / "out.star", replace(table, origins=table.origins + 1.5, half=1 - table.half))
    written, before = (starfile.read(path)["particles"] for path in (tmp_path / "out.star", large))
    assert (written["rlnOriginXAngst"] == 1.5).all()
    assert (written["rlnRandomSubset"] + before["rlnRandomSubset"] == 3).all()
    assert written["rlnLogLikeliContribution"].tolist() == before["rlnLogLikeliContribution"].tolist()
