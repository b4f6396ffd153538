"""``halfmap classify``: images sorted by the map that explains them best."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from halfmap import __version__
from halfmap.cli.command import chosen, note_broken_plugs, settings_file
from halfmap.options import add_options, table
from halfmap.settings.classify import ClassifySettings, validated_classify
from halfmap.settings.commands import command_line


def classify_options(parser: argparse.ArgumentParser) -> None:
    note_broken_plugs()
    settings_file(parser)
    add_options(parser, ClassifySettings)
    parser.usage = ("halfmap classify RUN --classes K --out folder [options]\n"
                    "       halfmap classify particles.star --classes K --map map.mrc [b.mrc ...] --diameter A --out "
                    "folder [options]")


def run_classify(arguments: argparse.Namespace) -> None:
    settings = validated_classify(chosen(arguments, ClassifySettings))
    from halfmap.refinement.classify import classify

    classify(settings, report=class_reports(settings, settings.out))
    print(f"Finished: {settings.out / 'report.html'}")


def class_reports(settings: ClassifySettings, out: Path) -> Callable[..., Path]:
    """Return the function that writes the page of a classification with these settings into a folder."""
    from halfmap.report.pages.classify import ClassesPage, write_classes_page

    told: dict[str, Any] = {"settings": table(settings), "version": __version__, "command": command_line(settings)}

    def report(**seen: Any) -> Path:
        """Write report.html. seen: fields of a ClassesPage, a class that no workflow may import."""
        return write_classes_page(out, ClassesPage(**told, **seen))

    return report
