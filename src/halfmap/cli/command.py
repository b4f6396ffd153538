"""What the commands share: how one is declared, and settings taken from what was parsed."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfmap.options import Settings, build, read_toml
from halfmap.settings.regularisers import RegulariserOptions


@dataclass(frozen=True)
class Command:
    """One word behind ``halfmap``: what it does in a line, how its options are declared, and what runs it; that may
    return an exit status."""

    summary: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]


def settings_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", type=Path, metavar="settings.toml",
                        help="take settings from an earlier run's file; options given here come first")


def given(arguments: argparse.Namespace, settings: type) -> dict[str, Any]:
    """The settings that stand on the command line."""
    names = {field.name for field in dataclasses.fields(settings)}
    return {name: value for name, value in vars(arguments).items() if name in names}


def chosen(arguments: argparse.Namespace, settings: type[Settings]) -> Settings:
    """The settings of a file, if one was named, under those on the command line."""
    values = read_toml(settings, arguments.settings) if arguments.settings else {}
    return build(settings, values | given(arguments, settings))


def citing() -> str:
    """What to cite for each regulariser, from the setting that chooses one."""
    (choice,) = (field for field in dataclasses.fields(RegulariserOptions) if field.name == "regulariser")
    return str(choice.metadata.get("reference", ""))
