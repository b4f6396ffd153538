"""Whatever is wrong with a cryoSPARC file, reading gives a table or one line, quickly and with little memory."""

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
from halfmap.particles.cryosparc import read_cryosparc
from halfmap.particles.star import read_star, write_star
from halfmap.particles.table import ParticleTable

FIELDS = [("uid", "<u8"), ("blob/path", "S8"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,)),
          ("blob/psize_A", "<f4"), ("ctf/accel_kv", "<f4"), ("ctf/cs_mm", "<f4"), ("ctf/amp_contrast", "<f4"),
          ("ctf/df1_A", "<f4"), ("ctf/df2_A", "<f4"), ("ctf/tilt_A", "<f4", (2,)), ("ctf/exp_group_id", "<u4"),
          ("alignments3D/pose", "<f4", (3,)), ("alignments3D/shift", "<f4", (2,)), ("alignments3D/split", "<u4"),
          ("location/micrograph_path", "S8")]
PIECES = [b"<u8", b">f4", b"|O", b"'S9'", b"(1000000000000,)", b"(2,)", b"-1", b"uid", b"[", b"}", b"'", b"\\x", b"1e9",
          b"\x00", b"\xff\xff\xff\x7f", b"\x80", b"('a', [('b', '<f4')])", b"99999999999999999999", b"True", b"\n"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 20 particles with nothing wrong."""
    made = np.zeros(20, FIELDS)
    made["uid"], made["blob/path"], made["blob/idx"] = np.arange(20), b"a.mrcs", np.arange(20)
    for name, value in (("blob/shape", 32), ("blob/psize_A", 1.5), ("ctf/accel_kv", 300), ("ctf/cs_mm", 2.7),
                        ("ctf/amp_contrast", 0.1), ("ctf/df1_A", 9000), ("ctf/df2_A", 8000), ("alignments3D/pose", 1),
                        ("location/micrograph_path", b"m.mrc")):
        made[name] = value
    made["alignments3D/split"] = np.arange(20) % 2
    path = tmp_path_factory.mktemp("sound") / "sound.cs"
    with open(path, "wb") as stream:
        np.save(stream, made)
    assert len(read_cryosparc(path)) == 20
    return path


def read_or_refuse(attempt: Callable[..., Any], path: Path) -> None:
    """Read the file. A table must survive a STAR file, an error must be one line, and both must take little time and
    memory."""
    def read() -> tuple[ParticleTable, ParticleTable]:
        table = read_cryosparc(path)
        write_star(path.with_suffix(".star"), table)
        return table, read_star(path.with_suffix(".star"))

    found = attempt(read, path.name)
    if found is not None:
        table, again = found
        assert len(again) == len(table) and again.image_index.tolist() == table.image_index.tolist()


def _error(path: Path) -> str:
    with pytest.raises(InputError) as error:
        read_cryosparc(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def _with_header(path: Path, text: str, version: int = 1) -> Path:
    size = len(text).to_bytes(2 if version == 1 else 4, "little")
    path.write_bytes(b"\x93NUMPY" + bytes([version, 0]) + size + text.encode() + bytes(100))
    return path


@pytest.mark.parametrize(("text", "words"), [
    ("{'descr': [('uid', '<u8')], 'fortran_order': False, 'shape': (1000000000000,)}", "promises 1000000000000"),
    ("{'descr': [('uid', '<u8')], 'fortran_order': False, 'shape': (-1,)}", "promises -1"),
    ("{'descr': [('uid', '<u8')], 'fortran_order': False, 'shape': (2, 2)}", "not a table"),
    ("{'descr': [('uid', 'S0')], 'fortran_order': False, 'shape': (1000000000000,)}", "not a table"),
    ("{'descr': [('uid', '<u8', (10000, 10000))], 'fortran_order': False, 'shape': (1,)}", "promises 1"),
    ("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", "not a table"),
    ("{'descr': [('uid', 'nonsense')], 'fortran_order': False, 'shape': (1,)}", "cannot be understood"),
    ("__import__('os').system('true')", "header is damaged"),
    ("(" * 3000, "header is damaged"),
    ("{'descr': [('uid', '<u8')], 'fortran_order': False, 'shape': (0,)}", "no particles"),
])
def test_a_header_that_lies_is_refused(tmp_path: Path, text: str, words: str) -> None:
    assert words in _error(_with_header(tmp_path / "p.cs", text))


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.cs").write_bytes(b"\x94CSDAT" + bytes(100))
    assert "compressed stream" in _error(tmp_path / "p.cs")
    (tmp_path / "p.cs").write_bytes(b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100))
    assert "header is damaged" in _error(tmp_path / "p.cs")
    for raw in (b"", b"\x93NUMPY", b"data_particles\n\nloop_\n", b"\x93NUMPY\x07\x00" + bytes(20)):
        (tmp_path / "p.cs").write_bytes(raw)
        assert "not a cryoSPARC dataset" in _error(tmp_path / "p.cs")
    assert "cannot be read" in _error(tmp_path) and "cannot be read" in _error(tmp_path / "nowhere.cs")
    (tmp_path / "g.csg").write_text("group:\n  type: particle\nmetafile: '>p.cs'\n")
    assert "names no .cs files" in _error(tmp_path / "g.csg")
    (tmp_path / "g.csg").write_text("results:\n  blob:\n    metafile: '>gone.cs'\n")
    assert "names gone.cs, which is not there" in _error(tmp_path / "g.csg")


QUIET = [HealthCheck.function_scoped_fixture]


@settings(max_examples=250, suppress_health_check=QUIET)
@given(seed=st.integers(0, 2**32), edits=st.integers(1, 5))
def test_any_damage_to_the_header_ends_in_a_table_or_an_input_error(
    attempt, sound: Path, tmp_path: Path, seed: int, edits: int
) -> None:
    chance, raw = random.Random(seed), sound.read_bytes()
    for _ in range(edits):
        at, length = chance.randrange(1100), chance.choice([0, 1, 1, 3, 20])
        raw = raw[:at] + chance.choice([b"", bytes([chance.randrange(256)]), *PIECES]) + raw[at + length :]
    (tmp_path / "p.cs").write_bytes(raw)
    read_or_refuse(attempt, tmp_path / "p.cs")


@settings(max_examples=150, suppress_health_check=QUIET)
@given(seed=st.integers(0, 2**32), edits=st.integers(1, 40))
def test_any_damage_to_the_rows_ends_in_a_table_or_an_input_error(
    attempt, sound: Path, tmp_path: Path, seed: int, edits: int
) -> None:
    chance, raw = random.Random(seed), bytearray(sound.read_bytes())
    for _ in range(edits):
        raw[chance.randrange(900, len(raw))] = chance.randrange(256)
    (tmp_path / "p.cs").write_bytes(bytes(raw[: chance.choice([len(raw), len(raw), chance.randrange(len(raw))])]))
    read_or_refuse(attempt, tmp_path / "p.cs")


@settings(max_examples=60, suppress_health_check=QUIET)
@given(names=st.sets(st.sampled_from([field[0] for field in FIELDS]), max_size=3),
       kind=st.sampled_from(["<f8", "S5", "<i2", "?", "<c8", "V3", "<M8[s]", "<U4", ">u8"]),
       shape=st.sampled_from([(), (1,), (2,), (3, 2), (0,)]))
def test_fields_of_other_types_and_shapes_end_in_a_table_or_an_input_error(
    attempt, sound: Path, tmp_path: Path, names: set[str], kind: str, shape: tuple[int, ...]
) -> None:
    whole = np.load(sound)
    made = np.zeros(20, [(field[0], kind, shape) if field[0] in names else field for field in FIELDS])
    for name in {field[0] for field in FIELDS} - names:
        made[name] = whole[name]
    with open(tmp_path / "p.cs", "wb") as stream:
        np.save(stream, made)
    read_or_refuse(attempt, tmp_path / "p.cs")


@settings(max_examples=60, suppress_health_check=QUIET)
@given(raw=st.binary(max_size=300),
       start=st.sampled_from([b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00\x20\x00\x00\x00"]))
def test_any_bytes_end_in_an_input_error(tmp_path: Path, raw: bytes, start: bytes) -> None:
    for name in ("p.cs", "p.csg"):
        (tmp_path / name).write_bytes(start + raw)
        with pytest.raises(InputError):
            read_cryosparc(tmp_path / name)


@settings(max_examples=80, suppress_health_check=QUIET)
@given(st.text(st.sampled_from(list("results: \n'\">{},metafile:a.cs")), max_size=200))
def test_any_group_file_ends_in_a_table_or_an_input_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.csg").write_text("results:\n blob: {metafile: " + text)
    with pytest.raises(InputError):
        read_cryosparc(tmp_path / "p.csg")
