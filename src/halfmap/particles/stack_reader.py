"""Images of a particle table from its stacks: which bytes are read, and into which place in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from halfmap.errors import InputError
from halfmap.particles.stack import wrong_size
from halfmap.particles.stack_files import OpenStack, StackFiles
from halfmap.particles.table import Integers, ParticleTable

Images = NDArray[np.float32] | NDArray[np.float16] | NDArray[np.int16] | NDArray[np.int8] | NDArray[np.uint8]

PIECE = 1 << 22  # bytes of a stack that one thread reads at a time
# So many unwanted bytes at most between two wanted images are read too: a read of its own costs as much as 8 to 16 kB
# from the page cache.
READ_THROUGH = 1 << 13
# Types in which images stay as they are, the first of them for all others: torch knows them all, on any device.
KEPT = tuple(np.dtype(kind) for kind in (np.float32, np.float16, np.int16, np.int8, np.uint8))


@dataclass(frozen=True)
class Piece:
    """Images of one stack: numbers int64 [b] in it, ascending, each once; places int64 [b] where they go; rows int64
    [b] of the table, for messages."""

    stack: int
    numbers: Integers
    places: Integers
    rows: Integers


@dataclass(frozen=True)
class Reading:
    """Images [b,y,x] that are to be read, the pieces that they are read in, and which of them are copies of others:
    those at ``copies`` [c] of those at ``originals`` [c]."""

    images: Images
    pieces: tuple[Piece, ...]
    copies: Integers
    originals: Integers

    def completed(self) -> Images:
        """The images, when all pieces are read."""
        if len(self.copies):
            self.images[self.copies] = self.images[self.originals]
        return self.images


class StackReader:
    """Reads images of a table from its stacks, each image once for a reading. Safe to use from several threads.

    files: the stacks that are open; they may be those of other readers too. room(shape, dtype): the memory that images
    are read into.
    """

    def __init__(self, table: ParticleTable, files: StackFiles | None = None,
                 room: Callable[..., Images] = np.empty) -> None:
        self.table, self.files, self.room = table, files or StackFiles(), room

    def __enter__(self) -> StackReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.files.close()

    def read(self, index: Integers) -> Images:
        """The images[b,y,x] of the particles at `index`, as stored where all of them are of one type of KEPT, else
        float32.

        Files and images are read in ascending order, whatever the order of `index`. Raises InputError where an image
        cannot be read, and where images have different sizes.
        """
        reading = self.planned(index)
        for piece in reading.pieces:
            self.fill(reading, piece)
        return reading.completed()

    def planned(self, index: Integers) -> Reading:
        """What `read` reads; no image is read yet. Raises InputError as `read` does for what headers say."""
        table, index = self.table, np.asarray(index, np.int64)
        boxes = {table.optics[group].box for group in np.unique(table.optics_index[index])}
        if len(boxes) > 1:
            sizes = " and ".join(map(str, sorted(boxes)))
            raise InputError(f"{table.source}: images of {sizes} pixels cannot be used together; "
                             f"rescale them to one box")
        box = boxes.pop() if boxes else 0
        order = np.lexsort((table.image_index[index], table.stack_index[index]))
        stacks, numbers = table.stack_index[index[order]], table.image_index[index[order]]
        first = np.ones(len(index), bool)  # of the rows that show an image
        first[1:] = (np.diff(stacks) != 0) | (np.diff(numbers) != 0)
        places, stacks, numbers = order[first], stacks[first], numbers[first]
        kinds = {self.files.header(table.stacks[stack]).dtype for stack in np.unique(stacks)}
        kind = kinds.pop() if len(kinds) == 1 else KEPT[0]
        images = self.room((len(index), box, box), kind if kind in KEPT else KEPT[0])
        pieces = tuple(Piece(int(stacks[some.start]), numbers[some], places[some], index[places[some]])
                       for some in _cut(stacks, max(1, PIECE // max(1, images[:1].nbytes))))
        again = ~first
        return Reading(images, pieces, order[again], places[np.cumsum(first) - 1][again])

    def fill(self, reading: Reading, piece: Piece) -> None:
        """Read a piece into its place. Raises InputError where it cannot be read."""
        images, path = reading.images, self.table.stacks[piece.stack]
        with self.files.opened(path) as stack:
            kind = stack.header.dtype
            if stack.header.shape[1:] != images.shape[1:]:
                raise InputError(wrong_size(self.table, int(piece.rows[0]), path, stack.header))
            if kind == images.dtype:
                self._read(stack, piece, images, piece.places)
            elif images.dtype == KEPT[0]:
                block = np.empty((len(piece.numbers), *images.shape[1:]), kind)
                self._read(stack, piece, block, np.arange(len(block)))
                images[piece.places] = block
            else:
                raise InputError(f"{path}: was changed while it was read; start again")

    def _read(self, stack: OpenStack, piece: Piece, images: NDArray[np.generic], places: Integers) -> None:
        """Read a piece into images[b,y,x] of the file's own type, at ``places`` [b]."""
        size, numbers = images[:1].nbytes, piece.numbers
        target, unwanted = images.reshape(-1).view(np.uint8).data, memoryview(bytearray(READ_THROUGH))
        # First ones of images that lie side by side in the file and in memory.
        starts = np.flatnonzero((np.diff(numbers, prepend=-2) != 1) | (np.diff(places, prepend=-2) != 1))
        counts = np.diff(starts, append=len(numbers)).tolist()
        buffers, first, end = list[memoryview](), int(numbers[0]), int(numbers[0])
        for number, place, count in zip(numbers[starts].tolist(), places[starts].tolist(), counts, strict=True):
            gap = (number - end) * size
            if gap > READ_THROUGH:
                self._read_run(stack, piece, buffers, first, end)
                buffers, first = [], number
            elif gap:
                buffers.append(unwanted[:gap])
            buffers.append(target[place * size : (place + count) * size])
            end = number + count
        self._read_run(stack, piece, buffers, first, end)

    def _read_run(self, stack: OpenStack, piece: Piece, buffers: list[memoryview], first: int, end: int) -> None:
        """Read images ``first`` .. ``end`` - 1 of a stack into buffers."""
        size = stack.header.image_bytes
        done = stack.read(buffers, stack.header.offset + first * size)
        if done < (end - first) * size:
            short = int(np.searchsorted(piece.numbers, first + done // size))
            raise InputError(f"{self.table.name(int(piece.rows[short]))}: {stack.path} ends before image "
                             f"{piece.numbers[short] + 1}; copy the stack again")


def _cut(stacks: Integers, most: int) -> Iterator[slice]:
    """Ranges of at most ``most`` neighbours of the same stack [b]."""
    bounds = [*np.flatnonzero(np.diff(stacks, prepend=-1)).tolist(), len(stacks)]
    for start, stop in pairwise(bounds):
        for first in range(start, stop, most):
            yield slice(first, min(first + most, stop))
