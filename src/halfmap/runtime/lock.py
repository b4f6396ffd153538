"""A lock file, so that only one process at a time works in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from halfmap.errors import InputError

LONGEST = 300  # bytes that say who holds a lock


@contextmanager
def only_process(path: Path, what: str, command: str) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs. The lock ends with the process, however that ends.

    what: the folder; command: what is being run. For messages: the file says which command, process and machine hold
    the lock. Raises InputError where another process holds it, and where the file cannot be made. On file systems
    without locks nothing is checked.
    """
    with _opened(path) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise InputError(f"{what}: {_holder(path)} is at work there; wait until it ends, or end it") from None
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                raise InputError(f"{path}: cannot be locked: {error.strerror or error}; check the disk") from error
        with suppress(OSError):  # on a full disk the lock holds all the same
            os.ftruncate(stream.fileno(), 0)
            stream.write(f"{command}, process {os.getpid()} on {socket.gethostname()}".encode()[:LONGEST])
        yield


def _opened(path: Path) -> BinaryIO:
    """The lock file, unbuffered."""
    try:
        return open(path, "ab", buffering=0)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}; check that the folder is writable and "
                         "has space") from error


def _holder(path: Path) -> str:
    """Who holds the lock, as far as its file says."""
    try:
        said = path.read_bytes()[:LONGEST].decode(errors="replace")
    except OSError:
        said = ""
    return said if said and said.isprintable() else "another process"
