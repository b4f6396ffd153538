"""Images are read ahead of the computation by several threads, which work on the same batch."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import NamedTuple

from halfmap.particles.stack_reader import Images, Piece, Reading, StackReader
from halfmap.particles.table import Integers

READERS = 4  # threads: a network disk answers several as soon as one
LONGEST_WAIT = 2.0  # seconds for a read that was begun, when nobody wants it any more: the disk may never answer


class StoredImages(NamedTuple):
    """Images [b,y,x] as `StackReader.read` gives them, and the rows[b] of the table that they belong to."""

    rows: Integers
    images: Images


def read_ahead(reader: StackReader, batches: Iterable[Integers], depth: int = 2) -> Generator[StoredImages]:
    """Give the images of each batch of particles, in order, while threads already read up to `depth` batches ahead.

    An error is raised in the place of the batch that it belongs to. The threads end with the iteration, also when that
    is left early.
    """
    with _Readers() as readers:
        begun: deque[_Begun] = deque()
        for batch in _planned(reader, batches):
            begun.append(readers.begin(reader, batch))
            if len(begun) > depth:
                yield begun.popleft().ended()
        while begun:
            yield begun.popleft().ended()


class _Planned(NamedTuple):
    """A batch: rows of the table, and how they are to be read."""

    rows: Integers
    reading: Reading


def _planned(reader: StackReader, batches: Iterable[Integers]) -> Iterator[_Planned | Exception]:
    """All batches, up to an error that ends them."""
    try:
        for rows in batches:
            yield _Planned(rows, reader.planned(rows))
    except Exception as error:  # raised when its turn comes
        yield error


class _Read(NamedTuple):
    """A piece that was read or could not be: which one of its batch, and why not."""

    piece: int
    fault: BaseException | None = None


class _Begun:
    """A batch that threads are reading."""

    def __init__(self, planned: _Planned | Exception) -> None:
        self.planned = planned
        self.read: SimpleQueue[_Read] = SimpleQueue()

    def ended(self) -> StoredImages:
        """Wait for the batch. Raises what was raised first in the order of the file."""
        if isinstance(self.planned, Exception):
            raise self.planned
        rows, reading = self.planned
        faults = {done.piece: done.fault for done in (self.read.get() for _ in reading.pieces) if done.fault}
        try:
            if faults:
                raise faults[min(faults)]
        finally:
            del faults  # in the error's traceback, which would keep the error
        return StoredImages(rows, reading.completed())


class _Readers:
    """Threads that read pieces in the order in which batches were begun.

    Nothing waits for them longer than `LONGEST_WAIT`, and they do not keep the process from ending.
    """

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._work, name="read-ahead", daemon=True) for _ in range(READERS)]

    def __enter__(self) -> _Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stopped.set()
        for _ in self._threads:
            self._tasks.put(None)
        end = time.monotonic() + LONGEST_WAIT
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def begin(self, reader: StackReader, planned: _Planned | Exception) -> _Begun:
        """Have a batch read."""
        begun = _Begun(planned)
        if not isinstance(planned, Exception):
            for number, piece in enumerate(planned.reading.pieces):
                self._tasks.put(partial(_read, reader, planned.reading, piece, number, begun.read))
        return begun

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if not self._stopped.is_set():
                task()
            del task  # it holds a batch, and the next one may not come for long


def _read(reader: StackReader, reading: Reading, piece: Piece, number: int, done: SimpleQueue[_Read]) -> None:
    try:
        reader.fill(reading, piece)
    except BaseException as error:  # raised in the thread that waits for the images
        done.put(_Read(number, error))
    else:
        done.put(_Read(number))
