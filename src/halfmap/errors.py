"""The one exception that means "the user can mend this"."""

from __future__ import annotations


class InputError(Exception):
    """Something in the files or options given is wrong.

    The message is one line: which file, row or image, what is wrong with it, and what to do about it.
    The command line prints it after ``halfmap: error:`` and exits with status 2; any other exception is a
    fault of the program. Of what is quoted, line breaks become blanks; control characters and stray bytes are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(map(_shown, message)))


def _shown(character: str) -> str:
    """A character as it can be printed anywhere."""
    if character.isprintable():
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode("ascii")
