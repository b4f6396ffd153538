"""Maps and stacks on disk, compared with the mrcfile package and with headers made by hand."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from halfmap.errors import InputError
from halfmap.maps.mrc import StackWriter, read_header, read_map, replaced_atomically, write_map, write_stack

TYPES = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}


def _volume(box: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(box).integers(0, 100, (box, box, box)).astype(dtype)


def _mrc(path: Path, data: np.ndarray, pixel_size: float = 1.5) -> Path:
    with mrcfile.new(path) as mrc:
        mrc.set_data(data)
        mrc.set_volume()
        mrc.voxel_size = pixel_size
    return path


def _patched(path: Path, offset: int, layout: str, *values: object) -> Path:
    raw = bytearray(path.read_bytes())
    struct.pack_into(layout, raw, offset, *values)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("box", [7, 8])
@pytest.mark.parametrize("mode", TYPES)
def test_a_map_of_any_mode_reads_as_mrcfile_wrote_it(tmp_path: Path, mode: int, box: int) -> None:
    data = _volume(box, TYPES[mode])
    if mode == 0:
        data -= 60  # signed bytes
    found = read_map(_mrc(tmp_path / "map.mrc", data))
    assert found.data.dtype == torch.float32 and found.pixel_size == pytest.approx(1.5, rel=1e-6)
    np.testing.assert_array_equal(found.data.numpy(), data.astype(np.float32))


@pytest.mark.parametrize("box", [7, 8])
def test_a_written_map_is_valid_and_reads_back_in_mrcfile(tmp_path: Path, box: int) -> None:
    data = torch.from_numpy(_volume(box) - 50)
    write_map(tmp_path / "map.mrc", data, 1.0425)
    assert mrcfile.validate(tmp_path / "map.mrc")
    with mrcfile.open(tmp_path / "map.mrc") as mrc:
        np.testing.assert_array_equal(mrc.data, data.numpy())
        assert mrc.is_volume() and mrc.voxel_size.x == pytest.approx(1.0425, rel=1e-6)
        header = mrc.header
        assert (header.nxstart, header.nystart, header.nzstart) == (0, 0, 0) and header.origin.x == 0.0
        assert (header.mapc, header.mapr, header.maps) == (1, 2, 3) and header.ispg == 1
        assert bytes(header.machst)[:2] == b"\x44\x44" and header.map == b"MAP "
        assert header.dmean == pytest.approx(data.mean().item(), abs=1e-4)
        assert header.rms == pytest.approx(data.std(unbiased=False).item(), rel=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["map.mrc"]


def test_a_gzipped_map_reads_whatever_it_is_called(tmp_path: Path) -> None:
    data = _volume(8)
    plain = _mrc(tmp_path / "map.mrc", data)
    for name in ("map.mrc.gz", "emd_1234.map"):
        (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
        np.testing.assert_array_equal(read_map(tmp_path / name).data.numpy(), data)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1), (3, 1, 2), (2, 1, 3)])
def test_axes_in_any_order_come_back_as_z_y_x(tmp_path: Path, order: tuple[int, int, int]) -> None:
    data = _volume(6)
    columns, rows, sections = order
    # The file's array is (sections, rows, columns); axis 1 is x, the last of data[z,y,x].
    stored = np.ascontiguousarray(data.transpose([3 - sections, 3 - rows, 3 - columns]))
    path = _patched(_mrc(tmp_path / "map.mrc", stored), 64, "<3i", *order)
    np.testing.assert_array_equal(read_map(path).data.numpy(), data)


def test_extended_headers_and_start_indices_do_not_move_the_map(tmp_path: Path) -> None:
    data = _volume(8)
    path = _mrc(tmp_path / "map.mrc", data)
    with mrcfile.open(path, mode="r+") as mrc:
        mrc.set_extended_header(np.frombuffer(b"x" * 320, dtype="V80"))
        mrc.nstart = (-4, -4, -4)
        mrc.header.origin = (3.0, 4.0, 5.0)
    np.testing.assert_array_equal(read_map(path).data.numpy(), data)


@pytest.mark.parametrize("dtype", [">f4", ">i2", ">f2"])
@pytest.mark.parametrize("box", [8, 256])
def test_big_endian_maps_read(tmp_path: Path, dtype: str, box: int) -> None:
    if box == 256:  # the size whose bytes, swapped, are a number as plausible as itself
        data = np.zeros((box, box, box), dtype)
        data[3, 4, 5] = 7
    else:
        data = _volume(box).astype(dtype)
    path = _mrc(tmp_path / "map.mrc", data)
    assert path.read_bytes()[:4] == struct.pack(">i", box)
    np.testing.assert_array_equal(read_map(path).data.numpy(), data.astype(np.float32))


def test_a_header_without_stamp_and_axis_order_is_read(tmp_path: Path) -> None:
    data = _volume(8)
    path = _patched(_mrc(tmp_path / "map.mrc", data), 64, "<3i", 0, 0, 0)
    _patched(_patched(path, 208, "<4s", b"\0\0\0\0"), 28, "<3i", 0, 0, 0)
    assert read_map(path).pixel_size == pytest.approx(1.5)


def _faulty(tmp_path: Path, fault: str) -> Path:
    path = _mrc(tmp_path / "map.mrc", _volume(8))
    raw = path.read_bytes()
    if fault == "missing":
        path.unlink()
    elif fault == "a folder":
        path.unlink()
        path.mkdir()
    elif fault == "truncated":
        path.write_bytes(raw[:-1])
    elif fault == "damaged gzip":
        path.write_bytes(gzip.compress(raw)[:-200])
    elif fault == "text":
        path.write_bytes(b"data_particles\n" * 200)
    elif fault == "short":
        path.write_bytes(raw[:1000])
    elif fault == "empty":
        path.write_bytes(b"")
    elif fault == "a stack":
        path = _mrc(tmp_path / "flat.mrc", np.zeros((4, 8, 8), np.float32))
        _patched(path, 88, "<i", 0)
    elif fault == "NaN":
        data = _volume(8)
        data[1, 2, 3] = np.nan
        path = _mrc(tmp_path / "nan.mrc", data)
    elif fault == "no pixel size":
        _patched(path, 40, "<3f", 0, 0, 0)
    elif fault == "oblong voxels":
        _patched(path, 40, "<3f", 12, 12, 13)
    elif fault == "mode 4":
        _patched(path, 12, "<i", 4)
    elif fault == "mode 101":
        _patched(path, 12, "<i", 101)
    elif fault == "axes":
        _patched(path, 64, "<3i", 1, 1, 3)
    return path


@pytest.mark.parametrize(
    "fault, words",
    [
        ("missing", "cannot be read"),
        ("a folder", "cannot be read"),
        ("truncated", "truncated"),
        ("damaged gzip", "damaged"),
        ("text", "not an MRC"),
        ("short", "not an MRC"),
        ("empty", "not an MRC"),
        ("a stack", "8 x 8 x 4 voxels, an image stack"),
        ("NaN", "not finite"),
        ("no pixel size", "pixel size"),
        ("oblong voxels", "not cubes"),
        ("mode 4", "mode 4"),
        ("mode 101", "mode 101"),
        ("axes", "axis order"),
    ],
)
def test_a_faulty_map_is_an_input_error_that_names_the_file(tmp_path: Path, fault: str, words: str) -> None:
    path = _faulty(tmp_path, fault)
    with pytest.raises(InputError, match=words) as error:
        read_map(path)
    assert path.name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("box", [7, 8])
@pytest.mark.parametrize("dtype, mode", [("float32", 2), ("float16", 12), ("int8", 0)])
def test_a_stack_written_in_pieces_reads_back_in_mrcfile(
    tmp_path: Path, dtype: str, mode: int, box: int
) -> None:
    images = np.random.default_rng(1).normal(scale=20, size=(5, box, box)).astype(np.float32)
    path = tmp_path / "stack.mrcs"
    with StackWriter(path, 5, box, 2.0, dtype) as writer:
        writer.write(torch.from_numpy(images[:2]))
        writer.write(images[2:])
        assert not path.exists()
    # mrcfile sums squares of float16 in float16 and so doubts a header that is right.
    assert dtype == "float16" or mrcfile.validate(path)
    with mrcfile.open(path) as mrc:
        assert mrc.is_image_stack() and mrc.header.mode == mode and mrc.voxel_size.x == pytest.approx(2.0)
        expected = np.rint(images) if dtype == "int8" else images.astype(dtype)
        np.testing.assert_array_equal(mrc.data, expected)
        assert mrc.header.dmean == pytest.approx(expected.mean(dtype=np.float64), abs=1e-4)
        assert mrc.header.rms == pytest.approx(expected.std(dtype=np.float64), rel=1e-4)
    assert read_header(path).shape == (5, box, box)


def test_bytes_are_clipped_not_wrapped(tmp_path: Path) -> None:
    write_stack(tmp_path / "s.mrcs", np.array([[[-300.0, 300.0], [1.4, 1.6]]]), 1.0, "int8")
    np.testing.assert_array_equal(mrcfile.read(tmp_path / "s.mrcs").ravel(), [-128, 127, 1, 2])


def test_a_stack_that_is_not_finished_leaves_nothing_behind(tmp_path: Path) -> None:
    images = np.zeros((1, 4, 4), np.float32)
    with pytest.raises(ValueError, match="1 of 2"), StackWriter(tmp_path / "s.mrcs", 2, 4, 1.0) as writer:
        writer.write(images)
    with pytest.raises(ZeroDivisionError), StackWriter(tmp_path / "s.mrcs", 2, 4, 1.0) as writer:
        writer.write(images * (1 / 0))
    with pytest.raises(ValueError, match="do not fit"), StackWriter(tmp_path / "s.mrcs", 1, 4, 1.0) as writer:
        writer.write(np.zeros((2, 4, 4), np.float32))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), replaced_atomically(path) as stream:
        stream.write(b"new")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_writing_into_a_folder_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_map(tmp_path / "nowhere" / "map.mrc", torch.zeros(4, 4, 4), 1.0)
    with pytest.raises(InputError, match="cannot be written"):
        write_stack(tmp_path / "nowhere" / "s.mrcs", torch.zeros(1, 4, 4), 1.0)
