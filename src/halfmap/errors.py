"""The one exception that means "the user can correct this"."""

from __future__ import annotations


class InputError(Exception):
    """Something in the files or options given is wrong.

    The message is one line: which file, row or image, what is wrong with it, and what to do about it. The command line
    prints it after ``halfmap: error:`` and exits with status 2; any other exception is a fault of the program. In the
    text that a message quotes, line breaks become blanks, and control characters and invalid bytes are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(in_a_line(message))


def in_a_line(message: str) -> str:
    """The message as it can be printed anywhere: white space becomes single blanks, and unprintable characters are
    escaped."""
    return "".join(map(_shown, " ".join(message.split())))


def _shown(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
