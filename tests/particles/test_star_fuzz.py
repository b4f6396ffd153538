"""A STAR file damaged at random, in either layout, gives a table that can be written or one clear line."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halfmap.errors import InputError
from halfmap.maps.mrc import write_stack
from halfmap.particles.star import read_star, write_star
from halfmap.particles.table import ParticleTable

OPTICS = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
_rlnOddZernike #9
opticsGroup1 1 300.000000 2.700000 0.100000 2.000000 8 2 [0.1,-0.2,0.3]
opticsGroup2 2 200.000000 1.400000 0.070000 1.500000 8 2 []


# version 30001
"""
# Single values outside a loop, a quoted name with a space, and no box: it is read from the stack.
PAIRS = """data_optics

_rlnOpticsGroup 1
_rlnOpticsGroupName "first session"
_rlnVoltage 300.0
_rlnSphericalAberration 0.01
_rlnAmplitudeContrast 0.07
_rlnImagePixelSize 1.5
"""
PLAIN = (["rlnImageName", "rlnMicrographName", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnOpticsGroup"],
         "{0:06d}@a.mrcs mic00{1}.mrc {2:.2f} {3:.2f} 171.618 {4}")
POSED = (["rlnImageName", "rlnMicrographName", "rlnCoordinateX", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle",
          "rlnOpticsGroup", "rlnRandomSubset", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst",
          "rlnOriginYAngst", "rlnComment"],
         "{0:06d}@a.mrcs May08_03.05.02.bin_avg.png 579 {2:.1f} {3:.1f} -51.63 1 {4} 36.187 37.042 88.987 2.0 0.8 "
         "'good one'")
OLD = (["rlnImageName", "rlnMicrographName", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast",
        "rlnMagnification", "rlnDetectorPixelSize", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnOriginX",
        "rlnOriginY", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnBeamTiltX"],
       "{0:06d}@a.mrcs mic{1}.mrc 300 2.7 0.1 50000 {4} {2:.3f} {3:.3f} 12.5 -1.5 0.25 10 20 -30 0.{4}")


def _rows(name: str, layout: tuple[list[str], str]) -> str:
    labels, row = layout
    return (f"\ndata_{name}\n\nloop_\n" + "".join(f"_{label} #{i}\n" for i, label in enumerate(labels, 1))
            + "".join(row.format(i % 4 + 1, i % 3, 9585.53 + 7 * i, 9232.36 + 5 * i, i % 2 + 1) + "\n"
                      for i in range(12)) + "\n")


SOUND = (OPTICS + _rows("particles", PLAIN), OPTICS + _rows("particles", POSED), PAIRS + _rows("particles", POSED),
         _rows("images", OLD), _rows("", OLD).replace("_rlnDetectorPixelSize", "_rlnPixelSize"))
TOKENS = [b"nan", b"inf", b"-inf", b"1e400", b"1e308", b"-1e308", b"5e-324", b"-1", b"0", b"1000000000000",
          b"9" * 400, b"1e15", b"-0.0", b"1_0", b"0x10", b"\"", b"'", b"''", b"\"a b\"", b"'a\rb'",
          b"\"a\x0bb\x1b[31m\"", b"#", b"#1", b"loop_", b"data_", b"data_optics", b"data_particles",
          b"_rlnVoltage", b"_", b"[1,2", b"[1e400]", b"[,]", b"5@gone.mrcs", b"1@/", b"1@.", b"@",
          b"2147483648@a.mrcs", b"\xff\xfe", b"\x00", b"\xc2\x85", b"\xe2\x80\xa8", b"\xd9\xa3", b"x" * 5000,
          b"save_", b";", b"stop_", b"?", b""]
LINES = [b"loop_", b"data_optics", b"data_particles", b"data_\xff", b"_rlnVoltage 300", b"_rlnDefocusU #3",
         b"_rlnImageSize 9", b"_rlnRandomSubset 1", b"# comment", b";", b"\"", b"300 300", b"\x00",
         b"\xff\xfe\x80", b"1 " * 20000, b"x" * 200000, b"'" * 30000, b"\"a 'b " * 5000, b"", b"   ", b"\r"]
Damage = Callable[[random.Random, bytes], bytes]


def _of_lines(edit: Callable[[random.Random, list[bytes]], None]) -> Damage:
    def damage(chance: random.Random, raw: bytes) -> bytes:
        lines = raw.split(b"\n")
        edit(chance, lines)
        return b"\n".join(lines)
    return damage


def _of_words(edit: Callable[[random.Random, list[bytes]], None]) -> Damage:
    """Damage to the words of one line, which is not empty where there is such a line."""
    def change(chance: random.Random, lines: list[bytes]) -> None:
        filled = [i for i, line in enumerate(lines) if line.strip()] or [0]
        at = chance.choice(filled)
        words = lines[at].split(b" ")
        edit(chance, words)
        lines[at] = b" ".join(words)
    return _of_lines(change)


def _flip(chance: random.Random, raw: bytes) -> bytes:
    changed = bytearray(raw)
    for _ in range(min(len(raw), chance.choice([1, 1, 8]))):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def _column(chance: random.Random, raw: bytes) -> bytes:
    """One column of the last table left out, doubled or moved, in the rows alone or in the labels too."""
    head, mark, table = raw.rpartition(b"loop_\n")
    lines = table.split(b"\n")
    labels = [i for i, line in enumerate(lines) if line.startswith(b"_")]
    rows = [i for i, line in enumerate(lines) if line.strip() and i not in labels]
    if not labels:
        return raw
    at, kind = chance.randrange(len(labels)), chance.choice(["drop", "double", "move"])
    for i in rows:
        words = lines[i].split(b" ")
        if at < len(words):
            word = words[at]
            words[at : at + 1] = {"drop": [], "double": [word, word], "move": []}[kind]
            words += [word] if kind == "move" else []
        lines[i] = b" ".join(words)
    if chance.random() < 0.6:
        line = lines[labels[at]]
        lines[labels[at]] = {"drop": b"", "double": line + b"\n_rlnExtra", "move": b""}[kind]
        if kind == "move":
            lines[labels[-1]] += b"\n" + line
    return head + mark + b"\n".join(lines)


def _swap(chance: random.Random, items: list[bytes]) -> None:
    i, j = chance.randrange(len(items)), chance.randrange(len(items))
    items[i], items[j] = items[j], items[i]


DAMAGE: tuple[Damage, ...] = (
    _flip, _column,
    lambda chance, raw: raw[: chance.randrange(len(raw) + 1)],
    lambda chance, raw: raw.replace(b"\n", chance.choice([b"\r\n", b"\r", b"\n\n", b"\xe2\x80\xa8"])),
    lambda chance, raw: chance.choice([b"\xef\xbb\xbf" + raw, raw.decode("latin-1").encode("utf-16"), raw + raw]),
    lambda chance, raw: raw.replace(*chance.choice([
        (b" ", b"\t"), (b" ", b'" "'), (b"#", b"# "), (b" #", b"#"), (b"loop_", b"LOOP_"), (b"@", b"@>"), (b".", b","),
        (b"_rlnImageSize", b"_rlnBox"), (b"a.mrcs", b"gone.mrcs"), (b" 300", b" 1e308"),
        (b"data_optics", b"data_opt")])),
    _of_lines(lambda chance, lines: lines.insert(chance.randrange(len(lines) + 1), chance.choice(LINES))),
    _of_lines(lambda chance, lines: lines.insert(chance.randrange(len(lines) + 1), chance.choice(lines))),
    _of_lines(lambda chance, lines: lines.__delitem__(chance.randrange(len(lines)))),
    _of_lines(lambda chance, lines: lines.__delitem__(slice(*chance.choices(range(len(lines)), k=2)))),
    _of_lines(_swap), _of_words(_swap),
    _of_words(lambda chance, words: words.__setitem__(chance.randrange(len(words)), chance.choice(TOKENS))),
    _of_words(lambda chance, words: words.__setitem__(chance.randrange(len(words)), chance.choice(TOKENS))),
    _of_words(lambda chance, words: words.insert(chance.randrange(len(words) + 1), chance.choice(TOKENS))),
    _of_words(lambda chance, words: words.__delitem__(chance.randrange(len(words)))),
)


def damaged(seed: int, sound: int, edits: int) -> bytes:
    """A sound file after some random edits."""
    chance, raw = random.Random(seed), SOUND[sound].encode()
    for _ in range(edits):
        raw = chance.choice(DAMAGE)(chance, raw)
    return raw


def read_or_refuse(attempt: Callable[..., Any], path: Path) -> bool:
    """Read the file; returns whether it gave a table. A table must survive a new file, an error must be one line with
    the file's name."""
    def read() -> tuple[ParticleTable, ParticleTable]:
        table = read_star(path)
        write_star(path.with_name("again.star"), table)
        return table, read_star(path.with_name("again.star"))

    found = attempt(read, path.name)
    if found is None:
        return False
    table, again = found
    assert len(again) == len(table) > 0 and again.optics == table.optics
    assert again.image_index.tolist() == table.image_index.tolist()
    assert [path.resolve() for path in again.stacks] == [path.resolve() for path in table.stacks]
    assert again.group_names == table.group_names
    np.testing.assert_allclose(again.defocus.u.numpy(), table.defocus.u.numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(again.origins.numpy(), table.origins.numpy(), rtol=1e-6, atol=1e-6)
    assert (again.half is None) == (table.half is None) and (again.rotations is None) == (table.rotations is None)
    assert not [file.name for file in path.parent.iterdir() if file.name.endswith(".tmp")]
    return True


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a stack of four images of 8 pixels."""
    monkeypatch.chdir(tmp_path)
    write_stack(tmp_path / "a.mrcs", np.zeros((4, 8, 8), np.float32), 2.0)
    return tmp_path


@pytest.mark.parametrize("sound", range(len(SOUND)))
def test_the_undamaged_files_are_read_and_written(attempt, folder: Path, sound: int) -> None:
    (folder / "p.star").write_text(SOUND[sound])
    assert read_or_refuse(attempt, folder / "p.star")


@settings(max_examples=350, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), sound=st.integers(0, len(SOUND) - 1), edits=st.integers(1, 4))
def test_any_damaged_star_file_ends_in_a_table_or_one_line(
    attempt, folder: Path, seed: int, sound: int, edits: int
) -> None:
    (folder / "p.star").write_bytes(damaged(seed, sound, edits))
    read_or_refuse(attempt, folder / "p.star")


@pytest.mark.parametrize(("sound", "old", "new", "words"), [
    (1, "\ndata_particles", "_rlnExtra 7\n\ndata_particles", "table data_optics has columns of different lengths"),
    (0, "\nloop_\n_rlnImageName", "\n_rlnExtra 7\n\nloop_\n_rlnImageName", "data_particles has columns of different"),
    (2, "000001@a.mrcs", "000001@gone.mrcs", "row 1: the box is to come .*no image stack gone.mrcs; .*--data-dir"),
    (1, "36.187", "'36\r\x1b[31m'", r"row 1: rlnAngleRot is '36 \\x1b\[31m', not a finite number"),
    (1, "36.187", "\udcff", r"row 1: rlnAngleRot is '\\udcff', not"),
    (1, "36.187", "9" * 5000 + "x", "row 1: rlnAngleRot is '9{60}', not"),
    (3, "1 9585.530 9232.360 12.5 -1.5", "100 9000 9000 12.5 1e308", "row 1: rlnOriginXAngst is 'inf'"),
    (3, "50000 2", "50000 1e308", "rlnImagePixelSize is 'inf'"),
    (3, "50000 2", "1e-308 2", "rlnImagePixelSize is 'inf'"),
])
def test_what_the_damage_once_brought_to_light_is_one_line(
    attempt, folder: Path, sound: int, old: str, new: str, words: str
) -> None:
    raw = SOUND[sound].replace(old, new, 1)
    (folder / "p.star").write_bytes(raw.encode("utf-8", "surrogateescape"))
    assert not read_or_refuse(attempt, folder / "p.star")
    with pytest.raises(InputError, match=words):
        read_star(folder / "p.star")


def test_each_beam_tilt_of_the_old_layout_becomes_an_optics_group(folder: Path) -> None:
    labels, row = OLD
    count = 10_000
    rows = "".join(f"{row[:-5].format(1, 0, 9000, 8000, 2)}{i / count}\n" for i in range(count))
    (folder / "p.star").write_text("data_\nloop_\n" + "".join(f"_{label}\n" for label in labels) + rows)
    table = read_star(folder / "p.star")
    assert len(table.optics) == count
    assert table.optics[777].beam_tilt.x == pytest.approx(777 / count) and table.optics_index[777] == 777
