"""The one exception that means "the user can mend this"."""

from __future__ import annotations


class InputError(Exception):
    """Something in the files or options given is wrong.

    The message is one line: which file, row or image, what is wrong with it, and what to do about it.
    The command line prints it after ``halfmap: error:`` and exits with status 2; any other exception is a
    fault of the program.
    """
