"""Pages that are left out where the program has not what they are about."""

import re
from importlib.util import find_spec
from pathlib import Path

from halfmap.cli.program import COMMANDS

_NEEDED = re.compile(r"\A---\nneeds_(command|module|file): *(\S+)\n---\n")


def left_out(text: str, root: Path) -> bool:
    """Whether a page asks in its front matter for a command, a module or a file of the repository that is not there."""
    found = _NEEDED.match(text)
    if not found:
        return False
    kind, name = found.groups()
    if kind == "file":
        return not (root / name).exists()
    return name not in COMMANDS if kind == "command" else find_spec(name) is None
