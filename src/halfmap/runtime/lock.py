"""A lock file, so that only one process at a time works in a folder."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from halfmap.errors import InputError


@contextmanager
def only_process(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs. The lock ends with the process, however that ends.

    what: the folder, for the message. Raises InputError where another process holds the lock, and where the file cannot
    be made. On file systems without locks nothing is checked.
    """
    try:
        stream = open(path, "ab")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}; check that the folder is writable and "
                         "has space") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise InputError(f"{what}: another process is refining there; wait until it ends, or end it") from None
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                raise InputError(f"{path}: cannot be locked: {error.strerror or error}; check the disk") from error
        yield
