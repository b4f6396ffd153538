"""``halfmap classes2d``: two-dimensional class means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halfmap import __version__
from halfmap.commands.done import Done
from halfmap.options import table
from halfmap.settings.classes2d import Classes2dSettings, validated_classes2d
from halfmap.settings.commands import command_line


def classes2d(settings: Classes2dSettings) -> Done:
    """Find the classes, with their page."""
    checked = validated_classes2d(settings)
    from halfmap.report.pages.classes2d import Classes2dPage, write_classes2d_page
    from halfmap.workflows.classes2d import classes2d as find

    def report(**seen: Any) -> Path:
        """Write report.html. seen: fields of a Classes2dPage, a class that no workflow may import."""
        shown = Classes2dPage(settings=table(checked), version=__version__, command=command_line(settings), **seen)
        return write_classes2d_page(checked.out, shown)

    find(checked, report=report)
    return Done(checked.out)
