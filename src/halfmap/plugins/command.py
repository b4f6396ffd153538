"""What the plug-ins' command lines share: a user's mistake is said in one line, and is exit status 2."""

from __future__ import annotations

import sys
from collections.abc import Callable

from halfmap.errors import InputError

MISTAKE = 2  # exit status of what a user can mend


def status_of(program: str, run: Callable[[], int]) -> int:
    """The exit status of ``run``; an InputError is said in one line on standard error, and is status 2."""
    try:
        return run()
    except InputError as error:
        print(f"{program}: error: {error}", file=sys.stderr, flush=True)
        return MISTAKE
