"""Particle stacks: checked once, read in file order, and read ahead of the computation."""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from halfmap.errors import InputError
from halfmap.maps.mrc import read_header
from halfmap.maps.mrc_header import MrcHeader
from halfmap.particles.table import Integers, ParticleTable

Images = NDArray[np.float32]

OPEN_FILES = 64  # well below the limit of 256 on some systems
READERS = 8  # headers read at the same time, because each one takes a while on a network disk
# So many unwanted images at most between two wanted ones are read too and not skipped.
LARGEST_GAP = 1
ELSEWHERE = "run in the project's folder, or give the folder of the images with --data-dir"


class _Stack(NamedTuple):
    """An open stack."""
    header: MrcHeader
    stream: FileIO


class StackReader:
    """Reads images of a table from its stacks, and keeps the last 64 files open.

    It uses ordinary reads and no memory map: a stack that shrinks or a disk that fails during a run then raises an
    InputError that names the file, where a mapped page would end the program without a message. Safe to use from
    several threads.
    """

    def __init__(self, table: ParticleTable) -> None:
        self.table = table
        self._open: OrderedDict[int, _Stack] = OrderedDict()
        self._lock = threading.Lock()

    def __enter__(self) -> StackReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all files; a later read opens them again."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].stream.close()

    def read(self, index: Integers) -> Images:
        """The images[b,y,x] of the particles at `index`, as stored but in float32.

        Files and images are read in ascending order, whatever the order of `index`. Raises InputError where an image
        cannot be read, and where images have different sizes.
        """
        index = np.asarray(index, np.int64)
        stack, image = self.table.stack_index[index], self.table.image_index[index]
        order = np.lexsort((image, stack))
        stack, image = stack[order], image[order]
        step = np.diff(image)
        breaks = np.flatnonzero((np.diff(stack) != 0) | (step > LARGEST_GAP + 1)) + 1
        boxes = {self.table.optics[group].box for group in np.unique(self.table.optics_index[index])}
        if len(boxes) > 1:
            sizes = " and ".join(map(str, sorted(boxes)))
            raise InputError(f"{self.table.source}: images of {sizes} pixels cannot be used together; "
                             f"rescale them to one box")
        box = boxes.pop() if boxes else 0
        images = np.empty((len(index), box, box), np.float32)
        bounds = [0, *breaks.tolist(), len(index)]
        with self._lock:
            for start, stop in pairwise(bounds):
                if stop > start:
                    first = int(image[start])
                    row = int(index[order[start]])
                    block = self._read_run(int(stack[start]), first, int(image[stop - 1]) - first + 1, row)
                    images[order[start:stop]] = block[image[start:stop] - first]
        return images

    def _read_run(self, stack: int, first: int, count: int, row: int) -> NDArray[np.generic]:
        """`count` neighbouring images of a stack in the file's own type; `row` is one particle that needs them, for
        messages."""
        path, box = self.table.stacks[stack], self.table.optics[self.table.optics_index[row]].box
        held = self._opened(stack)
        if held.header.shape[1:] != (box, box):
            raise InputError(_wrong_size(self.table, row, path, held.header))
        block = np.empty((count, box, box), held.header.dtype)
        target = block.view(np.uint8).reshape(-1).data
        done = 0
        try:
            held.stream.seek(held.header.offset + first * held.header.image_bytes)
            while done < len(target):
                got = held.stream.readinto(target[done:])
                if not got:
                    break
                done += got
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}; check the disk") from error
        if done < len(target):
            short = first + done // held.header.image_bytes
            raise InputError(f"{self.table.name(row)}: {path} ends before image {short + 1}; "
                             f"copy the stack again")
        return block

    def _opened(self, stack: int) -> _Stack:
        """The open file of a stack. Where too many are open, the one not used for longest is closed."""
        if stack in self._open:
            self._open.move_to_end(stack)
            return self._open[stack]
        path = self.table.stacks[stack]
        header = _stack_header(path)
        if len(self._open) >= OPEN_FILES:
            self._open.popitem(last=False)[1].stream.close()
        self._open[stack] = _Stack(header, FileIO(path))
        return self._open[stack]


def check_stacks(table: ParticleTable) -> None:
    """Check header and length of every stack in use, once.

    Raises InputError, naming the file and a row, for a stack that is missing, ends before an image in use, is not MRC
    or of a type that is not supported, lacks the image that a row names, or has images of another size than the optics
    group's box.
    """
    for seen in looked_at(table):
        if seen.fault:
            raise InputError(seen.fault)


def box_of(path: Path, at: str, lacks: str) -> int:
    """The side in pixels of the images of a stack, for the particle named `at`, whose file has no column `lacks`.

    Raises InputError where the stack cannot be read.
    """
    wanted = f"{at}: the box is to come from its stack, as the file has no {lacks}"
    if not path.is_file():
        raise InputError(f"{wanted}, and there is no image stack {path}; {ELSEWHERE}")
    try:
        return read_header(path).shape[2]
    except InputError as error:
        raise InputError(f"{wanted}: {error}") from error


class SeenStack(NamedTuple):
    """A stack as rows of one optics group use it.

    row: one such row; header: None where it cannot be read; fault: what is wrong, in a sentence, or empty.
    """

    row: int
    path: Path
    header: MrcHeader | None
    fault: str = ""


def looked_at(table: ParticleTable) -> Iterator[SeenStack]:
    """Every stack in use, by optics group, with what its header and length say. Several are read at the same time."""
    pairs = table.stack_index * len(table.optics) + table.optics_index
    first = np.unique(pairs, return_index=True)[1]
    last = np.zeros(len(table.stacks), np.int64)
    np.maximum.at(last, table.stack_index, table.image_index)

    def look(row: int) -> SeenStack:
        stack = int(table.stack_index[row])
        path = table.stacks[stack]
        if not path.is_file():
            return SeenStack(row, path, None, f"{table.name(row)}: there is no image stack {path}; "
                             f"{ELSEWHERE}")
        try:
            header = _stack_header(path)
        except InputError as error:
            return SeenStack(row, path, None, str(error))
        box = table.optics[table.optics_index[row]].box
        if header.shape[1:] != (box, box):
            return SeenStack(row, path, header, _wrong_size(table, row, path, header))
        held = max(0, path.stat().st_size - header.offset) // header.image_bytes
        if last[stack] < min(held, header.shape[0]):
            return SeenStack(row, path, header)
        users = np.flatnonzero(table.stack_index == stack)
        worst = int(users[np.argmax(table.image_index[users] >= min(held, header.shape[0]))])
        return SeenStack(row, path, header, _too_short(table, worst, held, header))

    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(look, first.tolist())


class StoredImages(NamedTuple):
    """Images [b,y,x] as stored but in float32, and the rows[b] of the table that they belong to."""

    rows: Integers
    images: Images


def read_ahead(reader: StackReader, batches: Iterable[Integers], depth: int = 2) -> Generator[StoredImages]:
    """Give the images of each batch of particles, while a thread already reads up to `depth` batches ahead.

    An error in the thread is raised here, in the place of the batch that it belongs to. The thread ends with the
    iteration, also when that is left early.
    """
    ready: queue.Queue[StoredImages | BaseException | None] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: StoredImages | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def run() -> None:
        try:
            for index in batches:
                put(StoredImages(index, reader.read(index)))
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # raised in the thread that waits for the images
            put(error)

    thread = threading.Thread(target=run, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def _stack_header(path: Path) -> MrcHeader:
    """The header of a stack. Raises InputError where its images cannot be read one by one."""
    header = read_header(path)
    if header.compressed:
        raise InputError(f"{path}: image stacks cannot be read while compressed; unpack it with gunzip")
    if header.axes != (1, 2, 3):
        raise InputError(f"{path}: the axes of the image stack are in order {header.axes}, not (1, 2, 3); "
                         f"make the stack again")
    return header


def _wrong_size(table: ParticleTable, row: int, path: Path, header: MrcHeader) -> str:
    group = table.optics[table.optics_index[row]]
    return (f"{table.name(row)}: images in {path} have {header.shape[2]} x {header.shape[1]} pixels, optics "
            f"group '{group.name}' says {group.box}; correct rlnImageSize or give the right stack")


def _too_short(table: ParticleTable, row: int, held: int, header: MrcHeader) -> str:
    path, wanted = table.stacks[table.stack_index[row]], table.image_index[row] + 1
    if held < header.shape[0]:
        return (f"{table.name(row)}: {path} is truncated: it should hold {header.shape[0]} images, holds "
                f"{held}, and image {wanted} is asked for; copy the stack again")
    return (f"{table.name(row)}: image {wanted} is asked for and {path} holds {header.shape[0]}; "
            f"correct rlnImageName or remove the row")
