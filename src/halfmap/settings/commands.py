"""Settings as text: the file and the command that repeat a run."""

from __future__ import annotations

from halfmap import __version__
from halfmap.options import to_command
from halfmap.options import to_toml as options_to_toml
from halfmap.settings.classify import ClassifySettings
from halfmap.settings.refine import RefineSettings
from halfmap.settings.regularise import RegulariseSettings

RunSettings = RefineSettings | ClassifySettings


def to_toml(settings: RunSettings | RegulariseSettings) -> str:
    """The text of ``settings.toml``. It is complete, so that the command with ``--settings`` repeats the run."""
    command = _command(settings)
    return options_to_toml(settings, f"Settings of {command}, version {__version__}. Repeat it with\n"
                                     f"    {command} --settings settings.toml --out NEW_FOLDER")


def command_line(settings: RunSettings | RegulariseSettings) -> str:
    """The command with these settings, however they were given."""
    return to_command(settings, _command(settings))


def _command(settings: RunSettings | RegulariseSettings) -> str:
    commands = {RefineSettings: "refine", ClassifySettings: "classify", RegulariseSettings: "regularise"}
    return f"halfmap {commands[type(settings)]}"
