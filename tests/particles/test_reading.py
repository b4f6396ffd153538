"""Each image is read once, from stacks that are opened once, by threads that keep order and never hold up the end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from halfmap.errors import InputError
from halfmap.particles import read_ahead as reading_ahead
from halfmap.particles import stack_files, stack_reader
from halfmap.particles.preprocess import normalise
from halfmap.particles.read_ahead import read_ahead
from halfmap.particles.source import ParticleSource
from halfmap.particles.stack import check_stacks, looked_at
from halfmap.particles.stack_files import StackFiles
from halfmap.particles.stack_reader import StackReader
from halfmap.particles.star import read_star
from halfmap.particles.table import ParticleTable

Columns = dict[str, list[object]]
BOX = 64  # at which an image is larger than what is read through
Make = Callable[[list[np.ndarray]], ParticleTable]


@pytest.fixture
def table_of(project: Path, star_text: Callable[..., str], optics: Columns) -> Make:
    """A table of all images of stacks 0.mrcs, 1.mrcs, ... with this content."""

    def make(stacks: list[np.ndarray]) -> ParticleTable:
        for number, data in enumerate(stacks):
            _write(number, data)
        names = [f"{image + 1}@{number}.mrcs" for number, data in enumerate(stacks) for image in range(len(data))]
        one = {label: values[:1] for label, values in optics.items()} | {"rlnImageSize": [stacks[0].shape[-1]]}
        zeros = {label: [0] * len(names) for label in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")}
        (project / "p.star").write_text(star_text(optics=one, particles={"rlnImageName": names} | zeros))
        return read_star(project / "p.star")

    return make


def _write(number: int, data: np.ndarray) -> None:
    with mrcfile.new(f"{number}.mrcs", overwrite=True) as mrc:
        mrc.set_data(data)
        mrc.set_image_stack()


def _noise(stacks: int, count: int = 20, box: int = BOX, kind: str = "f4") -> list[np.ndarray]:
    chance = np.random.default_rng(3)
    return [chance.normal(size=(count, box, box)).astype(kind) for _ in range(stacks)]


OPENED: list[str] | None = None  # files that are opened, while it is a list


def _listen(event: str, details: tuple[object, ...]) -> None:
    if event == "open" and OPENED is not None:
        OPENED.append(str(details[0]))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all files that Python opens."""
    if not hasattr(sys, "_halfmap_listens"):  # an audit hook stays for good
        sys.addaudithook(_listen)
        sys._halfmap_listens = True  # type: ignore[attr-defined]
    names: list[str] = []
    monkeypatch.setattr(sys.modules[__name__], "OPENED", names)
    return names


def _bytes_read() -> int:
    """What this process has asked the system for, in bytes."""
    return int(Path("/proc/self/io").read_text().split()[1])


def _open_stacks() -> int:
    links = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(link))
        except FileNotFoundError:  # the folder's own
            continue
    return sum(link.endswith(".mrcs") for link in links)


HALVES = {
    "alternating": np.arange(80) % 2,
    "drawn": np.random.default_rng(5).integers(0, 2, 80),
    "one after the other": np.arange(80) // 40,
}


@pytest.mark.parametrize("kind", ["f4", "f2", ">f4", "i2"])
@pytest.mark.parametrize("halves", HALVES)
def test_both_half_sets_together_read_each_image_once(table_of: Make, halves: str, kind: str) -> None:
    stacks = [(100 * data).astype(kind) for data in _noise(4, box=2 * BOX)]
    table, truth = table_of(stacks), np.concatenate(stacks).astype(np.float32)
    reader = StackReader(table)
    check_stacks(table, reader.files)
    before, found = _bytes_read(), np.zeros_like(truth)
    for half in (0, 1):
        members = np.flatnonzero(HALVES[halves] == half)
        for rows, images in read_ahead(reader, np.array_split(members, 3)):
            found[rows] = images
    read = _bytes_read() - before
    np.testing.assert_array_equal(found, truth)
    assert read == pytest.approx(sum(data.nbytes for data in stacks), rel=0.01)


def test_rows_that_name_the_same_image_read_it_once(table_of: Make) -> None:
    stacks = _noise(1, 8, 2 * BOX)
    table = table_of(stacks)
    rows = np.repeat(np.arange(8), 60)[np.random.default_rng(0).permutation(480)]
    reader = StackReader(table)
    check_stacks(table, reader.files)
    before = _bytes_read()
    images = reader.read(rows)
    assert _bytes_read() - before < 1.05 * stacks[0].nbytes
    np.testing.assert_array_equal(images, stacks[0][rows])


def test_gaps_that_cost_less_than_a_read_of_their_own_are_read_through(
    table_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of(_noise(1, 40, 16))  # 1 kB an image: 8 in a gap
    calls, true = [], os.preadv
    reader = StackReader(table)
    check_stacks(table, reader.files)
    monkeypatch.setattr(os, "preadv", lambda *given: calls.append(1) or true(*given))
    np.testing.assert_array_equal(reader.read(np.array([0, 9, 10, 20])), mrcfile.read("0.mrcs")[[0, 9, 10, 20]])
    assert len(calls) == 2


def test_a_run_opens_each_stack_once(table_of: Make, opened: list[str]) -> None:
    table, before = table_of(_noise(12, 4, 8)), _open_stacks()
    opened.clear()
    with StackFiles() as files:
        check_stacks(table, files)
        source = ParticleSource(table, 6.0, 5, files)
        assert all(not seen.fault for seen in looked_at(table, source.files))
        for _ in range(3):
            for half in (0, 1):
                assert sum(len(batch) for batch in source.stream(torch.arange(half, 48, 2))) == 24
        assert sorted(name for name in opened if name.endswith(".mrcs")) == sorted(map(str, table.stacks))
        assert _open_stacks() == before + 12
    assert _open_stacks() == before


def test_of_more_stacks_than_may_be_open_the_oldest_are_closed_and_no_header_is_read_twice(
    table_of: Make, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table, headers, true = table_of(_noise(12, 4, 8)), [], stack_files.parse_header
    monkeypatch.setattr(stack_files, "parse_header", lambda raw, path: headers.append(path) or true(raw, path))
    reader, before = StackReader(table, StackFiles(6)), _open_stacks()
    for _ in range(2):
        for _ in read_ahead(reader, np.split(np.arange(48), 12)):
            assert _open_stacks() <= before + 6
    assert sorted(headers) == sorted(table.stacks)
    opened.clear()
    reader.read(np.arange(44, 48))  # the last one is open still
    reader.read(np.arange(4))  # the first one is not
    assert [name for name in opened if name.endswith(".mrcs")] == [str(table.stacks[0])]


def test_files_are_closed_when_nobody_can_use_them_any_more(table_of: Make) -> None:
    source, before = ParticleSource(table_of(_noise(3, 4, 8)), 6.0), _open_stacks()
    assert len(list(source.stream(torch.arange(12)))) == 1
    assert _open_stacks() == before + 3
    del source
    assert _open_stacks() == before


@pytest.mark.parametrize("change, words", [
    (lambda: Path("0.mrcs").unlink(), r"0\.mrcs: cannot be read: No such file"),
    (lambda: _write(0, np.zeros((4, 10, 10), np.float32)), r"row 2: images in .*0\.mrcs have 10 x 10 pixels"),
    (lambda: _write(0, np.zeros((1, 8, 8), np.float32)), r"row 2: .*0\.mrcs ends before image 2"),
    (lambda: Path("0.mrcs").write_bytes(b"x" * 9999), r"0\.mrcs: not an MRC file"),
])  # fmt: skip
def test_a_stack_that_goes_or_changes_while_it_is_closed_is_an_input_error(
    table_of: Make, change: Callable[[], object], words: str
) -> None:
    table = table_of(_noise(2, 4, 8))
    reader = StackReader(table, StackFiles(1))
    check_stacks(table, reader.files)
    reader.read(np.array([5]))
    change()
    with pytest.raises(InputError, match=words) as error:
        list(read_ahead(reader, [np.array([1, 2])]))
    assert "\n" not in str(error.value)


def test_float16_images_come_as_they_are_and_are_normalised_to_the_same_bits(table_of: Make) -> None:
    stacks = _noise(2, 9, BOX, "f2")
    table = table_of(stacks)
    (batch,) = ParticleSource(table, 40.0).stream(torch.arange(18))
    assert batch.stored.dtype == torch.float16
    whole = torch.from_numpy(np.concatenate(stacks).astype(np.float32))
    wanted, sound = normalise(whole, 20.0 / table.optics[0].pixel_size)
    assert bool(sound.all()) and torch.equal(batch.images, wanted)


def test_a_batch_of_float16_and_float32_stacks_is_float32(table_of: Make) -> None:
    stacks = [_noise(1, 4, 8, "f2")[0], np.float32(1 / 3) * _noise(1, 4, 8)[0]]
    images = StackReader(table_of(stacks)).read(np.arange(8))
    np.testing.assert_array_equal(images, np.concatenate([data.astype(np.float32) for data in stacks]))
    assert images.dtype == np.float32


def test_several_threads_give_every_batch_in_order_and_the_first_fault_of_a_file(
    table_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_reader, "PIECE", 1 << 9)  # two images
    stacks = _noise(6, 30, 8)
    table, truth, chance = table_of(stacks), np.concatenate(stacks), np.random.default_rng(1)
    batches = [chance.permutation(180)[: chance.integers(0, 60)] for _ in range(60)]
    fill, threads = StackReader.fill, set()

    def slowly(self: StackReader, *given: object) -> None:
        threads.add(threading.get_ident())
        time.sleep(float(chance.choice([0.0, 0.0, 1e-4])))
        fill(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(StackReader, "fill", slowly)
    reader = StackReader(table)
    for (rows, images), batch in zip(read_ahead(reader, batches), batches, strict=True):
        np.testing.assert_array_equal(rows, batch)
        if len(batch):
            np.testing.assert_array_equal(images, truth[batch])
    assert 1 < len(threads) <= reading_ahead.READERS
    for number in (4, 2):  # shorter than they were, while they are open
        os.truncate(f"{number}.mrcs", 1024 + 7 * 256)
    for _ in range(5):
        with pytest.raises(InputError, match=r"row 68: .*2\.mrcs ends before image 8;"):
            list(read_ahead(reader, [np.arange(180)]))


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A disk that does not answer."""
    answers = threading.Event()
    monkeypatch.setattr(reading_ahead, "LONGEST_WAIT", 0.2)
    monkeypatch.setattr(StackReader, "fill", lambda *given: answers.wait())
    yield
    answers.set()


def _readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


@pytest.mark.usefixtures("stuck")
def test_ctrl_c_does_not_wait_for_a_disk_that_never_answers(table_of: Make) -> None:
    stream = read_ahead(StackReader(table_of(_noise(2, 4, 8))), [np.arange(8)])
    interrupt = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores Ctrl-C
    try:
        interrupt.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert time.monotonic() - began < 2.0
    assert _readers() and all(thread.daemon for thread in _readers())  # the process ends without them


def test_files_closed_while_a_thread_reads_are_closed_when_it_has_read(table_of: Make) -> None:
    table, files, before = table_of(_noise(1, 4, 8)), StackFiles(), _open_stacks()
    with files.opened(table.stacks[0]) as stack:
        files.close()
        assert stack.read([memoryview(bytearray(8))], 1024) == 8
        assert _open_stacks() == before + 1
    assert _open_stacks() == before
