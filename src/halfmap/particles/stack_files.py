"""Image stacks that are open: each is opened once, if the limit on open files allows it, and its header read once."""

from __future__ import annotations

import os
import resource
import stat
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from halfmap.errors import InputError
from halfmap.maps.mrc_header import GZIP, HEADER_BYTES, USUAL_ORDER, MrcHeader, parse_header

MOST_OPEN = 512  # stacks, and no more than a third of what the system allows, which is often 1024 files
LARGE = 1 << 16  # bytes of an image from which on the system is to read no more of a stack than it is asked for
BUFFERS = 1024  # that one call of the system fills at most (IOV_MAX)


class FileVersion(NamedTuple):
    """By what a file is known to be the same as before.

    device, inode: where it lies; size: in bytes; changed: the time of its last change in ns.
    """

    device: int
    inode: int
    size: int
    changed: int

    @classmethod
    def of(cls, descriptor: int) -> FileVersion:
        """The version of an open file. Raises OSError for a pipe."""
        about = os.fstat(descriptor)
        if stat.S_ISFIFO(about.st_mode):
            raise OSError("it is a pipe")
        return cls(about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)


class OpenStack:
    """A stack while it is used: which file it is, its header, and reads at any place."""

    def __init__(self, path: Path) -> None:
        self.path, self.users = path, 0
        self._descriptor = -1
        self._version: FileVersion | None = None
        self._header: MrcHeader | None = None
        self._opening = threading.Lock()

    @property
    def seen(self) -> bool:
        """Whether the header was read."""
        return self._version is not None

    @property
    def header(self) -> MrcHeader:
        """What the file says of its images."""
        assert self._header is not None
        return self._header

    @property
    def version(self) -> FileVersion:
        """Which file it is."""
        assert self._version is not None
        return self._version

    def read(self, buffers: list[memoryview], at: int) -> int:
        """Fill one buffer of bytes after the other from byte ``at`` on. Returns how many bytes there were: fewer where
        the file ends. Raises InputError where it cannot be read."""
        done, left = 0, deque(buffers)
        try:
            while left:
                got = os.preadv(self._descriptor, list(islice(left, BUFFERS)), at + done)
                if not got:
                    break
                done += got
                while left and got >= len(left[0]):
                    got -= len(left.popleft())
                if got:
                    left[0] = left[0][got:]
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror or error}; check the disk") from error
        return done

    def open(self) -> None:
        """Open the file where it is closed. Its header is read again only if it is another file than before.

        Raises InputError where it cannot be read, or its images cannot be read one by one.
        """
        with self._opening:
            if self._descriptor >= 0:
                return
            try:
                # Not blocking: a pipe that nobody writes to would be waited for.
                descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                try:
                    self._look(descriptor)
                except BaseException:
                    os.close(descriptor)
                    raise
            except OSError as error:
                text = f"{self.path}: cannot be read: {error.strerror or error}; check the path"
                raise InputError(text) from error
            self._descriptor = descriptor

    def _look(self, descriptor: int) -> None:
        version = FileVersion.of(descriptor)
        _advise(descriptor, os.POSIX_FADV_RANDOM)  # before the first read, which the system would extend by megabytes
        if version != self._version:
            self._header = _header(self.path, os.pread(descriptor, HEADER_BYTES, 0))
            self._version = version
        if self.header.image_bytes < LARGE:
            _advise(descriptor, os.POSIX_FADV_NORMAL)

    def close(self) -> None:
        """Close the file, which nobody uses. What is known of it stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class StackFiles:
    """The stacks of a run: at most ``most`` of them are open (0: a third of the limit of the system), and the one not
    used for longest is closed first. Safe to use from several threads.

    It uses ordinary reads and no memory map: a stack that shrinks or a disk that fails during a run then raises an
    InputError that names the file, where a mapped page would end the program without a message.
    """

    def __init__(self, most: int = 0) -> None:
        self.most = most or _most_open()
        self._known: dict[Path, OpenStack] = {}
        self._open: OrderedDict[Path, OpenStack] = OrderedDict()  # the one used last comes last
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._open).atexit = False

    def __enter__(self) -> StackFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def opened(self, path: Path) -> Iterator[OpenStack]:
        """The stack at ``path``, open while the block runs. Raises InputError as `OpenStack.open` does."""
        stack = self._taken(path)
        try:
            stack.open()
            yield stack
        finally:
            with self._lock:
                stack.users -= 1
                if not stack.users and path not in self._open:  # all were to be closed meanwhile
                    stack.close()

    def header(self, path: Path) -> MrcHeader:
        """The header of the stack at ``path``; the file is opened only if it never was before.

        Raises InputError as `OpenStack.open` does.
        """
        known = self._known.get(path)
        if known is not None and known.seen:
            return known.header
        with self.opened(path) as stack:
            return stack.header

    def close(self) -> None:
        """Close all files, those in use as soon as they are not. A later read opens them again."""
        with self._lock:
            _close_all(self._open)

    def _taken(self, path: Path) -> OpenStack:
        """The stack, with one more user; another one is closed for it where too many are open."""
        with self._lock:
            stack = self._known.get(path) or self._known.setdefault(path, OpenStack(path))
            stack.users += 1
            self._open[path] = stack
            self._open.move_to_end(path)
            while len(self._open) > self.most:
                idle = next((place for place, other in self._open.items() if not other.users), None)
                if idle is None:
                    break
                self._open.pop(idle).close()
            return stack


def _close_all(stacks: OrderedDict[Path, OpenStack]) -> None:
    while stacks:
        stack = stacks.popitem()[1]
        if not stack.users:
            stack.close()


def _advise(descriptor: int, how: int) -> None:
    """Tell the system how a file will be read. Not all of them listen."""
    with suppress(OSError):
        os.posix_fadvise(descriptor, 0, 0, how)


def _most_open() -> int:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_OPEN if limit == resource.RLIM_INFINITY else max(1, min(MOST_OPEN, limit // 3))


def _header(path: Path, raw: bytes) -> MrcHeader:
    """The header in the first bytes of a stack. Raises InputError where its images cannot be read one by one."""
    if raw.startswith(GZIP):
        raise InputError(f"{path}: image stacks cannot be read while compressed; unpack it with gunzip")
    header = parse_header(raw, path)
    if header.axes != USUAL_ORDER:
        raise InputError(f"{path}: the axes of the image stack are in order {tuple(header.axes)}, not "
                         f"{tuple(USUAL_ORDER)}; make the stack again")
    return header
