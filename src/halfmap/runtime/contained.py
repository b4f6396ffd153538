"""Opens files below a folder for reading, and nothing else: what a program may show of a disk."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class Version:
    """Which file it is and when it changed: another version has other content. changed: seconds since 1970."""

    size: int
    changed: float
    tag: str


def version_of(found: os.stat_result) -> Version:
    """The version of a file from its status."""
    return Version(found.st_size, found.st_mtime, f"{found.st_mtime_ns:x}-{found.st_ino:x}-{found.st_size:x}")


@contextmanager
def opened_below(root: Path, path: Path) -> Iterator[BinaryIO]:
    """A regular file that lies below ``root``, wherever links lead. root: without links.

    Raises OSError for anything else, before it is read: another place, a folder, a pipe, a device.
    """
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(root):
        raise PermissionError(errno.EACCES, "leads out of the folder", str(path))
    # A pipe that nobody writes to would be waited for, and the last part cannot have become a link since.
    file = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(file, "rb") as stream:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise PermissionError(errno.EACCES, "is no file", str(path))
        yield stream
