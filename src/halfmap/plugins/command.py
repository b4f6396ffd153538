"""What the plug-ins' command lines share: a user's mistake is reported in one line, with exit status 2."""

from __future__ import annotations

import sys
from collections.abc import Callable

from halfmap.errors import InputError

MISTAKE = 2  # exit status of an error that the user can correct


def status_of(program: str, run: Callable[[], int]) -> int:
    """Call ``run`` and return its exit status. An InputError is one line on standard error, and status 2."""
    try:
        return run()
    except InputError as error:
        print(f"{program}: error: {error}", file=sys.stderr, flush=True)
        return MISTAKE
