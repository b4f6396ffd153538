"""What a map file holds and where it lies, compared with gemmi and mrcfile, which read and write such files too."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest
import torch

from halfmap.errors import InputError
from halfmap.maps.grid import Angstroms, Placement, VoxelIndex
from halfmap.maps.header import header_facts
from halfmap.maps.mrc import read_map, read_volume, write_map

CELL, PIXEL = 20, 1.5  # points along an axis of the cell, and their distance in A


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def _file(path: Path, data: np.ndarray, start: tuple = (0, 0, 0), origin: tuple = (0, 0, 0), **fields: int) -> Path:
    """A map of voxels of 1.5 A; start and origin as x, y, z."""
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(data)
        mrc.set_volume()
        mrc.voxel_size = PIXEL
        mrc.nstart, mrc.header.origin = start, origin
        for name, value in fields.items():
            mrc.header[name] = value
    return path


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1), (3, 1, 2), (2, 1, 3)])
def test_every_voxel_of_a_part_of_a_cell_lies_where_gemmi_puts_it(tmp_path: Path, order: tuple) -> None:
    size, start = (7, 5, 6), (-2, 3, 1)  # along x, y, z
    file = _noise(*(size[axis - 1] for axis in order[::-1]))
    path = _file(tmp_path / "part.mrc", file, tuple(start[axis - 1] for axis in order), mx=CELL, my=CELL, mz=CELL)
    with mrcfile.open(path, "r+") as mrc:
        mrc.header.mapc, mrc.header.mapr, mrc.header.maps = order
        mrc.header.cella = (CELL * PIXEL,) * 3
    read = read_map(path)
    theirs = gemmi.read_ccp4_map(str(path))
    theirs.setup(float("nan"), gemmi.MapSetup.NoSymmetry)
    there = np.asarray(theirs.grid)  # [x, y, z] of the whole cell, NaN where the file says nothing
    assert np.isfinite(there).sum() == file.size and read.pixel_size == pytest.approx(PIXEL)
    assert read.shape == size[::-1] and read.data.shape == (7, 7, 7)
    at = np.argwhere(np.isfinite(there))
    here = (at - np.array(read.placement.start)) % CELL
    np.testing.assert_array_equal(read.data.numpy()[tuple(here[:, ::-1].T)], there[tuple(at.T)])


@pytest.mark.parametrize("start,origin", [
    ((0, 0, 0), (0.0, 0.0, 0.0)), ((-4, 2, 9), (0.0, 0.0, 0.0)), ((0, 0, 0), (3.0, -7.5, 2.25)),
    ((-4, 2, 9), (3.0, -7.5, 2.25)), ((-4, 0, 0), (0.0, 0.0, 1.5)),
])  # fmt: skip
@pytest.mark.parametrize("shape", [(6, 6, 6), (8, 5, 4), (5, 8, 7)])
def test_a_map_padded_to_a_cube_stays_where_it_is(tmp_path: Path, shape: tuple, start: tuple, origin: tuple) -> None:
    data = _noise(*shape)
    read = read_map(_file(tmp_path / "map.mrc", data, start, origin))
    write_map(tmp_path / "new.mrc", read.data, PIXEL, placement=read.placement)
    with mrcfile.open(tmp_path / "new.mrc") as mrc:
        new, header = mrc.data.copy(), mrc.header
        begins = [int(header[f"n{axis}start"]) for axis in "xyz"]
        places = [float(header.origin[axis]) for axis in "xyz"]
    assert mrcfile.validate(tmp_path / "new.mrc") and new.shape == (max(shape),) * 3
    inside = tuple(slice(first, first + n) for first, n in zip(
        [max(shape) // 2 - n // 2 for n in shape], shape, strict=True))
    np.testing.assert_array_equal(new[inside], data)
    before = np.array([part.start for part in inside][::-1])
    # The first voxel of the old map, by what either kind of program reads.
    if any(origin):
        assert any(places)
        np.testing.assert_allclose(places + before * PIXEL, origin, atol=1e-6)
    else:
        assert not any(places)
    np.testing.assert_array_equal(begins + before, start)


def test_an_origin_that_padding_brings_to_zero_does_not_let_other_start_indices_speak(tmp_path: Path) -> None:
    read = read_map(_file(tmp_path / "map.mrc", _noise(8, 8, 4), (5, 5, 5), (3.0, 0.0, 0.0)))
    assert read.placement == Placement() and read.placement.corner(PIXEL).tolist() == [0, 0, 0]


def test_solvent_around_a_map_and_nothing_around_a_mask_is_what_padding_adds(tmp_path: Path) -> None:
    data = np.full((8, 8, 5), 7.0, np.float32)
    data[2:6, 2:6, 0:3] = 100
    path = _file(tmp_path / "map.mrc", data)
    beyond = torch.ones(8, 8, 8, dtype=torch.bool)
    beyond[:, :, 2:7] = False
    assert read_map(path).data[beyond].unique().tolist() == [7]
    assert read_map(path, outside=0.0).data[beyond].unique().tolist() == [0]
    assert read_volume(path).data.shape == (8, 8, 5)


@pytest.mark.parametrize("name,shape,group,deep,kind", [
    ("m.mrc", (8, 8, 8), 1, 8, "map"), ("m.mrc", (8, 8, 8), 0, 8, "map"), ("m.mrc", (6, 8, 8), 1, 6, "map"),
    ("m.mrc", (6, 8, 8), 1, 40, "map"), ("m.mrc", (6, 8, 8), 1065353216, 6, "map"), ("m.mrc", (6, 8, 7), 0, 6, "map"),
    ("m.map", (6, 8, 8), 19, 0, "map"), ("m.mrc", (8, 8, 8), 1065353216, 8, "map"),
    ("m.mrc", (6, 8, 8), 0, 1, "image stack"), ("m.mrc", (6, 8, 8), 0, 6, "image stack"),
    ("m.mrc", (6, 8, 8), 1, 1, "image stack"), ("m.mrcs", (6, 8, 8), 1, 6, "image stack"),
    ("m.mrc", (90, 8, 8), 1, 90, "image stack"), ("m.mrcs", (8, 8, 8), 0, 8, "image stack"),
    ("m.mrc", (8, 8, 8), 0, 1, "image stack"), ("m.mrc", (8, 8, 8), 401, 2, "stack of volumes"),
    ("m.mrc", (16, 8, 8), 630, 8, "stack of volumes"), ("m.mrc", (8, 8, 8), 401, 8, "map"),
    ("m.mrc", (8, 8, 8), 631, 2, "map"),
])  # fmt: skip
def test_a_file_is_what_its_header_and_its_name_make_it(tmp_path, name, shape, group, deep, kind) -> None:
    path = _file(tmp_path / name, _noise(*shape), ispg=group, mz=deep)
    with mrcfile.open(path, "r+", permissive=True) as mrc:
        mrc.header.cella.z = PIXEL * (deep or shape[0])
    assert header_facts(path).kind == kind
    if kind == "map":
        np.testing.assert_array_equal(read_volume(path).data.numpy(), _noise(*shape))
    elif len(set(shape)) > 1:
        with pytest.raises(InputError, match=kind):
            read_map(path)


def test_the_volumes_of_a_stack_are_not_taken_for_one_map(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "four.mrc") as mrc:
        mrc.set_data(_noise(4, 2, 8, 8))
        mrc.voxel_size = PIXEL
        assert mrc.is_volume_stack()
    with pytest.raises(InputError, match=r"stack of volumes of 2 sections each \(space group 401\)"):
        read_map(tmp_path / "four.mrc")


def test_an_oblique_grid_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path / "map.mrc", _noise(8, 8, 8))
    for angles, fine in (((90, 90, 120), False), ((90, 90, 90), True), ((0, 0, 0), True)):
        with mrcfile.open(path, "r+") as mrc:
            mrc.header.cellb = angles
        if fine:
            read_map(path)
        else:
            with pytest.raises(InputError, match="not at right angles"):
                read_map(path)


def test_bytes_that_imod_marks_as_unsigned_are(tmp_path: Path) -> None:
    data = np.arange(-100, 116).reshape(6, 6, 6).astype(np.int8)
    path = _file(tmp_path / "bytes.mrc", data)
    assert read_map(path).data.min() == -100
    for order, flags, expected in (("<", 1, data), ("<", 4, data.view(np.uint8)), (">", 0, data.view(np.uint8))):
        raw = bytearray(path.read_bytes())
        if order == ">":
            raw[:112] = np.frombuffer(raw[:112], "<i4").byteswap().tobytes()
        struct.pack_into(f"{order}2i", raw, 152, 1146047817, flags)
        (tmp_path / "imod.mrc").write_bytes(raw)
        np.testing.assert_array_equal(read_map(tmp_path / "imod.mrc").data.numpy(), expected.astype(np.float32))


@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">i2", "<f2", "<u2"])
def test_frames_are_read_in_any_byte_order_mode_and_packing_behind_an_extended_header(tmp_path, dtype: str) -> None:
    data = np.random.default_rng(0).integers(0, 90, (5, 8, 6)).astype(dtype)
    path = _file(tmp_path / "map.mrc", data, (-3, 4, -5), (1.5, -3.0, 6.0))
    with mrcfile.open(path, "r+") as mrc:
        mrc.set_extended_header(np.frombuffer(b"x" * 320, dtype="V80"))
    (tmp_path / "packed.map.gz").write_bytes(gzip.compress(path.read_bytes()))
    for found in (read_volume(path), read_volume(tmp_path / "packed.map.gz")):
        np.testing.assert_array_equal(found.data.numpy(), data.astype(np.float32))
        assert found.placement == Placement(VoxelIndex(-3, 4, -5), Angstroms(1.5, -3.0, 6.0))


def test_what_stands_where_origin_and_start_are_but_is_neither_is_none(tmp_path: Path) -> None:
    path = _file(tmp_path / "map.mrc", _noise(6, 6, 6), (2**30, 0, 0), (float("nan"), 0, 0))
    assert read_map(path).placement == Placement()
    path = _file(tmp_path / "map.mrc", _noise(6, 6, 6), (0, 0, 0), (5, 0, 0))
    raw = bytearray(path.read_bytes())
    raw[208:212] = bytes(4)  # a file from before the stamp has other things there
    path.write_bytes(raw)
    assert read_map(path).placement == Placement()
