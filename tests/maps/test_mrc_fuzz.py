"""A map or stack damaged at random gives finite values or one clear line, quickly and with little memory."""

from __future__ import annotations

import gzip
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halfmap.errors import InputError
from halfmap.maps.mrc import read_map
from halfmap.particles.stack import check_stacks
from halfmap.particles.stack_reader import KEPT, StackReader
from halfmap.particles.star import read_star
from halfmap.particles.table import ParticleTable

BOX, COUNT = 8, 5
TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
MODES = tuple(TYPES)
# Bytes of the header where a field of four bytes begins: sizes, mode, cells, sides, axes, extended header, stamp.
WORDS = (*range(0, 64, 4), 64, 68, 72, 88, 92, 104, 108, 196, 208, 212, 220)
SIZES = (0, 1, 2, 6, 7, 9, 12, 101, 256, 1024, 1290, 46341, 65535, 65536, 2**24, 2**26, 2**31 - 1, -1, -8, -(2**31))
FLOATS = (float("nan"), float("inf"), -float("inf"), 1e38, 1e-38, 1e-45, -1.5, 0.0)
PIECES = (b"", b"\x00", b"\x00" * 1024, b"\xff" * 64, b"MAP ", b"\x1f\x8b", b"\x1f\x8b\x08\x04\xff\xff", b"data_\n")
STAR = """data_optics
loop_
_rlnOpticsGroup
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
_rlnImagePixelSize
{0}
1 300 2.7 0.1 1.5 {1}

data_particles
loop_
_rlnImageName
_rlnDefocusU
_rlnDefocusV
_rlnDefocusAngle
_rlnOpticsGroup
{2}"""


def header(sections: int, mode: int, order: str, extended: int = 0) -> bytes:
    """A header by the letter of MRC2014 for sections of 8 x 8 values."""
    raw = bytearray(1024)
    struct.pack_into(f"{order}10i", raw, 0, BOX, BOX, sections, mode, 0, 0, 0, BOX, BOX, sections)
    struct.pack_into(f"{order}6f3i", raw, 40, 1.5 * BOX, 1.5 * BOX, 1.5 * sections, 90, 90, 90, 1, 2, 3)
    struct.pack_into(f"{order}2i", raw, 88, 1, extended)
    raw[208:216] = b"MAP " + (b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0")
    return bytes(raw)


def sound(sections: int, mode: int, order: str, extended: int) -> bytes:
    """An undamaged file; its values are 1, 2, 3, .. modulo 100."""
    values = (np.arange(1, sections * BOX * BOX + 1) % 100).astype(order + TYPES[mode])
    return header(sections, mode, order, extended) + bytes(extended) + values.tobytes()


def _edited(chance: random.Random, raw: bytes, order: str) -> bytes:
    """The bytes after one random edit."""
    changed, kind = bytearray(raw), chance.choice(["flip", "word", "word", "float", "cut", "insert", "delete", "double",
                                                   "stamp", "values", "swap"])
    at = chance.choice([chance.randrange(1, 240), chance.randrange(1, max(2, len(raw)))])
    if kind == "cut":
        return raw[:at]
    if kind in ("insert", "delete", "double"):
        length = chance.choice([1, 4, 200])
        piece = {"insert": chance.choice(PIECES), "delete": b"", "double": raw[at : at + length] * 2}[kind]
        return raw[:at] + piece + raw[at + length * (kind != "insert") :]
    if len(raw) < 1100:
        return raw
    if kind == "word":
        struct.pack_into(chance.choice([order, "<", ">"]) + "i", changed, chance.choice(WORDS), chance.choice(SIZES))
    elif kind == "float":
        struct.pack_into(order + "f", changed, chance.choice([40, 44, 48, 52, 196]), chance.choice(FLOATS))
    elif kind == "stamp":
        changed[208:216] = chance.choice([bytes(8), b"MAP \x11\x11\0\0", b"MAP \x44\x44\0\0", b"\xff" * 8])
    elif kind == "values":
        changed[1024:] = chance.choice([bytes(len(raw) - 1024), b"\xff" * (len(raw) - 1024), b"\x7f\x80" * 200])
    elif kind == "swap":
        changed[:64] = np.frombuffer(raw[:64], "<i4").byteswap().tobytes()
    else:
        for _ in range(chance.choice([1, 1, 10])):
            changed[chance.choice([at, chance.randrange(len(raw))])] = chance.randrange(256)
    return bytes(changed)


def damaged(seed: int, sections: int, mode: int, edits: int) -> bytes:
    """A sound file after some random edits; one in four is gzipped before or after them."""
    chance = random.Random(seed)
    order, packed = chance.choice("<<>"), chance.choice(["", "", "", "", "", "", "before", "after"])
    raw = sound(sections, mode, order, chance.choice([0, 0, 320]))
    raw = gzip.compress(raw, mtime=0) if packed == "before" else raw
    for _ in range(edits):
        raw = _edited(chance, raw, order)
    return gzip.compress(raw, mtime=0) if packed == "after" else raw


def map_or_refusal(attempt: Callable[..., Any], path: Path) -> bool:
    """Read a map; returns whether it could be read."""
    found = attempt(lambda: read_map(path), path.name)
    if found is None:
        return False
    assert found.data.dtype == torch.float32 and len(set(found.data.shape)) == 1 and found.data.is_contiguous()
    assert bool(found.data.isfinite().all()) and 0.0 < found.pixel_size < float("inf")
    return True


def stack_or_refusal(attempt: Callable[..., Any], star: Path, stack: Path) -> bool:
    """Read all images of a stack through its STAR file; returns whether they could be read."""
    def read() -> tuple[ParticleTable, np.ndarray]:
        table = read_star(star)
        check_stacks(table)
        with StackReader(table) as reader:
            return table, reader.read(np.arange(len(table))[::-1])

    found = attempt(read, stack.name)
    if found is None:
        return False
    table, images = found
    box = table.optics[0].box
    assert images.shape == (COUNT, box, box) and images.dtype in KEPT
    return True


def write_star_of(star: Path, with_box: bool) -> None:
    """A STAR file for all images of s.mrcs; without a box this comes from the stack's header."""
    rows = "".join(f"{i:06d}@s.mrcs 9000 8000 10 1\n" for i in range(1, COUNT + 1))
    star.write_text(STAR.format(*(("_rlnImageSize", BOX) if with_box else ("_rlnImageDimensionality", 2)), rows))


QUIET = [HealthCheck.function_scoped_fixture]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("mode", MODES)
def test_undamaged_files_are_read_value_for_value(
    attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, order: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.mrc").write_bytes(sound(BOX, mode, order, 320))
    assert map_or_refusal(attempt, tmp_path / "m.mrc")
    assert read_map(tmp_path / "m.mrc").data.ravel().tolist() == [i % 100 for i in range(1, BOX**3 + 1)]
    (tmp_path / "s.mrcs").write_bytes(sound(COUNT, mode, order, 320))
    write_star_of(tmp_path / "p.star", with_box=mode > 1)
    assert stack_or_refusal(attempt, tmp_path / "p.star", tmp_path / "s.mrcs")


@settings(max_examples=350, suppress_health_check=QUIET)
@given(seed=st.integers(0, 2**32), mode=st.sampled_from(MODES), edits=st.integers(1, 4))
def test_any_damaged_map_ends_in_finite_values_or_one_line(
    attempt, tmp_path: Path, seed: int, mode: int, edits: int
) -> None:
    (tmp_path / "m.mrc").write_bytes(damaged(seed, BOX, mode, edits))
    map_or_refusal(attempt, tmp_path / "m.mrc")


@settings(max_examples=250, suppress_health_check=[*QUIET])
@given(seed=st.integers(0, 2**32), mode=st.sampled_from(MODES), edits=st.integers(1, 4), with_box=st.booleans())
def test_any_damaged_stack_ends_in_images_or_one_line(
    attempt, tmp_path: Path, seed: int, mode: int, edits: int, with_box: bool
) -> None:
    stack, before = tmp_path / "s.mrcs", Path.cwd()
    os.chdir(tmp_path)
    try:
        stack.write_bytes(damaged(seed, COUNT, mode, edits))
        write_star_of(tmp_path / "p.star", with_box)
        stack_or_refusal(attempt, tmp_path / "p.star", stack)
    finally:
        os.chdir(before)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("words", "said"), [
    ({0: 65535, 4: 65535, 8: 65535}, "truncated"),
    ({0: 1290, 4: 1290, 8: 1290}, "truncated"),
    ({0: 65536, 4: 65536, 8: 65536}, "not an MRC file"),
    ({0: 2**31 - 1, 4: 2**31 - 1, 8: 2**31 - 1}, "not an MRC file"),
    ({0: -8}, "not an MRC file"),
    ({92: 2**31 - 1}, "truncated"),
    ({92: -1}, "not an MRC file"),
])
def test_a_header_that_promises_too_much_is_refused_before_memory_is_taken(
    attempt, tmp_path: Path, words: dict[int, int], said: str, packed: bool
) -> None:
    raw = bytearray(sound(BOX, 2, "<", 0))
    for at, value in words.items():
        struct.pack_into("<i", raw, at, value)
    (tmp_path / "m.mrc").write_bytes(gzip.compress(raw) if packed else raw)
    assert not map_or_refusal(attempt, tmp_path / "m.mrc")
    with pytest.raises(InputError, match=said):
        read_map(tmp_path / "m.mrc")


def test_a_gzipped_map_with_another_check_sum_is_refused(tmp_path: Path) -> None:
    raw = bytearray(gzip.compress(sound(BOX, 2, "<", 0)))
    raw[-6] ^= 1
    (tmp_path / "m.mrc.gz").write_bytes(raw)
    with pytest.raises(InputError, match=r"m\.mrc\.gz: the compressed file is damaged"):
        read_map(tmp_path / "m.mrc.gz")


def test_an_extended_header_longer_than_the_stack_leaves_it_no_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = bytearray(sound(COUNT, 2, "<", 0))
    struct.pack_into("<i", raw, 92, 1_000_000)
    (tmp_path / "s.mrcs").write_bytes(raw)
    write_star_of(tmp_path / "p.star", with_box=True)
    with pytest.raises(InputError, match="should hold 5 images, holds 0"):
        check_stacks(read_star(tmp_path / "p.star"))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.mrc")
    with pytest.raises(InputError, match=r"m\.mrc: cannot be read"):
        read_map(tmp_path / "m.mrc")
