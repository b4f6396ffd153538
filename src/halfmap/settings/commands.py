"""Settings as text: the file and the command that repeat a run."""

from __future__ import annotations

import shlex
from dataclasses import replace

from halfmap import __version__
from halfmap.options import to_command
from halfmap.options import to_toml as options_to_toml
from halfmap.settings.classes2d import Classes2dSettings
from halfmap.settings.classify import ClassifySettings
from halfmap.settings.refine import RefineSettings
from halfmap.settings.regularise import RegulariseSettings
from halfmap.settings.regularisers import package_of
from halfmap.settings.start import StartSettings

RunSettings = RefineSettings | ClassifySettings  # of runs that can be resumed
SharedSettings = StartSettings | Classes2dSettings  # of commands that several processes share, and that go on
Repeated = RunSettings | RegulariseSettings | SharedSettings
NAMES = {RefineSettings: "refine", ClassifySettings: "classify", RegulariseSettings: "regularise",
         StartSettings: "start", Classes2dSettings: "classes2d"}


def to_toml(settings: Repeated) -> str:
    """The text of ``settings.toml``. It is complete, so that the command with ``--settings`` repeats the run."""
    command, package = _command(settings), package_of(getattr(settings, "regulariser", ""))
    whose = f"\n--regulariser {settings.regulariser} is of the package {package}." if package else ""  # type: ignore[union-attr]
    return options_to_toml(settings, f"Settings of {command}, version {__version__}. Repeat it with\n"
                                     f"    {command} --settings settings.toml --out NEW_FOLDER{whose}")


def command_line(settings: Repeated) -> str:
    """The command with these settings, however they were given."""
    return to_command(settings, _command(settings))


def assistant_words(settings: SharedSettings, threads: int) -> list[str]:
    """The words after ``halfmap`` by which another process of the same run begins, with so many threads of its own."""
    return shlex.split(command_line(replace(settings, processes=0, threads=threads)))[1:]


def _command(settings: Repeated) -> str:
    return f"halfmap {NAMES[type(settings)]}"
