"""What the commands share: settings from parsed arguments."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from halfmap.options import Settings, build, read_toml
from halfmap.runtime import distributed
from halfmap.settings.regularisers import PLUGS


def settings_file(parser: argparse.ArgumentParser) -> None:
    """Add the option --settings."""
    parser.add_argument("--settings", type=Path, metavar="settings.toml",
                        help="take settings from an earlier run's file; options given here come first")


def chosen(arguments: argparse.Namespace, settings: type[Settings]) -> Settings:
    """The settings from the command line, and those from the file of --settings for what it does not give."""
    earlier = getattr(arguments, "settings", None)
    values = read_toml(settings, earlier) if earlier else {}
    return build(settings, values | _given(arguments, settings))


def _given(arguments: argparse.Namespace, settings: type[Any]) -> dict[str, Any]:
    """The values of the settings that are given on the command line, by name."""
    names = {field.name for field in dataclasses.fields(settings)}
    return {name: value for name, value in vars(arguments).items() if name in names}


def note_broken_plugs() -> None:
    """Say in a line each which regularisers of other packages cannot be used. Nothing else depends on them.

    The first process says it, whichever speaks for the job: who asks that first says why the job ends.
    """
    for broken in PLUGS.broken if distributed.rank() == 0 else ():
        print(f"halfmap: note: {broken.words()}", file=sys.stderr)
