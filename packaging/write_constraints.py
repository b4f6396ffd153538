"""Writes packaging/constraints.txt: the versions, in this environment, of all that Halfmap needs to run.

Run it where the tests have just passed: `python packaging/write_constraints.py`. With `--compare` it writes nothing and
says how this environment differs from the file. Triton is left out: builds of PyTorch for GPUs pin the one that belongs
to them.
"""

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FILE = Path(__file__).with_name("constraints.txt")
PROJECT = FILE.parents[1] / "pyproject.toml"
LEFT_OUT = {"triton", "setuptools"}  # the latter is there to build, and an isolated build brings its own
HEADING = """\
# Versions that the tests passed with: pip install -c packaging/constraints.txt .
# Written by packaging/write_constraints.py; tests/test_packaging.py holds them against pyproject.toml.
"""


def needed(requirements: list[str]) -> set[str]:
    """The names of the packages that these requirements lead to, as far as they are installed here."""
    found, waiting = set[str](), list(requirements)
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        if name in found or name in LEFT_OUT or not applies(requirement):
            continue
        try:
            waiting += distribution(name).requires or []
        except PackageNotFoundError:
            continue
        found.add(name)
    return found


def applies(requirement: Requirement) -> bool:
    """Whether a requirement holds on this machine, without an extra."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def pinned(requirements: list[str]) -> str:
    """The text of the file. A version's local part (+cpu) says which build it is, and is left out."""
    names = sorted(needed(requirements))
    return HEADING + "".join(f"{name}=={distribution(name).version.partition('+')[0]}\n" for name in names)


if __name__ == "__main__":
    text = pinned(tomllib.loads(PROJECT.read_text())["project"]["dependencies"])
    if sys.argv[1:] == ["--compare"]:
        known, here = (dict(line.split("==") for line in one.splitlines() if "==" in line)
                       for one in (FILE.read_text(), text))
        differing = [f"{name} {known.get(name, 'absent')} -> {here.get(name, 'absent')}"
                     for name in sorted(known | here) if known.get(name) != here.get(name)]
        print("constraints.txt against what is installed:", ", ".join(differing) or "the same")
    else:
        FILE.write_text(text)
        print(text, end="")
