"""``halfmap classify``: images sorted by the map that explains them best."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from halfmap.commands.done import Done
from halfmap.commands.page import page_writer
from halfmap.options import table
from halfmap.runtime.terminal import say
from halfmap.settings.classify import ClassifySettings, validated_classify
from halfmap.settings.commands import command_line


def classify(settings: ClassifySettings) -> Done:
    """Find the classes, and write their page now and then."""
    checked = validated_classify(settings)
    from halfmap.refinement.classify import classify as find

    find(checked, report=class_reports(checked, checked.out))
    say(f"Finished: {checked.out / 'report.html'}")
    return Done(checked.out)


def class_reports(settings: ClassifySettings, out: Path) -> Callable[..., Path]:
    """Return the function that writes the page of a classification with these settings into a folder."""
    from halfmap.report.pages.classify import ClassesPage, write_classes_page

    return page_writer(write_classes_page, ClassesPage, out, settings=table(settings), command=command_line(settings))
