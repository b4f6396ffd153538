"""``halfmap classify``: images sorted by the map that explains them best."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from halfmap import __version__
from halfmap.commands.done import Done
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

    told: dict[str, Any] = {"settings": table(settings), "version": __version__, "command": command_line(settings)}

    def report(**seen: Any) -> Path:
        """Write report.html. seen: fields of a ClassesPage, a class that no workflow may import."""
        return write_classes_page(out, ClassesPage(**told, **seen))

    return report
