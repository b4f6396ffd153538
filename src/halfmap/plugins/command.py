"""What the plug-ins' command lines share: options that are never guessed, and a user's mistake in one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from halfmap.errors import InputError

MISTAKE = 2  # exit status of what a user can mend


class OptionParser(argparse.ArgumentParser):
    """A wrong option is an InputError like any other mistake."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(allow_abbrev=False, **keywords)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def status_of(program: str, run: Callable[[], int]) -> int:
    """The exit status of ``run``; an InputError is said in one line on standard error, and is status 2."""
    try:
        return run()
    except InputError as error:
        print(f"{program}: error: {in_a_line(error)}", file=sys.stderr, flush=True)
        return MISTAKE


def in_a_line(error: Exception) -> str:
    """The message without line breaks."""
    return " ".join(str(error).split())
