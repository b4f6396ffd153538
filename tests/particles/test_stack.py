"""Images come back right from any stack, in any order, and a faulty stack is named before the run."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from halfmap.errors import InputError
from halfmap.particles.read_ahead import read_ahead
from halfmap.particles.stack import check_stacks
from halfmap.particles.stack_files import StackFiles
from halfmap.particles.stack_reader import StackReader
from halfmap.particles.star import read_star
from halfmap.particles.table import ParticleTable

Columns = dict[str, list[object]]
Text = Callable[..., str]
Make = Callable[[list[str], int], ParticleTable]


@pytest.fixture
def table_of(project: Path, star_text: Text, optics: Columns) -> Make:
    """A table with the given image names and box."""

    def make(names: list[str], box: int) -> ParticleTable:
        one = {label: values[:1] for label, values in optics.items()} | {"rlnImageSize": [box]}
        zeros = {label: [0] * len(names) for label in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")}
        path = project / "some.star"
        path.write_text(star_text(optics=one, particles={"rlnImageName": names} | zeros))
        return read_star(path)

    return make


def _stack(path: Path, data: np.ndarray, extended: bytes = b"") -> np.ndarray:
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(data)
        mrc.set_image_stack()
        if extended:
            mrc.set_extended_header(np.frombuffer(extended, f"V{len(extended)}"))
    return data.astype(np.float32)


@pytest.mark.parametrize("box", [7, 8])
@pytest.mark.parametrize("dtype", ["i1", "i2", "f4", "u2", "f2", ">i2", ">f4", ">u2", ">f2"])
def test_images_of_any_type_and_size_read_as_mrcfile_wrote_them(table_of: Make, dtype: str, box: int) -> None:
    low = 0 if "u" in dtype else -100
    data = np.random.default_rng(0).integers(low, 127, (6, box, box)).astype(dtype)
    expected = _stack(Path("s.mrcs"), data, extended=b"e" * 240)
    order = [3, 1, 6, 2, 4, 4]
    table = table_of([f"{i}@s.mrcs" for i in order], box)
    check_stacks(table)
    with StackReader(table) as reader:
        images = reader.read(np.arange(6))
    assert images.dtype == (dtype if dtype in ("i1", "i2", "f2") else np.float32)
    np.testing.assert_array_equal(images, expected[np.array(order) - 1])


def test_any_subset_in_any_order_of_many_stacks_is_right(table_of: Make) -> None:
    count, most = 25, 16  # more stacks than stay open
    chance = np.random.default_rng(1)
    stacks = [
        _stack(Path(f"s{i}.mrcs"), chance.normal(size=(5, 4, 4)).astype(np.float32)) for i in range(count)
    ]
    place = chance.integers(0, [count, 5], (400, 2))
    table = table_of([f"{image + 1:06d}@s{stack}.mrcs" for stack, image in place], 4)
    check_stacks(table)
    reader = StackReader(table, StackFiles(most))
    for index in (np.arange(400), chance.permutation(400)[:123], np.array([7]), np.array([], np.int64)):
        expected = np.array([stacks[stack][image] for stack, image in place[index]]).reshape(-1, 4, 4)
        np.testing.assert_array_equal(reader.read(index).reshape(expected.shape), expected)


def test_a_single_image_file_is_a_stack_of_one(table_of: Make) -> None:
    data = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    mrcfile.write("one.mrc", data)
    table = table_of(["one.mrc"], 8)
    check_stacks(table)
    with StackReader(table) as reader:
        np.testing.assert_array_equal(reader.read(np.array([0]))[0], data)


def _break(path: Path, fault: str) -> None:
    if fault == "missing":
        path.unlink()
    elif fault == "truncated":
        path.write_bytes(path.read_bytes()[: 1024 + 2 * 576 + 100])
    elif fault == "other size":
        _stack(path, np.zeros((4, 10, 10), np.float32))
    elif fault == "not square":
        _stack(path, np.zeros((4, 12, 10), np.float32))
    elif fault == "too short":
        _stack(path, np.zeros((3, 12, 12), np.float32))
    elif fault == "complex":
        _stack(path, np.zeros((4, 12, 12), np.complex64))
    elif fault == "no MRC":
        path.write_bytes(b"hello" * 1000)
    elif fault == "compressed":
        path.write_bytes(gzip.compress(path.read_bytes()))


FAULTS = [
    ("missing", "row 1: there is no image stack .*a.mrcs.*--data-dir"),
    ("truncated", "row 2: .*a.mrcs is truncated: it should hold 4 images, holds 2, and image 3"),
    ("other size", "row 1: images in .*a.mrcs have 10 x 10 pixels, optics group 'first' says 12"),
    ("not square", "row 1: images in .*a.mrcs have 10 x 12 pixels"),
    ("too short", "row 6: image 4 is asked for and .*a.mrcs holds 3"),
    ("complex", "a.mrcs: MRC mode 4 .*not supported"),
    ("no MRC", "a.mrcs: not an MRC file"),
    ("compressed", "a.mrcs: .*gunzip"),
]


@pytest.mark.parametrize("fault, words", FAULTS)
def test_a_faulty_stack_is_an_input_error_that_names_file_and_row(star: Path, fault: str, words: str) -> None:
    _break(Path("stacks/a.mrcs"), fault)
    table = read_star(star)
    with pytest.raises(InputError, match=words) as error:
        check_stacks(table)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"a\.mrcs"), StackReader(table) as reader:
        reader.read(np.arange(7))


def test_rows_are_named_as_in_the_file_after_a_selection(star: Path) -> None:
    _break(Path("stacks/a.mrcs"), "too short")
    with pytest.raises(InputError, match="row 6: image 4"):
        check_stacks(read_star(star).select([4, 5]))


def test_a_stack_cut_short_behind_the_images_in_use_is_no_fault(star: Path) -> None:
    _break(Path("stacks/a.mrcs"), "truncated")
    check_stacks(read_star(star).select([0, 2, 3, 4, 6]))


def test_a_stack_that_shrinks_during_a_run_is_an_input_error(star: Path) -> None:
    with StackReader(read_star(star)) as reader:
        reader.read(np.array([0]))
        _break(Path("stacks/a.mrcs"), "truncated")
        with pytest.raises(InputError, match=r"row 2: .*a\.mrcs ends before image 3"):
            reader.read(np.array([1]))


def test_images_of_different_sizes_are_not_mixed(
    star: Path, star_text: Text, optics: Columns, particles: Columns
) -> None:
    optics["rlnImageSize"] = [12, 10]
    _stack(Path("stacks/b.mrcs"), np.ones((3, 10, 10), np.float32))
    star.write_text(star_text(optics=optics, particles=particles))
    table = read_star(star)
    check_stacks(table)
    with StackReader(table) as reader:
        assert reader.read(np.array([2, 3])).shape == (2, 10, 10)
        with pytest.raises(InputError, match="10 and 12 pixels"):
            reader.read(np.array([0, 2]))


def _readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_reading_ahead_gives_every_batch_in_order(star: Path) -> None:
    batches = [np.array([6, 0]), np.array([1]), np.array([2, 3, 4, 5]), np.array([0])]
    with StackReader(read_star(star)) as reader:
        found = list(read_ahead(reader, batches))
        for (index, images), batch in zip(found, batches, strict=True):
            np.testing.assert_array_equal(index, batch)
            np.testing.assert_array_equal(images, reader.read(batch))
    assert not _readers()


def test_reading_ahead_stays_two_batches_ahead(star: Path) -> None:
    started: list[int] = []

    def batches() -> object:
        for i in range(6):
            started.append(i)
            yield np.array([i])

    with StackReader(read_star(star)) as reader:
        stream = read_ahead(reader, batches())
        next(stream)
        threading.Event().wait(0.3)
        # One in use, two in the queue, one read and waiting for its place.
        assert 2 <= len(started) <= 4
        stream.close()
    assert not _readers()


def test_a_fault_met_while_reading_ahead_is_raised_in_its_place(star: Path) -> None:
    Path("stacks/b.mrcs").unlink()
    with StackReader(read_star(star)) as reader:
        stream = read_ahead(reader, [np.array([0]), np.array([2]), np.array([1])])
        assert next(stream)[0].tolist() == [0]
        with pytest.raises(InputError, match=r"b\.mrcs"):
            next(stream)
    assert not _readers()


def test_leaving_the_iteration_early_ends_the_thread(star: Path) -> None:
    with StackReader(read_star(star)) as reader:
        for _ in read_ahead(reader, [np.array([i]) for i in range(7)]):
            break
        stream = read_ahead(reader, [np.array([i]) for i in range(7)])
        next(stream)
        del stream
    assert not _readers()
