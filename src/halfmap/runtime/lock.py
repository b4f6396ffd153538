"""A lock file, so that only one process at a time works in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from halfmap.errors import InputError
from halfmap.runtime.heartbeat import LENGTH, Heartbeat, told


@contextmanager
def only_process(path: Path, what: str, command: str) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs. The lock ends with the process, however that ends.

    what: the folder; command: what is being run. For messages: the file says which command, process and machine hold
    the lock, and while it does how far it is (`heartbeat`). Raises InputError where another process holds it, and
    where the file cannot be made. On file systems without locks nothing is checked.
    """
    with _opened(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise InputError(f"{what}: {_holder(path)} is at work there; wait until it ends, or end it") from None
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                raise InputError(f"{path}: cannot be locked: {error.strerror or error}; check the disk") from error
        with Heartbeat(file, f"{command}, process {os.getpid()} on {socket.gethostname()}"):
            yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The lock file, made if it is absent, for reading and writing."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}; check that the folder is writable and "
                         "has space") from error
    try:
        yield file
    finally:
        os.close(file)


def _holder(path: Path) -> str:
    """Who holds the lock, as far as its file says."""
    try:
        with path.open("rb") as stream:
            said = told(stream.read(LENGTH)).who
    except OSError:
        said = ""
    return said or "another process"
