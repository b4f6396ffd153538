"""``halfmap classes2d``: two-dimensional class means."""

from __future__ import annotations

from halfmap.commands.done import Done
from halfmap.commands.page import page_writer
from halfmap.options import table
from halfmap.settings.classes2d import Classes2dSettings, validated_classes2d
from halfmap.settings.commands import command_line


def classes2d(settings: Classes2dSettings) -> Done:
    """Find the classes, with their page."""
    checked = validated_classes2d(settings)
    from halfmap.report.pages.classes2d import Classes2dPage, write_classes2d_page
    from halfmap.workflows.classes2d import classes2d as find

    report = page_writer(write_classes2d_page, Classes2dPage, checked.out, settings=table(checked),
                         command=command_line(settings))
    find(checked, report=report)
    return Done(checked.out)
